"""The answer of a verb that has a lease, part by part, between the session and one reader; with back-pressure."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..errors import UsageError
from ..protocol.rows import Rows
from ..session.request import Request

if TYPE_CHECKING:
    from .lease import AcquireTimeout, Lease

# Bytes that are kept before the server has to wait, however few parts they are.
BUFFERED_BYTES = 4 * 1024 * 1024


class Incoming:
    """The parts of one answer that wait for their reader. It is the consumer of the request.

    `reply` is the request's future: done when all has arrived, or nothing more will. `count` says how many rows or
    buffers a part has. While more than `limit` are kept, the socket is not read, so that the server has to wait.
    """

    def __init__(self, lease: Lease, limit: int, count: Callable[[Any], int]) -> None:
        self._lease = lease
        self._limit = limit
        self._count = count
        self.reply: asyncio.Future[Any] = lease.loop.create_future()
        self.reply.add_done_callback(self._wake)
        self.first: Any = None  # what comes before the parts: columns, or the header of a COPY
        self.has_begun = False
        self._parts: deque[tuple[Any, int, int]] = deque()
        self._kept = self._bytes = 0
        self._waiter: asyncio.Future[None] | None = None
        self._is_entered = False

    # ---- for the session

    def header(self, header: Any) -> None:
        """The columns of the rows that follow, or the header of a COPY."""
        self.first = header
        self.has_begun = True
        self._wake()

    def take(self, part: Any, n: int) -> None:
        """A part of `n` bytes has arrived."""
        count = self._count(part)
        self._parts.append((part, count, n))
        self._kept += count
        self._bytes += n
        if self._kept > self._limit or self._bytes > BUFFERED_BYTES:
            self._lease.core.transport.pause()
        self._wake()

    def _wake(self, _: object = None) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # ---- for the reader

    @property
    def is_entered(self) -> bool:
        """Whether it was entered, now or before."""
        return self._is_entered

    async def enter(self, request: Request, timeout: AcquireTimeout, again: str) -> None:
        """Take the lease, submit the request, and wait until its answer has begun or ended. Raises what it failed with.

        Raises UsageError with the text `again` if it was entered before.
        """
        if self._is_entered:
            raise UsageError(again)
        self._is_entered = True
        await self._lease.enter(timeout, request.deadline)
        try:
            self._lease.submit(request)
            await self.until_begun()
            if not self.has_begun:
                self.reply.result()
        except BaseException:
            await self.leave()
            raise

    async def until_begun(self) -> None:
        """Wait until the header has arrived, or nothing more will."""
        while not self.has_begun and not self.reply.done():
            await self._wait()

    async def leave(self) -> None:
        """Discard what is kept, have the server stop if it has not, and end the lease."""
        self.stop()
        await self._lease.leave_after(self.reply)

    def abandon(self) -> None:
        """The reader was dropped without leaving."""
        self._lease.abandon(self.leave())

    async def next(self) -> Any:
        """The next part; None at the end. After the last part, raises what the request failed with."""
        self._lease.check_open()
        while not self._parts:
            if self.reply.done():
                self.reply.result()
                return None
            await self._wait()
        part, count, n = self._parts.popleft()
        self._kept -= count
        self._bytes -= n
        if self._kept <= self._limit and self._bytes <= BUFFERED_BYTES:
            self._lease.core.transport.resume()
        return part

    async def _wait(self) -> None:
        if self._waiter is not None:
            raise UsageError("another task reads from here: a stream has one reader")
        self._waiter = self._lease.loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def clear(self) -> None:
        """Discard the parts that are kept."""
        self._parts.clear()
        self._kept = self._bytes = 0

    def stop(self) -> None:
        """There is no reader any more."""
        self.clear()
        if self.reply.done() and not self.reply.cancelled():
            self.reply.exception()  # mark it as retrieved
        else:
            self.reply.cancel()

    @property
    def results(self) -> list[Rows] | Rows | None:
        """The request's answer; None before the end, or after a failure."""
        reply = self.reply
        return reply.result() if reply.done() and not reply.cancelled() and not reply.exception() else None
