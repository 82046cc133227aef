"""What a transport reads into and drains."""

from __future__ import annotations

import pytest

from pg_wired.errors import ConnectionClosed, IoError, PgWireError
from pg_wired.protocol import messages as m
from pg_wired.protocol.buffers import Buffers


def test_it_begins_empty() -> None:
    receiver = Buffers(10)
    assert (len(receiver.buffer), receiver.tail, bytes(receiver.out), receiver.handed) == (10, 0, b"", 0)
    assert receiver.failure is None and not receiver.is_complete


def test_what_the_socket_has_taken_is_gone_and_counted() -> None:
    receiver = Buffers(10)
    receiver.out += b"12345"
    receiver.sent(2)
    assert (bytes(receiver.out), receiver.handed) == (b"345", 2)
    receiver.sent(3)
    receiver.out += b"6"
    assert (bytes(receiver.out), receiver.handed) == (b"6", 5)


def test_by_itself_it_throws_away_what_comes() -> None:
    receiver = Buffers(10)
    for n in (1, 10, 3):
        receiver.received(n)
    assert (len(receiver.buffer), receiver.tail) == (10, 0)


def test_bytes_that_somebody_else_has_received() -> None:
    class Kept(Buffers):
        def __init__(self) -> None:
            super().__init__(10)
            self.parts: list[bytes] = []

        def received(self, n: int) -> None:
            self.parts.append(bytes(self.buffer[self.tail : self.tail + n]))
            if len(self.parts) == 3:
                self.failure = ConnectionClosed("it was enough")

    receiver = Kept()
    receiver.feed(b"0123456789" * 5)
    assert receiver.parts == [b"0123456789"] * 3


@pytest.mark.parametrize("is_looked_at", [False, True])
def test_the_buffer_grows_with_a_message_and_shrinks_back(is_looked_at: bool) -> None:
    receiver = Buffers(10)
    message = m.encode(m.DataRow((b"0123456789abcdef",)))
    view = None
    while receiver.tail < len(message):
        if is_looked_at:
            view = memoryview(receiver.buffer)
        n = min(len(receiver.buffer) - receiver.tail, len(message) - receiver.tail)
        end = receiver.tail + n
        receiver.buffer[receiver.tail : end] = message[receiver.tail : end]
        receiver.keep(0, end)
        assert receiver.buffer[:end] == message[:end] and len(receiver.buffer) <= max(2 * end, len(message))
        if view is not None:
            view.release()
    receiver.keep(5, len(message))
    assert receiver.buffer[: receiver.tail] == message[5:]
    receiver.keep(receiver.tail, receiver.tail)
    assert (len(receiver.buffer), receiver.tail) == (10, 0)


@pytest.mark.parametrize(
    ("cause", "expected", "says"),
    [
        (None, ConnectionClosed, "the connection was closed: the server sent no reason"),
        (EOFError("cut"), ConnectionClosed, "the connection was closed: cut"),
        (OSError("reset"), IoError, "the connection failed: reset"),
    ],
)
def test_how_it_ends(cause: BaseException | None, expected: type[PgWireError], says: str) -> None:
    receiver = Buffers(10)
    receiver.lost(cause)
    failure = receiver.failure
    assert type(failure) is expected and str(failure) == says and failure.__cause__ is cause
    receiver.lost(OSError("once more"))
    assert receiver.failure is failure


def test_appended_bytes_are_sent_in_order() -> None:
    receiver = Buffers(64)
    receiver.append(b"one")
    receiver.append(b"two")
    assert receiver.out == b"onetwo"
