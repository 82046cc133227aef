"""What a transport reads into and drains."""

from __future__ import annotations

import pytest

from pg_wired.protocol.receiver import Receiver


def test_it_begins_empty() -> None:
    receiver = Receiver(10)
    assert (len(receiver.buffer), receiver.tail, bytes(receiver.out), receiver.handed) == (10, 0, b"", 0)
    assert receiver.failure is None and not receiver.is_complete


def test_what_the_socket_has_taken_is_gone_and_counted() -> None:
    receiver = Receiver(10)
    receiver.out += b"12345"
    receiver.sent(2)
    assert (bytes(receiver.out), receiver.handed) == (b"345", 2)
    receiver.sent(3)
    receiver.out += b"6"
    assert (bytes(receiver.out), receiver.handed) == (b"6", 5)


def test_what_comes_is_for_others_to_take() -> None:
    receiver = Receiver(10)
    with pytest.raises(NotImplementedError):
        receiver.received(1)
    with pytest.raises(NotImplementedError):
        receiver.lost(None)
