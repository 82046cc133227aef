cimport cython

cdef class Owner:
    cdef object _loop
    cdef str _what
    cdef long _forks

    @cython.locals(loop=object)
    cpdef check(self)
    cpdef check_thread(self)
    cpdef run(self, object end)
    cdef bint _is_elsewhere(self) except -1
