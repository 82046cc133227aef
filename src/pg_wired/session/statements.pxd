cimport cython
from ..protocol cimport frontend

cdef class Statement:
    cdef public object key
    cdef public str name
    cdef public str sql
    cdef public tuple given_oids
    cdef public long long number
    cdef public long long group
    cdef public bint is_safe
    cdef public bint is_parsed
    cdef public bint has_failed
    cdef public bint is_described
    cdef public bint is_stable
    cdef public tuple param_oids
    cdef public tuple fields
    cdef public int columns
    cdef public Py_ssize_t count
    cdef public bytes param_formats
    cdef public bytes result_formats
    cdef public bytes head
    cdef public tuple shown

    cpdef shape(self, bytes param_formats, bytes result_formats, Py_ssize_t count)
    cpdef describe(self, tuple param_oids, tuple fields, int columns)

cdef class StatementCache:
    cdef public Py_ssize_t capacity
    cdef public object entries
    cdef public dict keys
    cdef public Statement latest
    cdef public list closing

    @cython.locals(key=object, statement=Statement)
    cpdef Statement find(self, str sql, tuple param_oids)
    @cython.locals(name=str, statement=Statement)
    cdef Statement _add(self, object key, str sql, tuple param_oids)
    cpdef Statement unnamed(self, str sql, tuple param_oids)
