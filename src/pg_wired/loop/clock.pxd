cdef class Clock:
    cdef public object loop
