cimport cython
from .request cimport Request

@cython.locals(unit=object, part=Request)
cpdef Request sole(object inflight)
