cimport cython
from . cimport extended_query, notification_queue, octets, requests, statements
from .receiver cimport Receiver

cdef class Session(Receiver):
    cdef public dict parameters
    cdef public dict first_parameters
    cdef public statements.StatementCache statements
    cdef public Py_ssize_t max_in_flight
    cdef public long long encoded
    cdef public long long numbers
    cdef public int holds
    cdef public object pending
    cdef public object inflight
    cdef public requests.Request nobody
    cdef public requests.Request head
    cdef public object window
    cdef public long long groups
    cdef public bint is_in_group
    cdef public list group
    cdef public bint is_skipping
    cdef public object foreign
    cdef public requests.Request rollback
    cdef public bytes actions
    cdef public bytes next_states
    cdef public int state
    cdef public int status
    cdef public notification_queue.NotificationQueue notifications
    cdef public object on_notice
    cdef public object keeper
    cdef public bint must_write
    cdef public long long slow
    cdef public object last_words
    cdef public str retired
    cdef public bint is_terminated
    cdef public bint is_ours

    cpdef submit(self, requests.Request request)
    cpdef submit_inside(self, object window, requests.Request request)
    cdef bint has_room(self) except -1
    @cython.locals(request=requests.Request, queue=object, window=object)
    cpdef pump(self)
    @cython.locals(n=Py_ssize_t, part=requests.Request, begin="long long")
    cpdef encode(self, requests.Request request)
    @cython.locals(before=Py_ssize_t)
    cpdef sent(self, Py_ssize_t n)
    cpdef append(self, bytes data)
    cpdef lost(self, object cause)
    @cython.locals(error=object, was_idle=bint)
    cpdef received(self, Py_ssize_t n)
    @cython.locals(p="const unsigned char *", i=Py_ssize_t, cell=int, action=int, at=Py_ssize_t, stop=Py_ssize_t)
    cdef Py_ssize_t take(self, Py_ssize_t end) except -1
    @cython.locals(p="const unsigned char *", tag=str, request=requests.Request, is_empty=bint)
    cdef take_tag(self, Py_ssize_t i, Py_ssize_t stop)
    @cython.locals(request=requests.Request)
    cdef acknowledged(self)
    cdef next_head(self)
    @cython.locals(request=requests.Request)
    cdef advance(self, int target)
    @cython.locals(request=requests.Request)
    cdef ready(self, int status)
