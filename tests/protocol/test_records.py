"""The named tuples that callers receive, and the merging of two gaps."""

from __future__ import annotations

import pytest

from pg_wired.protocol.records import ListenerGap, Notification, NotificationGap, wider

LOST, LATER = ListenerGap(1, 2.0, 7, 8), ListenerGap(10, 0.5, 8, 9)


@pytest.mark.parametrize(
    ("gap", "following", "expected"),
    [
        (NotificationGap(1), NotificationGap(2), NotificationGap(3)),
        (LOST, NotificationGap(2), ListenerGap(3, 2.0, 7, 8)),
        (NotificationGap(2), LOST, ListenerGap(3, 2.0, 7, 8)),
        (LOST, LATER, ListenerGap(11, 2.5, 7, 9)),
        (LOST, b"no gap", LOST),
        (NotificationGap(1), Notification(1, "a", "b"), NotificationGap(1)),
    ],
)
def test_two_adjacent_gaps_become_one(gap: NotificationGap | ListenerGap, following: object, expected: object) -> None:
    assert wider(gap, following) == expected
    assert type(wider(gap, following)) is type(expected)
