# The numbers of THE TABLE as C constants.
cdef enum:
    NOTIFICATION = 2
    NEXT = 4
    ROW = 8
    TAG = 9
    READY = 16
    DATA = 19
    STAY = 253
    STEP = 254
    END = 255
    BIND = 4
    PARSE = 1
    QUERY = 7
    EXECUTE = 5
    STATUS_IDLE = 73
