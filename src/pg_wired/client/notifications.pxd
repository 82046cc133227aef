from ..session.notification_queue cimport NotificationQueue

cdef class QueueReader:
    cdef object __weakref__
    cdef readonly NotificationQueue _queue

cdef class NotificationReceiver(QueueReader):
    cdef object _core
    cdef object _session
