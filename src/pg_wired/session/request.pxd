cimport cython
from ..protocol cimport backend
from ..protocol cimport frontend
from ..protocol cimport octets
from ..protocol cimport rows
from . cimport statements
from . cimport table

cdef class Request:
    cdef public object sink
    cdef public str sql
    cdef public double deadline
    cdef public bytes data
    cdef public tuple params
    cdef public tuple oids
    cdef public bytes param_formats
    cdef public bytes result_formats
    cdef public bint is_unnamed
    cdef public object consumer
    cdef public list parts
    cdef public object unit
    cdef public bint is_window
    cdef public bint is_item
    cdef public bint may_stay_open
    cdef public bint releases_hold
    cdef public bint may_move
    cdef public long long number
    cdef public bint is_skipped
    cdef public long long start
    cdef public statements.Statement statement
    cdef public bint parses
    cdef public bytes script
    cdef public int step
    cdef public int columns
    cdef public tuple param_oids
    cdef public tuple fields
    cdef public list made
    cdef public rows.RowBody body
    cdef public object result
    cdef public list results
    cdef public str tag
    cdef public object error
    cdef public object refusal
    cdef public bint is_description
    cdef public bint discards
    cdef public bint is_bound
    cdef public bint is_repaired
    cdef public bint has_committed

    cpdef become_item(self)
    cpdef allow_move(self)
    @cython.locals(at=Py_ssize_t)
    cdef Py_ssize_t take_rows(self, const unsigned char *p, Py_ssize_t i, Py_ssize_t end, bint is_query) except -1
    @cython.locals(data=bytearray, at=Py_ssize_t)
    cdef Py_ssize_t take_data(self, const unsigned char *p, Py_ssize_t i, Py_ssize_t end) except -1
    cdef look_for_reader(self)
    cpdef end_result(self, str tag)
    cpdef answer(self)

@cython.locals(request=Request)
cpdef Request query_request(object sink, object sql, object params, object param_oids, object param_formats, object result_formats, double deadline)

@cython.locals(request=Request)
cpdef Request simple_query_request(object sink, object sql, double deadline)
