cimport cython
from . cimport octets

cdef class NotificationQueue:
    cdef public Py_ssize_t capacity
    cdef public str drop
    cdef public long long received
    cdef public long long delivered
    cdef public long long dropped
    cdef public object waiter
    cdef object _items
    cdef Py_ssize_t _queued

    @cython.locals(n=Py_ssize_t, i=Py_ssize_t, channel=str, payload=str)
    cpdef arrived(self, bytes body)
    cpdef put(self, object notification)
    @cython.locals(first=object, last=object, gap=object)
    cpdef _leave_gap(self, object notification)
    @cython.locals(last=object)
    cpdef reconnected(self, object gap)
    @cython.locals(item=object)
    cpdef take(self)
    cpdef wake(self)
