cimport cython
from . cimport session

@cython.locals(best=Py_ssize_t, least="long long", load="long long", i=Py_ssize_t, session=session.Session)
cpdef Py_ssize_t choose(list sessions) except -1
