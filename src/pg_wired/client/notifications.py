"""NotificationReceiver: the notifications of one connection, by `async for`, with counters that add up."""

from __future__ import annotations

import asyncio

from ..errors import ConfigError, UsageError
from ..protocol.records import Notification, NotificationGap
from ..session.notification_queue import Drop, NotificationQueue
from .core import Core

# PostgreSQL cuts longer names off (NAMEDATALEN - 1), and would then notify another channel than the one asked for.
MAX_NAME_BYTES = 63


def quote_channel(name: str) -> str:
    """`name` as a quoted identifier. ConfigError where PostgreSQL would change it, or cannot have it."""
    if not isinstance(name, str):
        raise TypeError(f"channel is {type(name).__name__}: pass a str")
    n = len(name.encode("utf-8", "surrogatepass"))
    if not n or "\0" in name or n > MAX_NAME_BYTES or any("\ud800" <= char <= "\udfff" for char in name):
        raise ConfigError(f"channel {name!r} is empty, has a NUL, more than {MAX_NAME_BYTES} bytes or is no UTF-8")
    return '"' + name.replace('"', '""') + '"'


class QueueReader:
    """The one reader of a queue. At every moment received = delivered + queued + dropped."""

    def __init__(self, queue: NotificationQueue, capacity: int, drop: Drop) -> None:
        if capacity < 1 or drop not in ("oldest", "newest"):
            raise ConfigError(f"capacity is {capacity} and drop {drop!r}: pass 1 or more, and 'oldest' or 'newest'")
        self._queue = queue
        queue.set_limit(capacity, drop)

    @property
    def received(self) -> int:
        """How many notifications have arrived."""
        return self._queue.received

    @property
    def delivered(self) -> int:
        """How many were yielded."""
        return self._queue.delivered

    @property
    def queued(self) -> int:
        """How many wait to be yielded."""
        return len(self._queue)

    @property
    def dropped(self) -> int:
        """How many were dropped: the queue was full, or there was no receiver yet."""
        return self._queue.dropped


async def arrival(queue: NotificationQueue) -> None:
    """Wait until there is something to take, or the connection has ended."""
    if queue.waiter is not None:
        raise UsageError("another task waits for notifications: one receiver has one reader")
    queue.waiter = waiter = asyncio.get_running_loop().create_future()
    try:
        await waiter
    finally:
        queue.waiter = None


class NotificationReceiver(QueueReader):
    """Yields each Notification, and a NotificationGap where some were dropped. It ends after close() or abort().

    Raises ConnectionClosed, IoError or ProtocolError after the last notification if the connection ended otherwise. At
    every moment received = delivered + queued + dropped.
    """

    def __init__(self, core: Core, capacity: int, drop: Drop) -> None:
        super().__init__(core.session.notifications, capacity, drop)
        self._core = core
        self._session = core.session

    def __aiter__(self) -> NotificationReceiver:
        return self

    async def __anext__(self) -> Notification | NotificationGap:
        while (item := self._queue.take()) is None:
            if self._session.failure is not None:
                if self._session.is_closed_by_client:
                    raise StopAsyncIteration
                raise self._session.refusal()
            self._core.transport.check_owner()
            await arrival(self._queue)
        return item  # type: ignore[return-value]  # one connection leaves no other gap
