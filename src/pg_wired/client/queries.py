"""The query methods that a connection, a lease on one and a pool share: each call checks and submits its request."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol

from ..errors import ConfigError
from ..protocol.rows import Rows
from ..protocol.types import Oid, ResponseCollector, Row, Value
from ..session import transaction
from ..session.request import Request, describe_request, encoded_request, query_request, simple_query_request

# Rows that a stream keeps before the server has to wait.
DEFAULT_ROW_BUFFER_ROWS = 10_000


# Verbs that some programs never use are loaded with their first use.
if TYPE_CHECKING:
    from ..protocol.records import StatementDescription
    from .copy_in import Source
    from .copy_out import CopyOut
    from .lease import AcquireTimeout, Lease
    from .pipeline import PgPipeline
    from .row_stream import RowStream

    class Carrier(Protocol):
        """Takes requests to the server: the core of a connection, a lease on one, or a pool's shared connections."""

        loop: asyncio.AbstractEventLoop

        def deadline(self, timeout: float | None, /) -> float: ...
        def submit(self, request: Request, /) -> None: ...
        def in_one_write(self) -> AbstractContextManager[Callable[[Request], None]]: ...


class Queries:
    """The query methods. `timeout` is in seconds, None for none; at the deadline RequestTimeout is raised.

    `acquire_timeout` is how many seconds a verb that needs the connection for itself waits for it: None for no limit,
    and `...`, the default, for 30 seconds, or the pool's `acquire_timeout`. All methods raise UsageError from another
    thread, loop or process, and ConnectionClosed, IoError or ProtocolError once the connection has ended. The `outcome`
    of each error says whether the request may have run.
    """

    def __init__(self, carrier: Carrier, lease: Callable[[str, bool], Lease]) -> None:
        self._carrier = carrier
        self._submit = carrier.submit
        self._new_reply: Callable[[], asyncio.Future[Any]] = carrier.loop.create_future
        self._new_lease = lease

    def exec_query(
        self,
        sql: str,
        params: Sequence[Value] = (),
        param_oids: Sequence[Oid] = (),
        *,
        param_formats: int | Sequence[int] = 0,
        result_formats: int | Sequence[int] = 0,
        timeout: float | None = None,
    ) -> asyncio.Future[Rows]:
        """One prepared, cached, pipelined query. Await it for its Rows, or the server's PgError.

        `params` are the values of $1, $2 and so on: bytes, bytearray, memoryview, str (sent as UTF-8) or None for NULL.
        `param_oids` are their type OIDs, 0 or none where the server is to infer them. `param_formats` and
        `result_formats` are one FormatCode for all values or columns, or one for each; text by default. TypeError and
        ConfigError for arguments that cannot be sent are raised by the call itself. Source: protocol chapter, "Extended
        Query".
        """
        reply: asyncio.Future[Rows] = self._new_reply()
        deadline = 0.0 if timeout is None else self._carrier.deadline(timeout)
        self._submit(query_request(reply, sql, params, param_oids, param_formats, result_formats, deadline))
        return reply

    def simple_query(self, sql: str, *, timeout: float | None = None) -> asyncio.Future[list[Rows]]:
        """All statements of `sql` by the simple protocol; a Rows for each.

        Raises the PgError of the statement that failed. The results of earlier statements are in its `partial`; they
        were rolled back with it, unless its `outcome` is UNKNOWN. Source: protocol chapter, "Simple Query".
        """
        reply: asyncio.Future[list[Rows]] = self._new_reply()
        self._submit(simple_query_request(reply, sql, self._carrier.deadline(timeout)))
        return reply

    def describe(
        self, sql: str, param_oids: Sequence[Oid] = (), *, timeout: float | None = None
    ) -> asyncio.Future[StatementDescription]:
        """The parameter OIDs and columns of `sql`, which is parsed and not run. Raises PgError where that fails."""
        reply: asyncio.Future[StatementDescription] = self._new_reply()
        self._submit(describe_request(reply, sql, param_oids, self._carrier.deadline(timeout)))
        return reply

    def submit(
        self,
        messages: bytes,
        collector: ResponseCollector = ResponseCollector.ROWS,
        *,
        timeout: float | None = None,
    ) -> asyncio.Future[Rows]:
        """Submit encoded messages: one Query, or extended messages that end in their one Sync.

        With the collector ROWS the answer is the last result, as in libpq's PQexec; with DRAIN the same without rows.
        Raises ConfigError for other messages and collectors.
        """
        reply: asyncio.Future[Rows] = self._new_reply()
        self._submit(self._encoded(reply, messages, collector, self._carrier.deadline(timeout)))
        return reply

    def submit_batch(
        self, batch: Iterable[tuple[bytes, ResponseCollector]], *, timeout: float | None = None
    ) -> asyncio.Future[list[Rows | BaseException]]:
        """Submit several such requests in one write; the Rows or error of each, in order. All or none are submitted."""
        deadline = self._carrier.deadline(timeout)
        replies: list[asyncio.Future[Rows]] = []
        submitted: list[Request] = []
        for messages, collector in batch:
            reply = self._new_reply()
            replies.append(reply)
            submitted.append(self._encoded(reply, messages, collector, deadline))
        with self._carrier.in_one_write() as submit:
            for request in submitted:
                submit(request)
        return asyncio.gather(*replies, return_exceptions=True)

    def _encoded(
        self, reply: asyncio.Future[Rows], messages: bytes, collector: ResponseCollector, deadline: float
    ) -> Request:
        if collector not in (ResponseCollector.ROWS, ResponseCollector.DRAIN):
            raise ConfigError(f"collector is {collector!r}: a shared connection takes ROWS and DRAIN")
        if isinstance(messages, str):
            raise TypeError("messages is str: pass encoded messages, or use simple_query() for SQL")
        return encoded_request(reply, bytes(messages), collector == ResponseCollector.DRAIN, deadline)

    def exec_transaction(
        self,
        setup_sql: str,
        query_sql: str,
        params: Sequence[Value] = (),
        param_oids: Sequence[Oid] = (),
        *,
        param_formats: int | Sequence[int] = 0,
        result_formats: int | Sequence[int] = 0,
        timeout: float | None = None,
    ) -> asyncio.Future[Rows]:
        """BEGIN, `setup_sql` (one or several statements), the query and COMMIT in one write; the query's Rows.

        It fails closed: the query runs only if every statement of the setup has run, in the same transaction. The other
        arguments are those of `exec_query`. Raises the first failure: PgError, or TransactionError where the setup
        ended the transaction, or COMMIT rolled back.
        """
        reply: asyncio.Future[Rows] = self._new_reply()
        deadline = self._carrier.deadline(timeout)
        query = query_request(reply, query_sql, params, param_oids, param_formats, result_formats, deadline)
        self._submit(transaction.Transaction(setup_sql, query).whole)
        return reply

    def pipeline(self, *, acquire_timeout: AcquireTimeout = ...) -> PgPipeline:
        """Several requests at once, with a Sync where the caller puts it: `async with conn.pipeline() as pipeline`."""
        from .pipeline import PgPipeline

        return PgPipeline(self._new_lease("pipeline()", True), acquire_timeout)

    def stream(
        self,
        sql: str,
        params: Sequence[Value] = (),
        param_oids: Sequence[Oid] = (),
        *,
        param_formats: int | Sequence[int] = 0,
        result_formats: int | Sequence[int] = 0,
        timeout: float | None = None,
        row_buffer: int = DEFAULT_ROW_BUFFER_ROWS,
        acquire_timeout: AcquireTimeout = ...,
    ) -> RowStream:
        """The rows as they arrive: `async with conn.stream(...) as rows: async for row in rows`.

        The server has to wait while more than `row_buffer` rows are kept. `timeout` covers the whole stream. The other
        arguments are those of `exec_query`.
        """
        from .row_stream import RowStream

        def make_request(reply: asyncio.Future[Any]) -> Request:
            deadline = self._carrier.deadline(timeout)
            return query_request(reply, sql, params, param_oids, param_formats, result_formats, deadline)

        return RowStream(self._new_lease("stream()", False), make_request, row_buffer, acquire_timeout)

    async def copy_in(
        self, sql: str, source: Source, *, timeout: float | None = None, acquire_timeout: AcquireTimeout = ...
    ) -> int:
        """COPY ... FROM STDIN from bytes, a binary file, or an iterable or async iterable of buffers; the row count.

        The data passes through unchanged: text, CSV or binary, as `sql` says. An exception of the source ends the COPY
        and is raised; an error of the server stops the source. Source: protocol chapter, "COPY Operations".
        """
        from .copy_in import CopyIn

        copy = CopyIn(self._new_lease("copy_in()", False))
        return await copy.run(sql, source, self._carrier.deadline(timeout), acquire_timeout)

    async def copy_in_rows(
        self,
        sql: str,
        rows: Iterable[Sequence[bytes | None]],
        *,
        timeout: float | None = None,
        acquire_timeout: AcquireTimeout = ...,
    ) -> int:
        """COPY ... FROM STDIN (FORMAT binary) from rows of values in the types' binary form; returns the row count."""
        from .copy_in import binary_rows

        return await self.copy_in(sql, binary_rows(rows), timeout=timeout, acquire_timeout=acquire_timeout)

    def copy_out(
        self, sql: str, *, timeout: float | None = None, acquire_timeout: AcquireTimeout = ...
    ) -> CopyOut[bytes]:
        """COPY ... TO STDOUT: `async with conn.copy_out(sql) as data: async for buffer in data`, with back-pressure."""
        from .copy_out import CopyOut

        return CopyOut(self._new_lease("copy_out()", False), sql, self._carrier.deadline(timeout), acquire_timeout)

    def copy_out_rows(
        self, sql: str, *, timeout: float | None = None, acquire_timeout: AcquireTimeout = ...
    ) -> CopyOut[Row]:
        """COPY ... TO STDOUT (FORMAT binary), row by row: tuples of `bytes | None` in the types' binary form."""
        from .copy_out import CopyOutRows

        return CopyOutRows(
            self._new_lease("copy_out_rows()", False), sql, self._carrier.deadline(timeout), acquire_timeout
        )
