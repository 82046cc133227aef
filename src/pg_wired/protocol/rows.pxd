cimport cython
from . cimport backend
from . cimport octets

cdef class RowBody:
    cdef public bytearray data
    cdef public Py_ssize_t count
    cdef bytearray _starts

    @cython.locals(n=Py_ssize_t, q="unsigned char *")
    cpdef append(self, const unsigned char *p, Py_ssize_t i, Py_ssize_t end)
    @cython.locals(starts="long long *", made=list)
    cpdef tuple row(self, Py_ssize_t number)
    @cython.locals(found=bytearray, starts="long long *", p="const unsigned char *", i=Py_ssize_t, number=Py_ssize_t)
    cdef bytearray _index(self)

cdef class RowStore:
    cdef readonly tuple fields
    cdef readonly str command_tag
    cdef list _rows
    cdef RowBody _body
