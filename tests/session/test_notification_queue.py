"""The notification queue: received = delivered + dropped + queued at all times, and gaps mark the losses."""

from __future__ import annotations

from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pg_wired.errors import ProtocolError
from pg_wired.protocol import messages as m
from pg_wired.protocol.records import ListenerGap, Notification, NotificationGap
from pg_wired.session.notification_queue import Drop, NotificationQueue
from tests.session.conversation import Sink


def numbered(number: int) -> Notification:
    return Notification(1, "c", str(number))


def come(q: NotificationQueue, notification: Notification) -> None:
    q.arrived(m.encode(m.NotificationResponse(*notification))[5:])


def queue(capacity: int, drop: Drop = "oldest") -> NotificationQueue:
    made = NotificationQueue()
    made.capacity, made.drop = capacity, drop
    return made


def drain(q: NotificationQueue) -> list[object]:
    items: list[object] = []
    while (item := q.take()) is not None:
        items.append(int(item.payload) if isinstance(item, Notification) else f"-{item.dropped}")
    return items


@pytest.mark.parametrize(
    ("pid", "channel", "payload"), [(1, "c", "p"), (-1, "", ""), (2**31 - 1, "\udcff", "\u20ac" * 2000)]
)
def test_a_notification_arrives_unchanged(pid: int, channel: str, payload: str) -> None:
    q = queue(1)
    come(q, Notification(pid, channel, payload))
    expected = Notification(pid, channel, payload)
    taken = q.take()
    assert taken == expected and hash(taken) == hash(expected) and type(taken) is Notification


SENDERS = st.tuples(
    st.sampled_from([0, 1, 256]), st.sampled_from(["", "a", "ab", "\udcff"]), st.sampled_from(["", "b"])
)


@given(st.lists(SENDERS.map(lambda fields: Notification(*fields)), max_size=8))
def test_notifications_keep_their_own_sender_and_channel(sent: list[Notification]) -> None:
    q = queue(8)
    for notification in sent:
        come(q, notification)
    assert [q.take() for _ in sent] == sent


@pytest.mark.parametrize(
    "body", [b"", b"\0\0\0", b"\0\0\0\1", b"\0\0\0\1c\0", b"\0\0\0\1c\0p", b"\0\0\0\1c\0p\0\0", b"\0" * 5]
)
def test_a_malformed_notification_is_refused_and_not_counted(body: bytes) -> None:
    q = queue(1)
    with pytest.raises(ProtocolError, match="not a process id and two strings"):
        q.arrived(body)
    assert (q.received, len(q)) == (0, 0)


@given(st.binary(max_size=20))
def test_any_bytes_are_a_notification_or_a_protocol_error(body: bytes) -> None:
    q = queue(1)
    try:
        expected: object = m.decode_backend(ord("A"), body)
    except ProtocolError:
        with pytest.raises(ProtocolError):
            q.arrived(body)
        return
    q.arrived(body)
    assert isinstance(expected, m.NotificationResponse)
    assert q.take() == (expected.pid, expected.channel, expected.payload)


def test_notifications_are_delivered_in_order() -> None:
    q = queue(3)
    for number in range(3):
        come(q, numbered(number))
    assert (len(q), drain(q), len(q), q.take()) == (3, [0, 1, 2], 0, None)
    assert (q.received, q.delivered, q.dropped) == (3, 3, 0)


@pytest.mark.parametrize(
    ("capacity", "drop", "items"),
    [
        (2, "oldest", ["-3", 3, 4]),
        (2, "newest", [0, 1, "-3"]),
        (1, "oldest", ["-4", 4]),
        (1, "newest", [0, "-4"]),
        (0, "oldest", []),  # without a receiver nothing is kept
        (0, "newest", []),
    ],
)
def test_notifications_that_do_not_fit_leave_a_gap(capacity: int, drop: Drop, items: list[object]) -> None:
    q = queue(capacity, drop)
    for number in range(5):
        come(q, numbered(number))
    assert (len(q), q.dropped, drain(q)) == (capacity, 5 - capacity, items)


def test_gaps_stand_where_the_newest_notifications_were_dropped() -> None:
    q = queue(2, "newest")
    for number in range(4):
        come(q, numbered(number))
    assert q.take() == numbered(0)
    for number in range(4, 7):
        come(q, numbered(number))
    assert drain(q) == [1, "-2", 4, "-2"]


def test_a_waiter_is_woken_once_and_a_cancelled_one_not_at_all() -> None:
    q = queue(2)
    q.wake()
    sink = q.waiter = Sink()
    sink.cancelled = True
    come(q, numbered(0))
    assert not sink.is_answered
    waiter = q.waiter = Told()
    come(q, numbered(1))
    come(q, numbered(2))
    assert waiter.count == 1


class Told(Sink):
    """A sink that expects None as its answer and counts it."""

    count = 0

    def done(self) -> bool:
        return bool(self.count)

    def set_result(self, result: object) -> None:
        assert not self.done() and result is None
        self.count += 1


@given(
    capacity=st.integers(0, 3),
    drop=st.sampled_from(get_args(Drop)),
    takes=st.lists(st.booleans(), max_size=30),
)
def test_every_notification_is_delivered_or_counted_in_a_gap(capacity: int, drop: Drop, takes: list[bool]) -> None:
    """Each item continues where the previous one ended: a gap of n stands for exactly n missing notifications."""
    q = queue(capacity, drop)
    items: list[Any] = []
    for number, is_take in enumerate(takes):
        if is_take:
            items += filter(None, [q.take()])
        else:
            come(q, numbered(number))
        assert q.received == q.delivered + q.dropped + len(q) and len(q) <= capacity
    while (item := q.take()) is not None:
        items.append(item)
    put = [str(number) for number, is_take in enumerate(takes) if not is_take]
    if capacity:
        at = 0
        for item in items:
            if isinstance(item, NotificationGap):
                at += item.dropped
            else:
                assert item.payload == put[at]
                at += 1
        assert at == len(put) == q.received


# ---- a queue that moves from one connection to the next


def lost(seconds: float, before: int, after: int) -> ListenerGap:
    return ListenerGap(0, seconds, before, after)


@pytest.mark.parametrize("drop", get_args(Drop))
def test_a_listener_gap_stands_where_the_connection_changed(drop: Drop) -> None:
    q = queue(2, drop)
    come(q, numbered(1))
    q.reconnected(lost(1.0, 7, 8), queue(2))
    come(q, numbered(2))
    assert [q.take(), q.take(), q.take(), q.take()] == [numbered(1), lost(1.0, 7, 8), numbered(2), None]
    q.reconnected(lost(2.0, 8, 9), queue(2))
    assert q.take() == lost(2.0, 8, 9) and (q.received, q.delivered, q.dropped) == (2, 2, 0)


def test_two_listener_gaps_with_nothing_between_them_become_one() -> None:
    q = queue(1)
    q.reconnected(lost(1.0, 7, 8), queue(2))
    q.reconnected(lost(2.0, 8, 9), queue(2))
    assert (q.take(), q.take()) == (lost(3.0, 7, 9), None)


def test_drop_newest_counts_its_losses_in_the_adjacent_listener_gap() -> None:
    q = queue(1, "newest")
    come(q, numbered(1))
    q.reconnected(lost(1.0, 7, 8), queue(2))
    come(q, numbered(2))
    assert [q.take(), q.take(), q.take()] == [numbered(1), ListenerGap(1, 1.0, 7, 8), None]
    come(q, numbered(3))
    come(q, numbered(4))
    q.reconnected(lost(1.0, 8, 9), queue(2))  # follows a gap: the two become one
    assert [q.take(), q.take(), q.take()] == [numbered(3), ListenerGap(1, 1.0, 8, 9), None]


def test_drop_oldest_counts_losses_on_both_sides_in_the_listener_gap() -> None:
    q = queue(1)
    q.reconnected(lost(1.0, 7, 8), queue(2))
    for number in range(3):
        come(q, numbered(number))
    assert [q.take(), q.take(), q.take()] == [ListenerGap(2, 1.0, 7, 8), numbered(2), None]
    come(q, numbered(3))
    come(q, numbered(4))
    come(q, numbered(5))
    q.reconnected(lost(1.0, 8, 9), queue(2))
    come(q, numbered(6))
    come(q, numbered(7))
    assert [q.take(), q.take(), q.take()] == [ListenerGap(4, 1.0, 8, 9), numbered(7), None]
    assert q.received == q.delivered + q.dropped == 8


@given(drop=st.sampled_from(get_args(Drop)), steps=st.lists(st.sampled_from(["put", "take", "change"]), max_size=40))
def test_every_notification_is_accounted_for_across_reconnects(drop: Drop, steps: list[str]) -> None:
    q = queue(2, drop)
    expected = number = changes = 0
    ends: list[int] = []

    def take() -> bool:
        nonlocal expected
        item = q.take()
        if isinstance(item, Notification):
            assert int(item.payload) == expected
            expected += 1
        elif item is not None:
            expected += item.dropped
            if isinstance(item, ListenerGap):
                ends.append(item.after or 0)
        return item is not None

    for step in steps:
        if step == "put":
            come(q, numbered(number))
            number += 1
        elif step == "take":
            take()
        else:
            changes += 1
            q.reconnected(lost(1.0, changes - 1, changes), queue(2))
        assert q.received == number == q.delivered + q.dropped + len(q) and len(q) <= 2
    while take():
        pass
    assert expected == number and ends == sorted(ends) and (ends[-1] if ends else 0) == changes


@pytest.mark.parametrize("drop", get_args(Drop))
def test_early_notifications_of_a_new_connection_follow_the_listener_gap(drop: Drop) -> None:
    early = queue(2, drop)
    for number in range(2, 6):
        come(early, numbered(number))
    q = queue(5, drop)
    come(q, numbered(1))
    q.reconnected(lost(1.0, 7, 8), early)
    kept: list[object] = ["-2", 4, 5] if drop == "oldest" else [2, 3, "-2"]
    expected = [1, "-2", 4, 5] if drop == "oldest" else [1, "-0", *kept]
    assert drain(q) == expected
    assert (q.received, q.delivered, q.dropped, len(q)) == (5, 3, 2, 0)


def test_the_limit_says_how_many_are_kept_and_which_are_dropped() -> None:
    queue = NotificationQueue()
    queue.set_limit(3, "oldest")
    assert (queue.capacity, queue.drop) == (3, "oldest")
