cimport cython
from ..loop.clock cimport Clock
from ..loop.transport cimport Transport
from .watchdog cimport Watchdog
from ..session.session cimport Session
from ..session.request cimport Request

cdef class Core(Clock):
    cdef readonly object wire
    cdef readonly Session session
    cdef readonly Transport transport
    cdef readonly Watchdog watchdog
    cdef bint _gathers
    cdef readonly set channels
    cdef readonly double born
    cdef public bint is_broken
    cdef public bint is_set_up
    cdef readonly set tasks

    @cython.locals(transport=Transport, session=Session)
    cpdef submit(self, Request request)
    cpdef submit_inside(self, object window, Request request)
    @cython.locals(session=Session, n=Py_ssize_t)
    cdef _look_for_abandoned(self)
    @cython.locals(watchdog=Watchdog, at_once=bint)
    cdef _send(self, Request request)
