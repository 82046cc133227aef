"""The requests of a connection, or of a window on it: checked and submitted by the call, awaited for the answer."""

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
from .lease import AcquireTimeout, Lease

# Rows that a stream keeps before it lets the server wait.
DEFAULT_ROW_BUFFER_ROWS = 10_000


# What some programs never do is loaded with its first use.
if TYPE_CHECKING:
    from ..protocol.records import StatementDescription
    from .copy_in import CopyOut, Source
    from .pipeline import PgPipeline
    from .row_stream import RowStream

    class Carrier(Protocol):
        """What takes requests to the server: a connection, a turn on one, or the lanes of a pool."""

        loop: asyncio.AbstractEventLoop

        def deadline(self, timeout: float | None, /) -> float: ...
        def submit(self, request: Request, /) -> None: ...
        def in_one_write(self) -> AbstractContextManager[Callable[[Request], None]]: ...


class Queries:
    """`timeout` is seconds, None means none; at the deadline RequestTimeout is raised.

    `acquire_timeout` is how many seconds a verb that needs the connection for itself waits for it: None for ever, and
    `...`, the default, 30 seconds, or what the pool was told.
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
        """One prepared, cached, pipelined query; await it for its Rows, or PgError.

        `params` are bytes, str (UTF-8 text) or None; `param_oids` their types, 0 where the server is to infer one;
        formats are one FormatCode for all or one for each. TypeError and ConfigError are raised by the call itself.
        """
        reply: asyncio.Future[Rows] = self._new_reply()
        deadline = 0.0 if timeout is None else self._carrier.deadline(timeout)
        self._submit(query_request(reply, sql, params, param_oids, param_formats, result_formats, deadline))
        return reply

    def simple_query(self, sql: str, *, timeout: float | None = None) -> asyncio.Future[list[Rows]]:
        """All statements of `sql` by the simple protocol; one Rows for each.

        PgError is that of the statement that failed; what came before is on its `partial`, and was rolled back with it
        unless `outcome` is UNKNOWN.
        """
        reply: asyncio.Future[list[Rows]] = self._new_reply()
        self._submit(simple_query_request(reply, sql, self._carrier.deadline(timeout)))
        return reply

    def describe(
        self, sql: str, param_oids: Sequence[Oid] = (), *, timeout: float | None = None
    ) -> asyncio.Future[StatementDescription]:
        """The parameter types and columns of `sql`, which is parsed and not run."""
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
        """Encoded messages: one Query, or extended messages that end in their one Sync; ConfigError for anything else.

        With the collector ROWS the answer is the last result, as with libpq's PQexec; with DRAIN the same without rows.
        """
        reply: asyncio.Future[Rows] = self._new_reply()
        self._submit(self._encoded(reply, messages, collector, self._carrier.deadline(timeout)))
        return reply

    def submit_batch(
        self, batch: Iterable[tuple[bytes, ResponseCollector]], *, timeout: float | None = None
    ) -> asyncio.Future[list[Rows | BaseException]]:
        """Several such requests in one write: each one's Rows or error, in order. All or none are submitted."""
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

        Fails closed: the query runs only if every statement of the setup did, in the same transaction. Raises what
        failed first: PgError, or TransactionError where the setup ended the transaction itself, or COMMIT rolled back.
        """
        reply: asyncio.Future[Rows] = self._new_reply()
        deadline = self._carrier.deadline(timeout)
        query = query_request(reply, query_sql, params, param_oids, param_formats, result_formats, deadline)
        self._submit(transaction.Transaction(setup_sql, query).whole)
        return reply

    def pipeline(self, *, acquire_timeout: AcquireTimeout = ...) -> PgPipeline:
        """Several requests at once, with Syncs where you put them: `async with conn.pipeline() as pipeline`."""
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
        """The rows as they come: `async with conn.stream(...) as rows: async for row in rows`.

        The server waits while more than `row_buffer` rows are kept. `timeout` is for all of it.
        """
        from .row_stream import RowStream

        stream = RowStream(self._new_lease("stream()", False), row_buffer, acquire_timeout)
        deadline = self._carrier.deadline(timeout)
        stream.request = query_request(stream.reply, sql, params, param_oids, param_formats, result_formats, deadline)
        stream.request.deliver_to(stream)
        return stream

    async def copy_in(
        self, sql: str, source: Source, *, timeout: float | None = None, acquire_timeout: AcquireTimeout = ...
    ) -> int:
        """COPY ... FROM STDIN from bytes, a binary file, or a (n async) iterable of buffers; returns the row count.

        The data passes through untouched: text, CSV or binary, as `sql` says. An exception of the source ends the COPY
        and comes back; an error of the server stops the source within one chunk.
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
        """COPY ... FROM STDIN (FORMAT binary) from rows of values in binary form; returns the row count."""
        from .copy_in import binary_rows

        return await self.copy_in(sql, binary_rows(rows), timeout=timeout, acquire_timeout=acquire_timeout)

    def copy_out(
        self, sql: str, *, timeout: float | None = None, acquire_timeout: AcquireTimeout = ...
    ) -> CopyOut[bytes]:
        """COPY ... TO STDOUT: `async with conn.copy_out(sql) as data: async for buffer in data`, with back-pressure."""
        from .copy_in import CopyOut

        return CopyOut(self._new_lease("copy_out()", False), sql, self._carrier.deadline(timeout), acquire_timeout)

    def copy_out_rows(
        self, sql: str, *, timeout: float | None = None, acquire_timeout: AcquireTimeout = ...
    ) -> CopyOut[Row]:
        """COPY ... TO STDOUT (FORMAT binary), row by row: tuples of `bytes | None` in the types' binary form."""
        from .copy_in import CopyOutRows

        return CopyOutRows(
            self._new_lease("copy_out_rows()", False), sql, self._carrier.deadline(timeout), acquire_timeout
        )
