cimport cython
from ..protocol cimport octets

cdef class NotificationQueue:
    cdef object _records
    cdef object _record
    cdef public Py_ssize_t capacity
    cdef public str drop
    cdef public long long received
    cdef public long long delivered
    cdef public long long dropped
    cdef public object waiter
    cdef object _items
    cdef object _next
    cdef Py_ssize_t _queued
    cdef bytes _head
    cdef object _pid
    cdef str _channel

    @cython.locals(n=Py_ssize_t, i=Py_ssize_t)
    cpdef arrived(self, bytes body)
    cdef _put(self, bytes body)
    @cython.locals(first=object, last=object, gap=object)
    cdef _leave_gap(self, bytes body)
    @cython.locals(item=object)
    cpdef reconnected(self, object gap, NotificationQueue early)
    @cython.locals(last=object)
    cpdef _mark(self, object gap)
    @cython.locals(item=object, body=bytes, n=Py_ssize_t, i=Py_ssize_t, payload=str, notification=object)
    cpdef take(self)
    @cython.locals(i=Py_ssize_t)
    cdef _look_at_head(self, bytes body)
    cpdef wake(self)
