cimport cython
from . cimport octets

cdef class Buffers:
    cdef readonly Py_ssize_t least
    cdef public bytearray buffer
    cdef public Py_ssize_t tail
    cdef public bytearray out
    cdef public long long handed
    cdef public object failure
    cdef public bint is_complete

    cpdef received(self, Py_ssize_t n)
    @cython.locals(size=Py_ssize_t, n=Py_ssize_t, whole=Py_ssize_t, more=Py_ssize_t)
    cpdef keep(self, Py_ssize_t i, Py_ssize_t end)
    cpdef append(self, object data)
    cpdef sent(self, Py_ssize_t n)
    cpdef lost(self, object cause)
