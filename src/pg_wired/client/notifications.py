"""Receivers of notifications: `async for`, and counters that add up. Those of one connection."""

from __future__ import annotations

import asyncio

from ..errors import ConfigError, UsageError
from ..protocol.records import Notification, NotificationGap
from ..session.notification_queue import Drop, NotificationQueue
from .core import Core


class QueueReader:
    """The one reader of a queue: received = delivered + queued + dropped, at every moment."""

    def __init__(self, queue: NotificationQueue, capacity: int, drop: Drop) -> None:
        if capacity < 1 or drop not in ("oldest", "newest"):
            raise ConfigError(f"capacity is {capacity} and drop {drop!r}: pass 1 or more, and 'oldest' or 'newest'")
        self._queue = queue
        queue.capacity = capacity
        queue.drop = drop

    @property
    def received(self) -> int:
        """All that came."""
        return self._queue.received

    @property
    def delivered(self) -> int:
        """Those that were yielded."""
        return self._queue.delivered

    @property
    def queued(self) -> int:
        """Those that wait to be yielded."""
        return len(self._queue)

    @property
    def dropped(self) -> int:
        """Those that came and were lost: for want of room, or because nobody received yet."""
        return self._queue.dropped

    async def _arrival(self) -> None:
        """Until there is something to look at."""
        queue = self._queue
        if queue.waiter is not None:
            raise UsageError("another task waits for notifications: one receiver has one reader")
        queue.waiter = waiter = asyncio.get_running_loop().create_future()
        try:
            await waiter
        finally:
            queue.waiter = None


class NotificationReceiver(QueueReader):
    """Yields each Notification, and a NotificationGap where some were lost. Ends behind our own close() or abort().

    Raises ConnectionClosed, IoError or ProtocolError behind the last one when the connection ended otherwise.
    received = delivered + queued + dropped, at every moment.
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
            await self._arrival()
        return item  # type: ignore[return-value]  # one connection leaves no other gap
