cimport cython
from . cimport octets

@cython.locals(taken=tuple, total=Py_ssize_t, plain=bint, value=object, encoded=list)
cpdef tuple values(object params)

@cython.locals(error=object, n=Py_ssize_t)
cpdef str text(object sql, str what)

@cython.locals(body=bytes, out=bytearray, q="unsigned char *")
cpdef bytes query(str sql)

@cython.locals(n=Py_ssize_t, i=Py_ssize_t, q="unsigned char *", value=bytes)
cpdef int bind(bytearray out, bytes head, tuple params, bytes result_formats, bytes tail) except -1

@cython.locals(i=Py_ssize_t, n=Py_ssize_t, q="unsigned char *")
cpdef copy_data(bytearray out, object data)
