cimport cython
from . cimport octets

@cython.locals(size="long long *", null="long long *", i=Py_ssize_t, row=Py_ssize_t, count=int, column=int, n=Py_ssize_t)
cpdef measure(const unsigned char *p, Py_ssize_t rows, int width, bytearray sizes, bytearray nulls)

@cython.locals(
    q="unsigned char *", begin="long long *", moved=bytearray, ends="long long *", i=Py_ssize_t, row=Py_ssize_t, column=int,
    n=Py_ssize_t, at=Py_ssize_t, byte=Py_ssize_t, bit=int
)
cpdef fill(const unsigned char *p, Py_ssize_t rows, int width, bytearray room, bytearray begins)
