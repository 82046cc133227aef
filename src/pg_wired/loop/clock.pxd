cdef class Clock:
    cdef readonly object loop
    cdef readonly object now
