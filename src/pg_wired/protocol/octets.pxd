# The functions of `octets.py` in C. The caller checks bounds. Rows hold only bytes and None, so they cannot be part of a
# reference cycle. They are removed from the garbage collector's lists: a million tracked tuples cost a fifth of a scan.
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.string cimport memchr, memcmp, memcpy

cdef enum:
    SHORT_LIMIT_BYTES = 30000
    LONG_LIMIT_BYTES = 1073741822
    HIGH_WATER_BYTES = 1048576
    LOW_WATER_BYTES = 524288
    NO_ROWS = -2
    ANY_COUNT = -1

# In a separate enum, because it does not fit an int.
cdef enum:
    NEVER = 4611686018427387904

cdef extern from "Python.h":
    ctypedef struct PyObject
    tuple PyTuple_New(Py_ssize_t)
    void PyTuple_SET_ITEM(object, Py_ssize_t, PyObject *)
    PyObject *new_bytes "PyBytes_FromStringAndSize" (const char *, Py_ssize_t) except NULL
    void PyObject_GC_UnTrack(PyObject *)
    void Py_INCREF(PyObject *)
    PyObject *Py_None
    int PyByteArray_Resize(object, Py_ssize_t) except -1
    char *PyByteArray_AS_STRING(object)
    str PyUnicode_DecodeUTF8(const char *, Py_ssize_t, const char *)
    Py_ssize_t PyByteArray_GET_SIZE(object)
    int PySequence_DelSlice(object, Py_ssize_t, Py_ssize_t) except -1
    ctypedef struct PyTypeObject:
        object tp_alloc(PyTypeObject *, Py_ssize_t)

cdef extern from *:
    """
    /* Since Python 3.14 a tuple caches its hash; -1 means that it is not computed yet. */
    #if PY_VERSION_HEX >= 0x030E0000
    #define forget_hash(tuple) (((PyTupleObject *)(tuple))->ob_hash = -1)
    #else
    #define forget_hash(tuple) ((void)0)
    #endif
    """
    void forget_hash(object)

cdef inline int get_u16(const unsigned char *p, Py_ssize_t i) noexcept nogil:
    return p[i] << 8 | p[i + 1]

cdef inline int get_i32(const unsigned char *p, Py_ssize_t i) noexcept nogil:
    return <int>(<unsigned int>p[i] << 24 | <unsigned int>p[i + 1] << 16 | <unsigned int>p[i + 2] << 8 | p[i + 3])

cdef inline bytes get_bytes(const unsigned char *p, Py_ssize_t i, Py_ssize_t n):
    return PyBytes_FromStringAndSize(<const char *>p + i, n)

cdef inline str get_text(const unsigned char *p, Py_ssize_t i, Py_ssize_t n, const char *errors):
    return PyUnicode_DecodeUTF8(<const char *>p + i, n, errors)

cdef inline Py_ssize_t find_nul(const unsigned char *p, Py_ssize_t i, Py_ssize_t end) noexcept nogil:
    cdef const unsigned char *at = NULL
    if i < end:
        at = <const unsigned char *>memchr(p + i, 0, end - i)
    return at - p if at != NULL else -1

cdef inline bint begins_with(const unsigned char *p, Py_ssize_t n, bytes head) noexcept:
    cdef Py_ssize_t m = PyBytes_GET_SIZE(head)
    return n >= m and memcmp(p, PyBytes_AS_STRING(head), m) == 0

cdef inline unsigned char *grow(bytearray out, Py_ssize_t n) except NULL:
    PyByteArray_Resize(out, PyByteArray_GET_SIZE(out) + n)
    return <unsigned char *>PyByteArray_AS_STRING(out)

cdef inline int drop(bytearray out, Py_ssize_t n) except -1:
    # Usually all bytes are removed. For a part, use Python's deletion: it advances the start of the buffer, and does not
    # move the rest, which may be many megabytes.
    if n == PyByteArray_GET_SIZE(out):
        PyByteArray_Resize(out, 0)
    else:
        PySequence_DelSlice(out, 0, n)
    return 0

cdef inline Py_ssize_t put_i32(unsigned char *q, Py_ssize_t i, int n) noexcept nogil:
    q[i] = <unsigned char>((<unsigned int>n) >> 24)
    q[i + 1] = <unsigned char>((<unsigned int>n) >> 16)
    q[i + 2] = <unsigned char>((<unsigned int>n) >> 8)
    q[i + 3] = <unsigned char>n
    return i + 4

cdef inline Py_ssize_t put_bytes(unsigned char *q, Py_ssize_t i, bytes data) noexcept:
    memcpy(q + i, PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))
    return i + PyBytes_GET_SIZE(data)

cdef inline Py_ssize_t put_part(unsigned char *q, Py_ssize_t i, const unsigned char *p, Py_ssize_t j, Py_ssize_t n) noexcept nogil:
    memcpy(q + i, p + j, n)
    return i + n

cdef inline Py_ssize_t put_short(unsigned char *q, Py_ssize_t i, const unsigned char *p, Py_ssize_t j, Py_ssize_t n) noexcept nogil:
    # The compiler inlines a memcpy of constant length: copy two halves of constant length that overlap.
    if n > 32:
        memcpy(q + i, p + j, n)
    elif n >= 16:
        memcpy(q + i, p + j, 16)
        memcpy(q + i + n - 16, p + j + n - 16, 16)
    elif n >= 8:
        memcpy(q + i, p + j, 8)
        memcpy(q + i + n - 8, p + j + n - 8, 8)
    elif n >= 4:
        memcpy(q + i, p + j, 4)
        memcpy(q + i + n - 4, p + j + n - 4, 4)
    elif n > 0:
        q[i] = p[j]
        q[i + n // 2] = p[j + n // 2]
        q[i + n - 1] = p[j + n - 1]
    return i + n

cdef inline int put_native(unsigned char *q, Py_ssize_t i, int n) noexcept nogil:
    memcpy(q + i, &n, 4)
    return 0

cdef inline long long *longs(bytearray room) noexcept:
    return <long long *>PyByteArray_AS_STRING(room)

cdef inline tuple new_row(Py_ssize_t columns):
    return PyTuple_New(columns)

cdef inline int set_cell(tuple row, Py_ssize_t column, const unsigned char *p, Py_ssize_t i, Py_ssize_t n) except -1:
    if n < 0:
        Py_INCREF(Py_None)
        PyTuple_SET_ITEM(row, column, Py_None)
    else:
        PyTuple_SET_ITEM(row, column, new_bytes(<const char *>p + i, n))
    return 0

cdef inline tuple seal(tuple row):
    PyObject_GC_UnTrack(<PyObject *>row)
    return row

cdef inline object new_record(object cls, object first, object second, object third):
    # The same as tuple.__new__ for a subclass, but without making a temporary tuple and copying it.
    cdef PyTypeObject *made = <PyTypeObject *>cls
    record = made.tp_alloc(made, 3)
    forget_hash(record)
    Py_INCREF(<PyObject *>first)
    PyTuple_SET_ITEM(record, 0, <PyObject *>first)
    Py_INCREF(<PyObject *>second)
    PyTuple_SET_ITEM(record, 1, <PyObject *>second)
    Py_INCREF(<PyObject *>third)
    PyTuple_SET_ITEM(record, 2, <PyObject *>third)
    return record
