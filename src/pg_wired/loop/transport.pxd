cimport cython
from . cimport syscalls
from .owner cimport Owner
from ..protocol.buffers cimport Buffers

cdef class Transport:
    cdef readonly object loop
    cdef readonly object closed
    cdef readonly object _sock
    cdef int _fd
    cdef readonly Owner owner
    cdef readonly long long writes
    cdef readonly long long bytes_in
    cdef Buffers _buffers
    cdef bytearray _buffer
    cdef object _view
    cdef bint _is_tls
    cdef bint _is_plain
    cdef object _tls
    cdef bytes _slice
    cdef readonly bint _is_paused
    cdef bint _reads_soon
    cdef object _end_check
    cdef bint _is_writing
    cdef bint _is_flushing
    cdef bint _writes_after_read
    cdef object _write_error
    cdef object _drained
    cdef object _readable

    cpdef check_owner(self)
    @cython.locals(waiting=Py_ssize_t)
    cdef Py_ssize_t _pending(self) except -1
    cpdef flush_soon(self)
    cpdef flush(self)
    cpdef _flush_last(self)
    @cython.locals(n=Py_ssize_t, buffers=Buffers, error=object)
    cdef _write(self)
    @cython.locals(n=Py_ssize_t)
    cdef _send_slices(self, Buffers buffers)
    cdef _want_write(self)
    cdef _stop_writing(self)
    @cython.locals(view=object, n=Py_ssize_t)
    cdef Py_ssize_t _receive(self, Buffers buffers) except -2
    @cython.locals(n=Py_ssize_t, buffers=Buffers, error=object)
    cdef Py_ssize_t _read(self) except -1
    cpdef _read_once(self)
    @cython.locals(total=Py_ssize_t, n=Py_ssize_t, space=Py_ssize_t)
    cpdef _read_on(self)
    cdef _check_for_end(self)
    cpdef _read_soon(self)
    cdef _end(self, cause)
    cdef _close(self)
