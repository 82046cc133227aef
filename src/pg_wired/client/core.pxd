cimport cython
from .watchdog cimport Watchdog
from ..loop.clock cimport Clock
from ..loop.transport cimport Transport
from ..session.request cimport Request
from ..session.session cimport Session

cdef class Core:
    cdef readonly object runtime
    cdef readonly Transport transport
    cdef readonly object loop
    cdef readonly Clock clock
    cdef readonly object deadline
    cdef readonly str address
    cdef readonly object pid
    cdef object _token
    cdef readonly Session session
    cdef readonly Watchdog watchdog
    cdef bint _gathers
    cdef readonly set channels
    cdef readonly double born
    cdef readonly bint is_marked_broken
    cdef readonly bint is_set_up
    cdef readonly set cleanups

    @cython.locals(transport=Transport, session=Session)
    cpdef submit(self, Request request)
    cpdef submit_inside(self, object window, Request request)
    @cython.locals(session=Session, n=Py_ssize_t)
    cdef _cancel_abandoned(self)
    @cython.locals(watchdog=Watchdog, at_once=bint)
    cdef _send(self, Request request)
