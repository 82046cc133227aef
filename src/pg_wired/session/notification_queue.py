"""A bounded queue of notifications that wait for their receiver. It counts every notification and never blocks."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Literal, TypeAlias

from ..errors import ProtocolError
from ..protocol import octets

if TYPE_CHECKING:
    from ..protocol.records import ListenerGap, Notification, NotificationGap
    from .request import Sink

Drop: TypeAlias = Literal["oldest", "newest"]


class NotificationQueue:
    """Keeps at most `capacity` notifications. Always, received = delivered + dropped + len(queue).

    When the queue is full, the oldest or the newest notification is dropped, as `drop` says, and a NotificationGap
    takes its place. The capacity is 0 while there is no receiver.
    """

    def __init__(self) -> None:
        from ..protocol import records

        self._records = records
        self._record = records.Notification
        self.capacity = 0
        self.drop: Drop = "newest"
        self.received = 0
        self.delivered = 0
        self.dropped = 0
        self.waiter: Sink | None = None
        # Message bodies as received, because the garbage collector does not track bytes. `take` makes Notifications.
        self._items: deque[bytes | NotificationGap | ListenerGap] = deque()
        self._next = self._items.popleft
        self._queued = 0
        self._head, self._pid, self._channel = b"\0\0\0\0\0", 0, ""  # the start of the body taken last, and its values

    def __len__(self) -> int:
        return self._queued

    def set_limit(self, capacity: int, drop: Drop) -> None:
        """Keep at most `capacity` notifications; when full, drop the "oldest" or the "newest"."""
        self.capacity = capacity
        self.drop = drop

    def arrived(self, body: bytes) -> None:
        """Add the body of a NotificationResponse. Raises ProtocolError if it is malformed.

        Unlike other asynchronous messages, these may arrive by the hundred thousand, so the check is fast.
        """
        n = len(body)
        i = octets.find_nul(body, 4, n)
        if i < 0 or octets.find_nul(body, i + 1, n) != n - 1:
            raise ProtocolError("NotificationResponse is not a process id and two strings")
        self._put(body)

    def _put(self, body: bytes) -> None:
        self.received += 1
        if self._queued < self.capacity:
            self._queued += 1
            self._items.append(body)
        else:
            self.dropped += 1
            if self.capacity:
                self._leave_gap(body)
        self.wake()

    def _leave_gap(self, body: bytes) -> None:
        """Count a dropped notification in the gap at its place; add a gap if there is none."""
        if self.drop == "newest":
            last = self._items[len(self._items) - 1]
            if isinstance(last, bytes):
                self._items.append(self._records.NotificationGap(1))
            else:
                self._items[len(self._items) - 1] = last._replace(dropped=last.dropped + 1)
        else:
            first = self._items.popleft()
            gap = self._records.NotificationGap(0) if isinstance(first, bytes) else first
            while not isinstance(first, bytes):
                first = self._items.popleft()
                gap = self._records.wider(gap, first)
            self._items.appendleft(gap._replace(dropped=gap.dropped + 1))
            self._items.append(body)

    def reconnected(self, gap: ListenerGap, early: NotificationQueue) -> None:
        """Add the gap of a reconnect, and then the notifications in `early`.

        `early` is the queue of the new connection, with the notifications that arrived before LISTEN was confirmed. The
        receiver must not see them, or the gap, before that.
        """
        self._mark(gap)
        for item in early._items:
            if isinstance(item, bytes):
                self._put(item)
            else:
                self.received += item.dropped
                self.dropped += item.dropped
                self._mark(item)
        self.wake()

    def _mark(self, gap: NotificationGap | ListenerGap) -> None:
        """Append a gap, or widen the gap that is the last item."""
        last = self._items.pop() if self._items else None
        if last is None or not isinstance(last, bytes):
            self._items.append(gap if last is None else self._records.wider(last, gap))
        else:
            self._items.append(last)
            self._items.append(gap)

    def take(self) -> Notification | NotificationGap | ListenerGap | None:
        """Remove and return the next notification, or the gap before it. None if the queue is empty."""
        if not self._queued and not self._items:
            return None
        item = self._next()
        if not isinstance(item, bytes):
            return item
        self._queued -= 1
        self.delivered += 1
        body = item
        n = len(body)
        if not octets.begins_with(body, n, self._head):
            self._look_at_head(body)
        i = len(self._head)
        payload = octets.get_text(body, i, n - 1 - i, "surrogateescape")
        notification: Notification = octets.new_record(self._record, self._pid, self._channel, payload)
        return notification

    def _look_at_head(self, body: bytes) -> None:
        """Decode the process id and the channel, and keep them.

        Most notifications have the same ones as the notification before, and then share its objects.
        """
        i = octets.find_nul(body, 4, len(body))
        self._head = body[: i + 1]
        self._pid = octets.get_i32(body, 0)
        self._channel = octets.get_text(body, 4, i - 4, "surrogateescape")

    def wake(self) -> None:
        """Wake the receiver if it waits."""
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_result(None)
