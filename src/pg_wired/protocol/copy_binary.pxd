cimport cython
from . cimport octets

@cython.locals(values=tuple, count=Py_ssize_t, n=Py_ssize_t, i=Py_ssize_t, q="unsigned char *", value=object)
cpdef int append_row(bytearray out, object row) except -1

cdef class RowDecoder:
    cdef public list pieces
    cdef public Py_ssize_t size
    cdef public Py_ssize_t need
    cdef public bint has_header
    cdef public bint has_trailer

    @cython.locals(rows=list, i=Py_ssize_t)
    cpdef list feed(self, bytes data)
    @cython.locals(n=Py_ssize_t)
    cpdef Py_ssize_t header(self, bytes data) except -1
    @cython.locals(count=int, at=Py_ssize_t, row=tuple, column=int, n=Py_ssize_t)
    cdef Py_ssize_t rows(self, const unsigned char *p, Py_ssize_t i, Py_ssize_t end, list rows) except -1
