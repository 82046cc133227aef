cimport cython
from ..session.request cimport Request
from ..session.session cimport Session
from ..loop.transport cimport Transport

cdef class Watchdog:
    cdef object _loop
    cdef object _now
    cdef Session _session
    cdef object _cancel
    cdef Transport _transport
    cdef object _timer
    cdef double _deadline
    cdef object _hooked
    cdef long long _seen
    cdef double _seen_at
    cdef readonly object _task
    cdef readonly bint is_armed

    cpdef arm(self)
    cpdef arm_for(self, double deadline)
    cpdef stop(self)
    cdef _at(self, double when)
    @cython.locals(session=Session, oldest="long long")
    cdef bint _note_slow(self, double now) except -1
    @cython.locals(sole=Request, last=Request)
    cpdef cancel_abandoned(self)
