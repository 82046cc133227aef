from .core cimport Core
from ..session.request cimport Request

cdef class Lease:
    cdef public Core _core
    cdef public object deadline
    cdef public str name
    cdef public object clean
    cdef public object loop
    cdef public bint is_state_mutated
    cdef bint _has_state
    cdef public object _window
    cdef public object _cleaning
    cdef public bint is_abandoned
    cdef public Lease inner
    cdef public list held
    cdef public set cancels

    cpdef submit(self, Request request)
