"""Plain types that callers see."""

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
