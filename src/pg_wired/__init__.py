"""PostgreSQL's wire protocol for asyncio: many tasks, one connection; values are bytes in and bytes out."""

import importlib
import typing

from .async_conn import AsyncConn
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
    FormatCode,
    Oid,
    ResponseCollector,
    TransactionStatus,
)

if typing.TYPE_CHECKING:
    from .async_pool import AsyncPool
    from .cancel import CancelToken
    from .connection import WireConn
    from .conninfo import ConnConfig
    from .exclusive import ExclusiveConn
    from .listener import PoolListener
    from .notifications import NotificationReceiver
    from .pipeline import PgPipeline
    from .pool_stats import PoolStats
    from .protocol.columnar import Column
    from .protocol.records import (
        FieldDescription,
        ListenerGap,
        Notification,
        NotificationGap,
        StatementDescription,
    )
    from .row_stream import RowStream
    from .tls import TlsConfig, TlsMode

__version__ = "0.1.0"

PipelineResponse = Rows

# What not everybody wants is loaded with its first use.
_LATER = {
    "AsyncPool": "async_pool",
    "CancelToken": "cancel",
    "Column": "protocol.columnar",
    "ConnConfig": "conninfo",
    "ExclusiveConn": "exclusive",
    "FieldDescription": "protocol.records",
    "ListenerGap": "protocol.records",
    "Notification": "protocol.records",
    "NotificationGap": "protocol.records",
    "NotificationReceiver": "notifications",
    "PgPipeline": "pipeline",
    "PoolListener": "listener",
    "PoolStats": "pool_stats",
    "RowStream": "row_stream",
    "StatementDescription": "protocol.records",
    "TlsConfig": "tls",
    "TlsMode": "tls",
    "WireConn": "connection",
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
