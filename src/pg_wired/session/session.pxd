cimport cython
from . cimport deadlines
from . cimport extended_query
from . cimport outcomes
from ..protocol cimport frontend
from . cimport notification_queue
from ..protocol cimport octets
from .request cimport Request
from . cimport table
from ..protocol.buffers cimport Buffers
from .statements cimport StatementCache

cdef class Session(Buffers):
    cdef readonly dict parameters
    cdef readonly dict first_parameters
    cdef readonly StatementCache statements
    cdef readonly Py_ssize_t max_in_flight
    cdef readonly long long encoded
    cdef readonly long long numbers
    cdef readonly int holds
    cdef readonly object pending
    cdef readonly object inflight
    cdef readonly Request no_request
    cdef readonly Request head
    cdef readonly object window
    cdef readonly long long groups
    cdef readonly bint is_in_group
    cdef readonly list group
    cdef readonly bint is_skipping
    cdef readonly object foreign
    cdef readonly Request rollback
    cdef readonly bytes actions
    cdef readonly bytes next_states
    cdef readonly int state
    cdef readonly int status
    cdef readonly notification_queue.NotificationQueue notifications
    cdef readonly object notice_handler
    cdef readonly object supervisor
    cdef readonly list answered_sinks
    cdef readonly bint must_write
    cdef readonly long long slow
    cdef readonly object last_words
    cdef readonly object reason
    cdef readonly str reason_text
    cdef readonly bint is_terminated
    cdef readonly bint is_closed_by_client

    cpdef submit(self, Request request)
    cpdef submit_inside(self, object window, Request request)
    cdef bint has_room(self) except -1
    @cython.locals(request=Request, queue=object, window=object, error=object)
    cpdef pump(self)
    @cython.locals(size=Py_ssize_t, encoded="long long", groups="long long", is_in_group=bint, closing=list,
                   count=Py_ssize_t, part=Request)
    cpdef encode(self, Request request)
    @cython.locals(n=Py_ssize_t)
    cdef _append_request(self, Request request)
    @cython.locals(part=Request)
    cdef _take_back(self, Request request, Py_ssize_t count)
    @cython.locals(before=Py_ssize_t)
    cpdef sent(self, Py_ssize_t n)
    cpdef append(self, object data)
    @cython.locals(n=Py_ssize_t)
    cpdef send_copy_data(self, object data)
    @cython.locals(error=object, waiting=list)
    cpdef lost(self, object cause)
    @cython.locals(error=object, was_idle=bint)
    cpdef received(self, Py_ssize_t n)
    @cython.locals(p="const unsigned char *", i=Py_ssize_t, cell=int, action=int, at=Py_ssize_t, stop=Py_ssize_t)
    cdef Py_ssize_t take(self, Py_ssize_t end) except -1
    @cython.locals(p="const unsigned char *", tag=str, request=Request, is_empty=bint)
    cdef take_tag(self, Py_ssize_t i, Py_ssize_t stop)
    @cython.locals(request=Request)
    cdef acknowledged(self)
    cdef next_head(self)
    @cython.locals(request=Request)
    cdef advance(self, int target)
    @cython.locals(request=Request)
    cdef ready(self, int status)
    @cython.locals(group=list, is_idle=bint, each=Request)
    cdef _settle(self, Request request, int status)
    cpdef Request sole(self)

@cython.locals(best=Py_ssize_t, least="long long", load="long long", i=Py_ssize_t, session=Session)
cpdef Py_ssize_t choose(list sessions) except -1
