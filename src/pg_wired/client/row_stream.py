"""RowStream: rows as they come, with back-pressure to the server."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterator

from ..errors import ConfigError, RequestTimeout, UsageError
from ..protocol.records import FieldDescription
from ..protocol.rows import RowBody, Rows
from ..protocol.types import Row
from ..session.request import Request
from .lease import AcquireTimeout, Lease

# Bytes of rows kept before the server has to wait, however few rows they are.
BUFFERED_BYTES = 4 * 1024 * 1024


class Inflow:
    """Parts of an answer between the session, which brings them, and a reader; makes the server wait for him.

    `reply` is the request's: done when all has come, or nothing more will.
    """

    def __init__(self, lease: Lease, limit: int) -> None:
        self._lease = lease
        self._limit = limit
        self.reply: asyncio.Future[Rows] = lease.loop.create_future()
        self.reply.add_done_callback(self._wake)
        self.has_header = False
        self._parts: deque[tuple[object, int, int]] = deque()
        self._kept = self._bytes = 0
        self._waiter: asyncio.Future[None] | None = None

    def arrived(self, part: object, count: int, n: int) -> None:
        """A part with `count` things in `n` bytes has come."""
        self._parts.append((part, count, n))
        self._kept += count
        self._bytes += n
        if self._kept > self._limit or self._bytes > BUFFERED_BYTES:
            self._lease.core.transport.pause()
        self._wake()

    def header_arrived(self) -> None:
        self.has_header = True
        self._wake()

    def _wake(self, _: object = None) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def wait(self) -> None:
        """Until something has come or nothing more will."""
        if self._waiter is not None:
            raise UsageError("another task reads from here: a stream has one reader")
        self._waiter = self._lease.loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    async def next(self) -> object | None:
        """The next part; None at the end. Raises what the request failed with, behind the parts before it."""
        while not self._parts:
            if self.reply.done():
                self.reply.result()
                return None
            await self.wait()
        part, count, n = self._parts.popleft()
        self._kept -= count
        self._bytes -= n
        if self._kept <= self._limit and self._bytes <= BUFFERED_BYTES:
            self._lease.core.transport.resume()
        return part

    def clear(self) -> None:
        """Throw away what is kept."""
        self._parts.clear()
        self._kept = self._bytes = 0

    def stop(self) -> None:
        """Nobody reads any more."""
        self.clear()
        if self.reply.done() and not self.reply.cancelled():
            self.reply.exception()  # seen
        else:
            self.reply.cancel()


class RowStream:
    """`async with conn.stream(...) as rows`: `rows.fields`, then `async for row in rows`, or Rows by `batches()`.

    Leaving early has the server stop the query, and throws away what it has sent; the connection goes on.
    """

    request: Request

    def __init__(self, lease: Lease, row_buffer: int, acquire_timeout: AcquireTimeout) -> None:
        if isinstance(row_buffer, bool) or not isinstance(row_buffer, int) or row_buffer < 1:
            raise ConfigError(f"row_buffer is {row_buffer!r}: pass a number of rows from 1")
        self._inflow = Inflow(lease, row_buffer)
        self._lease = lease
        self._acquire_timeout = acquire_timeout
        self._is_entered = False
        self.reply.add_done_callback(self._overtake)
        self._rest: Iterator[Row] = iter(())
        self.fields: tuple[FieldDescription, ...] = ()

    @property
    def reply(self) -> asyncio.Future[Rows]:
        """Done when all rows have come, or the query has failed."""
        return self._inflow.reply

    @property
    def command_tag(self) -> str:
        """The server's CommandComplete; empty before the last row was read."""
        reply = self._inflow.reply
        return reply.result().command_tag if reply.done() and not reply.cancelled() and not reply.exception() else ""

    def header(self, fields: tuple[FieldDescription, ...]) -> None:
        """For the session: the columns are known, the rows come now."""
        self.fields = fields
        self._inflow.header_arrived()

    def take(self, body: RowBody, n: int) -> None:
        """For the session: rows have come, of `n` bytes."""
        self._inflow.arrived(Rows(self.fields, [], "", body), body.count, n)

    async def __aenter__(self) -> RowStream:
        if self._is_entered:
            raise UsageError("a stream runs once: call stream() again")
        self._is_entered = True
        await self._lease.enter(self._acquire_timeout, self.request.deadline)
        try:
            self._lease.submit(self.request)
            while not self._inflow.has_header and not self.reply.done():
                await self._inflow.wait()
            if not self._inflow.has_header:
                self.reply.result()
        except BaseException:
            await self._leave()
            raise
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._leave()

    async def _leave(self) -> None:
        self._inflow.stop()
        await self._lease.leave_behind(self.reply)

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
        """A deadline does not wait for the rows that are kept."""
        if not reply.cancelled() and isinstance(reply.exception(), RequestTimeout):
            self._inflow.clear()
            self._rest = iter(())

    async def _more(self) -> Rows | None:
        self._lease.check_open()
        batch = await self._inflow.next()
        return batch if isinstance(batch, Rows) else None

    async def batches(self) -> AsyncIterator[Rows]:
        """Rows as they came, for speed: to be iterated, or taken column by column."""
        if begun := list(self._rest):
            yield Rows(self.fields, begun, "")
        while batch := await self._more():
            yield batch
