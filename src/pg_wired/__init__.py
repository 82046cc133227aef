"""PostgreSQL's wire protocol for asyncio: many tasks, one connection; values are bytes in and bytes out."""

from .async_conn import AsyncConn
from .cancel import CancelToken
from .connection import WireConn
from .conninfo import ConnConfig
from .error import (
    AuthenticationError,
    ConfigError,
    ConnectionClosed,
    IoError,
    Outcome,
    PgError,
    PgWireError,
    PipelineAborted,
    PoolExhausted,
    ProtocolError,
    RequestTimeout,
    TransactionError,
    UsageError,
)
from .protocol.rows import Rows
from .protocol.types import (
    FieldDescription,
    FormatCode,
    Oid,
    ResponseCollector,
    StatementDescription,
    TransactionStatus,
)
from .tls import TlsMode

PipelineResponse = Rows

__all__ = [
    "AsyncConn",
    "AuthenticationError",
    "CancelToken",
    "ConfigError",
    "ConnConfig",
    "ConnectionClosed",
    "FieldDescription",
    "FormatCode",
    "IoError",
    "Oid",
    "Outcome",
    "PgError",
    "PgWireError",
    "PipelineAborted",
    "PipelineResponse",
    "PoolExhausted",
    "ProtocolError",
    "RequestTimeout",
    "ResponseCollector",
    "Rows",
    "StatementDescription",
    "TlsMode",
    "TransactionError",
    "TransactionStatus",
    "UsageError",
    "WireConn",
]
