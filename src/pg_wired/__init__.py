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
from .exclusive import ExclusiveConn
from .notifications import NotificationReceiver
from .pipeline import PgPipeline
from .protocol.notification_queue import Notification, NotificationGap
from .protocol.rows import Rows
from .protocol.types import (
    FieldDescription,
    FormatCode,
    Oid,
    ResponseCollector,
    StatementDescription,
    TransactionStatus,
)
from .row_stream import RowStream
from .tls import TlsConfig, TlsMode

PipelineResponse = Rows

__all__ = [
    "AsyncConn",
    "AuthenticationError",
    "CancelToken",
    "ConfigError",
    "ConnConfig",
    "ConnectionClosed",
    "ExclusiveConn",
    "FieldDescription",
    "FormatCode",
    "IoError",
    "Notification",
    "NotificationGap",
    "NotificationReceiver",
    "Oid",
    "Outcome",
    "PgError",
    "PgPipeline",
    "PgWireError",
    "PipelineAborted",
    "PipelineResponse",
    "PoolExhausted",
    "ProtocolError",
    "RequestTimeout",
    "ResponseCollector",
    "RowStream",
    "Rows",
    "StatementDescription",
    "TlsConfig",
    "TlsMode",
    "TransactionError",
    "TransactionStatus",
    "UsageError",
    "WireConn",
]
