cdef class Queries:
    cdef object _carrier
    cdef readonly object _submit
    cdef readonly object _new_lease
    cdef object _new_reply
