cimport cython
from . cimport requests

cdef class Transaction:
    cdef readonly object setup_sql
    cdef readonly requests.Request query
    cdef readonly requests.Request whole
    cdef readonly requests.Request begin
    cdef readonly requests.Request setup
    cdef readonly requests.Request guard
    cdef readonly requests.Request commit
    cdef bint _is_open

    @cython.locals(part=requests.Request)
    cpdef compose(self)
    @cython.locals(error=object)
    cpdef settle(self, object session, requests.Request part, list group)
    @cython.locals(failed=object)
    cdef bint _was_stale(self, object session) except -1
    cdef bint _is_rolled_back(self) except -1
    @cython.locals(part=requests.Request, outcome=object, ended=object)
    cdef object _error(self)
