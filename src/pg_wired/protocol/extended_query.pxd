cimport cython
from . cimport frontend, requests, statements

@cython.locals(statement=statements.Statement, tail=bytes, closing=bytes)
cpdef append(bytearray out, requests.Request request, statements.StatementCache cache, long long group, bint is_in_group)
