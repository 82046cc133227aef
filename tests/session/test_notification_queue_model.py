"""A model of the notification queue: every notification is accounted for, and gaps mark exactly the losses."""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from pg_wired.errors import ProtocolError
from pg_wired.protocol import messages as m
from pg_wired.protocol.records import Notification
from pg_wired.session.notification_queue import Drop, NotificationQueue
from rig.strategies import message


def come(queue: NotificationQueue, notification: Notification) -> None:
    queue.arrived(m.encode(m.NotificationResponse(*notification))[5:])


class QueueModel(RuleBasedStateMachine):
    """Numbered notifications: the model knows which ones are kept, and the numbers delivered must match the gaps."""

    def __init__(self) -> None:
        super().__init__()
        self.queue = NotificationQueue()
        self.kept: deque[int] = deque()
        self.sent = 0
        self.delivered = 0
        self.expected = 0  # the next number, unless a gap comes first

    @initialize(capacity=st.integers(1, 4), drop=st.sampled_from(["oldest", "newest"]), before=st.integers(0, 2))
    def begin(self, capacity: int, drop: Drop, before: int) -> None:
        self.several_come(before)
        self.expected = before  # no receiver yet: these are lost without a gap
        self.queue.capacity, self.queue.drop = capacity, drop

    @rule(count=st.integers(1, 9))
    def several_come(self, count: int) -> None:
        queue = self.queue
        for _ in range(count):
            if len(self.kept) < queue.capacity:
                self.kept.append(self.sent)
            elif queue.capacity and queue.drop == "oldest":
                self.kept.popleft()
                self.kept.append(self.sent)
            come(queue, Notification(1, "c", str(self.sent)))
            self.sent += 1

    @rule()
    def somebody_takes(self) -> None:
        self.take()

    def take(self) -> bool:
        item = self.queue.take()
        if isinstance(item, Notification):
            assert int(item.payload) == self.expected == self.kept.popleft()
            self.delivered += 1
            self.expected += 1
        elif item is not None:
            assert item.dropped > 0
            self.expected += item.dropped
        return item is not None

    @invariant()
    def all_are_accounted_for(self) -> None:
        queue = self.queue
        assert queue.received == self.sent == queue.delivered + queue.dropped + len(queue)
        assert queue.delivered == self.delivered and len(queue) == len(self.kept) <= queue.capacity

    def teardown(self) -> None:
        while self.take():
            pass
        assert not self.kept and (self.expected == self.sent or not self.queue.capacity)


TestQueueModel = QueueModel.TestCase
TestQueueModel.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)


def filled(capacity: int, drop: Drop, count: int) -> NotificationQueue:
    queue = NotificationQueue()
    queue.capacity, queue.drop = capacity, drop
    for number in range(count):
        come(queue, Notification(number, "c", str(number)))
    return queue


def all_of(queue: NotificationQueue) -> list[str]:
    """Payloads, and gaps as "-2"."""
    items = []
    while (item := queue.take()) is not None:
        items.append(item.payload if isinstance(item, Notification) else f"-{item.dropped}")
    return items


def test_without_a_receiver_all_notifications_are_dropped() -> None:
    queue = filled(0, "newest", 3)
    assert (queue.received, queue.dropped, queue.delivered, len(queue)) == (3, 3, 0, 0)
    assert queue.take() is None


@pytest.mark.parametrize(
    ("drop", "items"), [("oldest", ["-3", "3", "4"]), ("newest", ["0", "1", "-3"])], ids=["oldest", "newest"]
)
def test_a_full_queue_drops_the_oldest_or_the_newest(drop: Drop, items: list[str]) -> None:
    queue = filled(2, drop, 5)
    assert len(queue) == 2 and queue.dropped == 3
    assert all_of(queue) == items
    assert (queue.received, queue.delivered, queue.dropped, len(queue)) == (5, 2, 3, 0)


def test_gaps_stay_where_notifications_were_dropped() -> None:
    queue = filled(1, "newest", 2)
    assert queue.take() == Notification(0, "c", "0")
    come(queue, Notification(2, "c", "2"))
    come(queue, Notification(3, "c", "3"))
    assert all_of(queue) == ["-1", "2", "-1"]


def test_a_flood_costs_no_memory() -> None:
    for drop in ("oldest", "newest"):
        queue = filled(10, drop, 100_000)
        assert len(queue) == 10 and queue.dropped == 99_990
        assert len(all_of(queue)) == 11  # and one gap


def test_a_waiter_is_woken_once() -> None:
    queue = filled(1, "oldest", 1)
    queue.wake()  # without a waiter
    waiter: Future[None] = Future()
    queue.waiter = waiter
    for number in range(3):  # a second result would be an InvalidStateError
        come(queue, Notification(number, "c", ""))
    assert waiter.done()


# ---- NotificationResponse, which has its own faster decoder


def read_apart(body: bytes) -> Notification | str:
    queue = filled(1, "oldest", 0)
    try:
        queue.arrived(body)
    except ProtocolError:
        assert queue.received == 0
        return "ProtocolError"
    item = queue.take()
    assert isinstance(item, Notification)
    return item


def read_as_declared(body: bytes) -> Notification | str:
    try:
        message = m.decode_backend(ord("A"), body)
    except ProtocolError:
        return "ProtocolError"
    assert isinstance(message, m.NotificationResponse)
    return Notification(message.pid, message.channel, message.payload)


@given(message(m.NotificationResponse))
def test_a_valid_notification_is_read_as_the_message_declaration_says(sound: m.NotificationResponse) -> None:
    body = m.encode(sound)[5:]
    assert read_apart(body) == read_as_declared(body) == Notification(sound.pid, sound.channel, sound.payload)


@given(st.lists(st.sampled_from([b"\0", b"x", b"\xff"]), max_size=12).map(b"".join) | st.binary(max_size=20))
def test_any_bytes_are_read_or_refused_as_the_message_declaration_says(body: bytes) -> None:
    assert read_apart(body) == read_as_declared(body)
