cimport cython

cdef class Owner:
    cdef object _loop
    cdef str _what
    cdef long _forks

    @cython.locals(loop=object)
    cpdef check(self)
