"""RowStream: rows as they arrive, with back-pressure to the server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError, RequestTimeout
from ..protocol.records import FieldDescription
from ..protocol.rows import RowBody, Rows
from ..protocol.types import Row
from ..session.request import Request
from .incoming import Incoming

if TYPE_CHECKING:
    from .lease import AcquireTimeout, Lease


def _rows_in(body: RowBody) -> int:
    return body.count


class RowStream:
    """`async with conn.stream(...) as rows: async for row in rows`; or Rows, several at a time, by `batches()`.

    `fields` are the columns, known once the block is entered. Leaving the block early has the server stop the query,
    and discards what it has sent; the connection goes on. A stream runs once, and has one reader.
    """

    def __init__(
        self,
        lease: Lease,
        make_request: Callable[[asyncio.Future[Any]], Request],
        row_buffer: int,
        acquire_timeout: AcquireTimeout,
    ) -> None:
        if isinstance(row_buffer, bool) or not isinstance(row_buffer, int) or row_buffer < 1:
            raise ConfigError(f"row_buffer is {row_buffer!r}: pass a number of rows from 1")
        self._incoming = Incoming(lease, row_buffer, _rows_in)
        self._request = make_request(self._incoming.reply)
        self._request.deliver_to(self._incoming)
        self._acquire_timeout = acquire_timeout
        self._incoming.reply.add_done_callback(self._overtake)
        self._rest: Iterator[Row] = iter(())

    @property
    def fields(self) -> tuple[FieldDescription, ...]:
        """The columns; empty before the block is entered."""
        return self._incoming.first or ()

    @property
    def command_tag(self) -> str:
        """The server's CommandComplete; empty before the last row was read."""
        rows = self._incoming.results
        return rows.command_tag if isinstance(rows, Rows) else ""

    async def __aenter__(self) -> RowStream:
        await self._incoming.enter(self._request, self._acquire_timeout, "a stream runs once: call stream() again")
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._incoming.leave()

    def __aiter__(self) -> RowStream:
        return self

    async def __anext__(self) -> Row:
        while True:
            for row in self._rest:
                return row
            batch = await self._more()
            if batch is None:
                raise StopAsyncIteration
            self._rest = iter(batch)

    def _overtake(self, reply: asyncio.Future[Rows]) -> None:
        """A deadline does not wait until the rows that are kept were read."""
        if not reply.cancelled() and isinstance(reply.exception(), RequestTimeout):
            self._incoming.clear()
            self._rest = iter(())

    async def _more(self) -> Rows | None:
        body = await self._incoming.next()
        return None if body is None else Rows(self.fields, [], "", body)

    async def batches(self) -> AsyncIterator[Rows]:
        """Rows as they arrived, many at a time: to be iterated, or taken column by column."""
        if begun := list(self._rest):
            yield Rows(self.fields, begun, "")
        while batch := await self._more():
            yield batch
