from . cimport octets

cdef class Receiver:
    cdef public bytearray buffer
    cdef public Py_ssize_t tail
    cdef public bytearray out
    cdef public long long handed
    cdef public object failure
    cdef public bint is_complete

    cpdef received(self, Py_ssize_t n)
    cpdef sent(self, Py_ssize_t n)
    cpdef lost(self, object cause)
