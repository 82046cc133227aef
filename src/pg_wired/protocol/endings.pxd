cimport cython
from . cimport requests

@cython.locals(group=list, each=requests.Request)
cpdef settle(object session, requests.Request request, int status)
cdef _end(requests.Request request)
