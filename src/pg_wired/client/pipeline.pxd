from ..session.request cimport Request
from .lease cimport Lease

cdef class ItemReply:
    cdef PgPipeline _pipeline
    cdef long long _group
    cdef object _reply
    cdef object _result
    cdef bint _has_result

    cdef object _future(self)
    cpdef bint done(self) except -1
    cpdef set_result(self, object result)
    cpdef set_exception(self, object exception)

cdef class PgPipeline:
    cdef object __weakref__
    cdef object _wire
    cdef Lease _lease
    cdef object _acquire_timeout
    cdef readonly object _loop
    cdef Py_ssize_t _queued
    cdef readonly long long _groups
    cdef public bint _has_shared_failure
    cdef bint _has_deadline
    cdef bint _has_timed_out
    cdef object _waiter

    cdef _item_timed_out(self)
    cdef _queue(self, Request request)
