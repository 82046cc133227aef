"""PostgreSQL's wire protocol for asyncio: many tasks, one connection; values are bytes in and bytes out."""

import importlib
import typing

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

if typing.TYPE_CHECKING:
    from .async_pool import AsyncPool
    from .listener import PoolListener
    from .pool_stats import PoolStats

PipelineResponse = Rows

# A pool has many rooms, and not everybody wants one: they are opened with its first use.
_POOL = {"AsyncPool": "async_pool", "PoolListener": "listener", "PoolStats": "pool_stats"}


def __getattr__(name: str) -> typing.Any:
    if name not in _POOL:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_POOL[name]}", __name__), name)


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
