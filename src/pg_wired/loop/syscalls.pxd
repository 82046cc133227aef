# The calls keep the GIL: they never block, and releasing it would take longer than most of them. They create no object
# for a part of the buffer, and no exception when there is nothing to receive.
cdef extern from *:
    """
    #include <errno.h>
    #include <sys/socket.h>
    #ifndef MSG_NOSIGNAL
    #define MSG_NOSIGNAL 0  /* Python ignores SIGPIPE, but a program may change that */
    #endif

    static Py_ssize_t done(Py_ssize_t n) {
        if (n >= 0 || errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR) return n;
        PyErr_SetFromErrno(PyExc_OSError);
        return -2;
    }
    static Py_ssize_t c_receive(int fd, PyObject *buffer, Py_ssize_t at) {
        return done(recv(fd, PyByteArray_AS_STRING(buffer) + at, PyByteArray_GET_SIZE(buffer) - at, 0));
    }
    static Py_ssize_t c_send(int fd, PyObject *data) {
        return done(send(fd, PyByteArray_AS_STRING(data), PyByteArray_GET_SIZE(data), MSG_NOSIGNAL));
    }
    """
    Py_ssize_t c_receive(int, object, Py_ssize_t) except -2
    Py_ssize_t c_send(int, object) except -2

cdef inline Py_ssize_t receive(object sock, int fd, bytearray buffer, Py_ssize_t at) except -2:
    return c_receive(fd, buffer, at)

cdef inline Py_ssize_t send(object sock, int fd, bytearray data) except -2:
    return c_send(fd, data)
