cimport cython
from . cimport octets

@cython.locals(stop=Py_ssize_t, count=int, _=int, n=Py_ssize_t)
cpdef Py_ssize_t check(const unsigned char *p, Py_ssize_t i, Py_ssize_t end, int columns) except -1

@cython.locals(count=int, column=int, n=Py_ssize_t, row=tuple)
cpdef Py_ssize_t make(const unsigned char *p, Py_ssize_t i, Py_ssize_t end, Py_ssize_t limit, list out) except -1

@cython.locals(n=Py_ssize_t)
cpdef Py_ssize_t count(const unsigned char *p, Py_ssize_t i, Py_ssize_t end) except -1

@cython.locals(at=Py_ssize_t, total=Py_ssize_t, stop=Py_ssize_t, j=Py_ssize_t, q="unsigned char *", n=Py_ssize_t)
cpdef Py_ssize_t data(const unsigned char *p, Py_ssize_t i, Py_ssize_t end, bytearray out) except -1
