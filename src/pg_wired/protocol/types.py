"""Enumerations and type aliases that are part of the public interface."""

from __future__ import annotations

from enum import Enum, IntEnum
from typing import TypeAlias

Oid: TypeAlias = int
Row: TypeAlias = tuple[bytes | None, ...]
Value: TypeAlias = bytes | bytearray | memoryview | str | None


class FormatCode(IntEnum):
    """The format of a parameter or of a result column.

    TEXT is the text form of the type, as psql shows it. BINARY is its binary form, which depends on the type. Source:
    protocol chapter, "Formats and Format Codes".
    """

    TEXT = 0
    BINARY = 1


class TransactionStatus(Enum):
    """The transaction status of a connection, from the last ReadyForQuery.

    IDLE means that no transaction is open. IN_TRANSACTION means that one is open, and FAILED that the open one has
    failed, so that the server rejects all statements until it is rolled back.
    """

    IDLE = "I"
    IN_TRANSACTION = "T"
    FAILED = "E"


class ResponseCollector(IntEnum):
    """How the answer to a request is taken.

    - ROWS: the answer is the Rows of the last result.
    - DRAIN: the same, but the rows are discarded.
    - STREAM, COPY_IN and COPY_OUT name how `stream`, `copy_in` and `copy_out` take their answers.
    - COPY_BOTH is not built yet.

    `submit` and `submit_batch` of a shared connection accept ROWS and DRAIN, and raise ConfigError for the others.
    """

    ROWS = 0
    DRAIN = 1
    STREAM = 2
    COPY_IN = 3
    COPY_OUT = 4
    COPY_BOTH = 5
