from .core cimport Core
from ..session.request cimport Request

cdef class Lease:
    cdef public Core _core
    cdef readonly object loop
    cdef readonly object deadline
    cdef readonly str name
    cdef readonly bint is_state_mutated
    cdef bint _has_state
    cdef public object _clean
    cdef public object _window
    cdef public object _cleaning
    cdef public bint _is_abandoned
    cdef public Lease _inner
    cdef public list _held
    cdef readonly set cancels

    cpdef submit(self, Request request)
    cpdef hand_to(self, Lease successor)
