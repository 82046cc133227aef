cdef class ItemReply:
    cdef object _pipeline
    cdef long long _group
    cdef object _reply
    cdef object _result
    cdef bint _has_result

    cdef object _future(self)
    cpdef bint done(self) except -1
    cpdef set_result(self, object result)
    cpdef set_exception(self, object exception)
