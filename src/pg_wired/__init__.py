"""PostgreSQL's wire protocol for asyncio: many tasks, one connection; values are bytes in and bytes out."""

from .async_conn import AsyncConn
from .async_pool import AsyncPool
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
from .listener import PoolListener
from .notifications import NotificationReceiver
from .pipeline import PgPipeline
from .pool_stats import PoolStats
from .protocol.columnar import Column
from .protocol.notification_queue import ListenerGap, Notification, NotificationGap
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
    "AsyncPool",
    "AuthenticationError",
    "CancelToken",
    "Column",
    "ConfigError",
    "ConnConfig",
    "ConnectionClosed",
    "ExclusiveConn",
    "FieldDescription",
    "FormatCode",
    "IoError",
    "ListenerGap",
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
    "PoolListener",
    "PoolStats",
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
