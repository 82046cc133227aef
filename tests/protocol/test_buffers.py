"""Buffers: the memory that a transport reads into and writes from."""

from __future__ import annotations

import pytest

from pg_wired.errors import ConnectionClosed, IoError, PgWireError
from pg_wired.protocol import messages as m
from pg_wired.protocol.buffers import Buffers, ended_by
from pg_wired.protocol.server_error import PgError


def test_new_buffers_are_empty() -> None:
    receiver = Buffers(10)
    assert (len(receiver.buffer), receiver.tail, bytes(receiver.out), receiver.handed) == (10, 0, b"", 0)
    assert receiver.failure is None and not receiver.is_complete


def test_bytes_taken_by_the_socket_are_removed_and_counted() -> None:
    receiver = Buffers(10)
    receiver.out += b"12345"
    receiver.sent(2)
    assert (bytes(receiver.out), receiver.handed) == (b"345", 2)
    receiver.sent(3)
    receiver.out += b"6"
    assert (bytes(receiver.out), receiver.handed) == (b"6", 5)


def test_the_base_class_discards_received_bytes() -> None:
    receiver = Buffers(10)
    for n in (1, 10, 3):
        receiver.received(n)
    assert (len(receiver.buffer), receiver.tail) == (10, 0)


def test_feed_passes_bytes_on_until_the_buffers_fail() -> None:
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
def test_the_first_loss_decides_the_failure(
    cause: BaseException | None, expected: type[PgWireError], says: str
) -> None:
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


def test_the_last_words_of_a_server_explain_the_end_better_than_the_socket() -> None:
    words = PgError([("S", "FATAL"), ("C", "57P01"), ("M", "shutting down")])
    error = ended_by(OSError("reset"), words)
    assert type(error) is ConnectionClosed and str(error) == "the server closed the connection: shutting down"
    assert error.__cause__ is words
