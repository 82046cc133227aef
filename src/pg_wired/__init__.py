"""PostgreSQL's wire protocol for asyncio: many tasks, one connection; values are bytes in and bytes out."""

import importlib
import typing

from .client.async_conn import AsyncConn
from .errors import (
    AuthenticationError,
    ConfigError,
    ConnectionClosed,
    IoError,
    Outcome,
    PgWireError,
    PipelineAborted,
    PoolExhausted,
    ProtocolError,
    RequestTimeout,
    TransactionError,
    UsageError,
)
from .protocol.rows import Rows
from .protocol.server_error import PgError
from .protocol.types import FormatCode, Oid, ResponseCollector, TransactionStatus

if typing.TYPE_CHECKING:
    from .client.copy_out import CopyOut
    from .client.exclusive import ExclusiveConn
    from .client.notifications import NotificationReceiver
    from .client.pipeline import PgPipeline, PipelineItem
    from .client.portal import Portal
    from .client.row_stream import RowStream
    from .config.config import ConnConfig
    from .config.hosts import HostConfig
    from .config.tls import TlsConfig, TlsMode
    from .connect.cancel import CancelToken
    from .connect.wire_conn import WireConn
    from .pool.async_pool import AsyncPool, PoolStats
    from .pool.listener import PoolListener
    from .protocol.columns import Column
    from .protocol.records import FieldDescription, ListenerGap, Notification, NotificationGap, StatementDescription

__version__ = "0.1.0"

PipelineResponse = Rows

# Names that not every program needs are loaded with their first use.
_LATER = {
    "AsyncPool": "pool.async_pool",
    "CancelToken": "connect.cancel",
    "Column": "protocol.columns",
    "ConnConfig": "config.config",
    "CopyOut": "client.copy_out",
    "ExclusiveConn": "client.exclusive",
    "FieldDescription": "protocol.records",
    "HostConfig": "config.hosts",
    "ListenerGap": "protocol.records",
    "Notification": "protocol.records",
    "NotificationGap": "protocol.records",
    "NotificationReceiver": "client.notifications",
    "PgPipeline": "client.pipeline",
    "PipelineItem": "client.pipeline",
    "PoolListener": "pool.listener",
    "Portal": "client.portal",
    "PoolStats": "pool.async_pool",
    "RowStream": "client.row_stream",
    "StatementDescription": "protocol.records",
    "TlsConfig": "config.tls",
    "TlsMode": "config.tls",
    "WireConn": "connect.wire_conn",
}


def __getattr__(name: str) -> typing.Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return globals().setdefault(name, getattr(importlib.import_module(f".{_LATER[name]}", __name__), name))


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


__all__ = [
    "AsyncConn",
    "AsyncPool",
    "AuthenticationError",
    "CancelToken",
    "Column",
    "ConfigError",
    "ConnConfig",
    "ConnectionClosed",
    "CopyOut",
    "ExclusiveConn",
    "FieldDescription",
    "FormatCode",
    "HostConfig",
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
    "PipelineItem",
    "PipelineResponse",
    "PoolExhausted",
    "PoolListener",
    "PoolStats",
    "Portal",
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
