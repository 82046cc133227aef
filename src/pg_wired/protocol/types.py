"""Plain types, and the limits of a message's length."""

from __future__ import annotations

from enum import Enum, IntEnum
from typing import TypeAlias

Oid: TypeAlias = int
Row: TypeAlias = tuple[bytes | None, ...]
Value: TypeAlias = bytes | bytearray | memoryview | str | None


class FormatCode(IntEnum):
    """How a value is written: as text, or in the type's binary form."""

    TEXT = 0
    BINARY = 1


class TransactionStatus(Enum):
    """ReadyForQuery's status byte."""

    IDLE = "I"
    IN_TRANSACTION = "T"
    FAILED = "E"


class ResponseCollector(IntEnum):
    """How an answer is taken."""

    ROWS = 0
    DRAIN = 1
    STREAM = 2
    COPY_IN = 3
    COPY_OUT = 4
    COPY_BOTH = 5


# libpq's rule (fe-protocol3.c, VALID_LONG_MESSAGE_TYPE): only these may be longer than 30,000 bytes, and `t`, which
# 65,535 parameters make 262,146 bytes long.
LONG_MESSAGES = "TDdENAt"
SHORT_LIMIT_BYTES = 30_000
# PostgreSQL's own limit of a message (PQ_LARGE_MESSAGE_LIMIT, MaxAllocSize - 1).
LONG_LIMIT_BYTES = 0x3FFFFFFE
