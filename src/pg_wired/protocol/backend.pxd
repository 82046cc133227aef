cimport cython
from . cimport octets

@cython.locals(stop=Py_ssize_t, count=int, column=int, n=Py_ssize_t, row=tuple)
cpdef Py_ssize_t rows(const unsigned char *p, Py_ssize_t i, Py_ssize_t end, int columns, list out) except -1

@cython.locals(at=Py_ssize_t, total=Py_ssize_t, stop=Py_ssize_t, j=Py_ssize_t, q="unsigned char *", n=Py_ssize_t)
cpdef Py_ssize_t data(const unsigned char *p, Py_ssize_t i, Py_ssize_t end, bytearray out) except -1
