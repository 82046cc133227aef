"""The receiver of a connection's notifications: `async for`, and counters that add up."""

from __future__ import annotations

import asyncio
from typing import cast

from .error import UsageError
from .link import Link
from .protocol import endings
from .protocol.notification_queue import Drop, Notification, NotificationGap, NotificationQueue


class NotificationReceiver:
    """Yields each Notification, and a NotificationGap where some were lost. Ends behind our own close() or abort().

    Raises ConnectionClosed, IoError or ProtocolError behind the last one when the connection ended otherwise.
    received = delivered + queued + dropped, at every moment.
    """

    def __init__(self, link: Link, capacity: int, drop: Drop) -> None:
        self._link = link
        self._session = link.session
        self._queue: NotificationQueue = link.session.notifications
        self._queue.capacity = capacity
        self._queue.drop = drop

    @property
    def received(self) -> int:
        """All that came on this connection."""
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
        """Those that were lost: for want of room, or because nobody received yet."""
        return self._queue.dropped

    def __aiter__(self) -> NotificationReceiver:
        return self

    async def __anext__(self) -> Notification | NotificationGap:
        queue = self._queue
        while (item := queue.take()) is None:
            if self._session.failure is not None:
                if self._session.is_ours:
                    raise StopAsyncIteration
                raise endings.refused(self._session)
            self._link.transport.check_owner()
            if queue.waiter is not None:
                raise UsageError("another task waits for notifications: one receiver has one reader")
            queue.waiter = waiter = asyncio.get_running_loop().create_future()
            try:
                await waiter
            finally:
                queue.waiter = None
        return cast("Notification | NotificationGap", item)  # its one connection leaves no other gap
