cimport cython
from .request cimport Request
from .statements cimport Statement, StatementCache

@cython.locals(error=object)
cpdef end(Request request)
@cython.locals(statement=Statement)
cpdef bint drop_stale(StatementCache cache, Request query) except -1
@cython.locals(statement=Statement, error=object)
cdef bint _is_stale(Request query) except -1
