cimport cython
from .request cimport Request

cdef class Transaction:
    cdef readonly object setup_sql
    cdef readonly Request query
    cdef readonly Request whole
    cdef readonly Request begin
    cdef readonly Request setup
    cdef readonly Request guard
    cdef readonly Request commit
    cdef bint _is_open

    @cython.locals(part=Request)
    cpdef compose(self)
    @cython.locals(error=object)
    cpdef settle(self, object session, Request part, list group)
    @cython.locals(failed=object)
    cdef bint _was_stale(self, object session) except -1
    cdef bint _is_rolled_back(self) except -1
    @cython.locals(part=Request, outcome=object, ended=object)
    cdef object _error(self)
