cimport cython
from ..protocol cimport frontend
from .request cimport Request
from . cimport statements

@cython.locals(statement=statements.Statement, tail=bytes, closing=bytes)
cpdef append(bytearray out, Request request, statements.StatementCache cache, long long group, bint is_in_group)
