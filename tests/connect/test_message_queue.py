"""The message queue: whole messages from a stream cut anywhere, bounded buffers, and the reason for the end."""

from __future__ import annotations

import asyncio
from weakref import WeakMethod

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pg_wired.connect.message_queue import BUFFER_BYTES, MessageQueue
from pg_wired.errors import ConnectionClosed, IoError, PgWireError, ProtocolError
from pg_wired.protocol import messages as m
from pg_wired.protocol.server_error import PgError
from pg_wired.testing import error
from rig.strategies import backend_messages


def put(inbox: MessageQueue, data: bytes) -> None:
    """Put data into the buffer after the tail, as much at a time as there is room for, as the transport does."""
    while data and inbox.failure is None:
        part = data[: len(inbox.buffer) - inbox.tail]
        assert part, "the buffer has no room to receive"
        inbox.buffer[inbox.tail : inbox.tail + len(part)] = part
        inbox.received(len(part))
        data = data[len(part) :]


class Owner:
    """An owner that a message queue notifies of new data."""

    def __init__(self) -> None:
        self.heard = 0
        self.inbox = MessageQueue(WeakMethod(self.hear))
        self.inbox.is_logged_in = True

    def hear(self) -> None:
        self.heard += 1


def new_inbox() -> MessageQueue:
    """The message queue of a session after its login, without a living owner."""
    return Owner().inbox


@given(st.lists(backend_messages(), max_size=8), st.data())
def test_a_stream_cut_anywhere_gives_the_same_messages(sent: list[m.BackendMessage], data: st.DataObject) -> None:
    stream = m.encode(*sent)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=10)))
    inbox = new_inbox()
    for begin, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        put(inbox, stream[begin:end])
        assert inbox.size == sum(len(body) + 5 for _, body in inbox.frames) == end - inbox.tail
    taken = [inbox.take() for _ in range(len(inbox.frames))]
    assert (taken, inbox.size, inbox.tail, inbox.take_rest()) == (sent, 0, 0, b"")


@given(st.lists(backend_messages(), min_size=1, max_size=5), st.data())
def test_take_rest_returns_all_bytes_that_were_not_taken(sent: list[m.BackendMessage], data: st.DataObject) -> None:
    stream = m.encode(*sent)
    cut = data.draw(st.integers(0, len(stream)))
    taken = data.draw(st.integers(0, len(sent)))
    inbox = new_inbox()
    put(inbox, stream[:cut])
    taken = min(taken, len(inbox.frames))
    assert [inbox.take() for _ in range(taken)] == sent[:taken]
    assert inbox.take_rest() == stream[len(m.encode(*sent[:taken])) : cut]
    assert not inbox.frames and inbox.size == inbox.tail == 0


def test_messages_that_arrive_byte_by_byte_are_complete() -> None:
    sent = (m.DataRow((b"x" * 300, None)), m.CommandComplete("SELECT 1"), m.ReadyForQuery("I"))
    owner = Owner()
    inbox = owner.inbox
    for octet in m.encode(*sent):
        put(inbox, bytes([octet]))
    assert [inbox.take() for _ in sent] == list(sent)
    assert owner.heard == len(m.encode(*sent))


def test_the_buffer_grows_with_the_bytes_received_and_shrinks_again() -> None:
    inbox = new_inbox()
    head = b"D" + (4 + 1_000_000_000).to_bytes(4, "big")
    put(inbox, head)
    assert len(inbox.buffer) == BUFFER_BYTES  # the length in the header allocates nothing
    put(inbox, bytes(3 * BUFFER_BYTES))
    assert len(inbox.buffer) <= 8 * BUFFER_BYTES
    inbox, row = new_inbox(), m.DataRow((b"y" * 1_000_000,))
    put(inbox, m.encode(row, m.ReadyForQuery("I")))
    assert inbox.take() == row and inbox.take() == m.ReadyForQuery("I")
    put(inbox, m.encode(m.ReadyForQuery("I")))
    assert len(inbox.buffer) == BUFFER_BYTES


@pytest.mark.parametrize("length", [-(2**31), -1, 0, 3])
@pytest.mark.parametrize("letter", "DZE")
def test_an_impossible_length_is_a_protocol_error(letter: str, length: int) -> None:
    inbox = new_inbox()
    put(inbox, m.encode(m.CommandComplete("A")))
    put(inbox, letter.encode() + length.to_bytes(4, "big", signed=True))
    assert isinstance(inbox.failure, ProtocolError) and str(length) in str(inbox.failure)
    assert inbox.take() == m.CommandComplete("A")  # messages before it are still valid


@pytest.mark.parametrize(("letter", "limit"), [("Z", 30_000), ("C", 30_000), ("D", 2**30 - 2), ("t", 2**30 - 2)])
def test_each_kind_of_message_has_a_maximum_length(letter: str, limit: int) -> None:
    for length in (limit, limit + 1):
        inbox = new_inbox()
        put(inbox, letter.encode() + length.to_bytes(4, "big"))
        assert (inbox.failure is None) == (length == limit)


@pytest.mark.parametrize("letter", "RDE")
def test_during_the_login_no_message_may_exceed_30_000_bytes(letter: str) -> None:
    for length in (30_000, 30_001):
        inbox = new_inbox()
        inbox.is_logged_in = False
        put(inbox, letter.encode() + length.to_bytes(4, "big"))
        assert (inbox.failure is None) == (length == 30_000)


async def test_a_waiter_is_woken_by_bytes_by_the_end_and_by_a_failure() -> None:
    loop = asyncio.get_running_loop()
    inbox = new_inbox()
    inbox.waiter = loop.create_future()
    put(inbox, m.encode(m.ReadyForQuery("I")))
    assert inbox.waiter.done()
    inbox.waiter = loop.create_future()
    inbox.lost(None)
    assert inbox.waiter.done()
    inbox = new_inbox()
    inbox.waiter = loop.create_future()
    put(inbox, b"Z\0\0\0\0")
    assert inbox.waiter.done() and isinstance(inbox.failure, ProtocolError)


def test_ended_gives_the_first_cause_of_the_end() -> None:
    reset = ConnectionResetError(104, "reset")
    expected: list[tuple[BaseException | None, type[PgWireError]]] = [(None, ConnectionClosed), (reset, IoError)]
    for cause, kind in expected:
        inbox = new_inbox()
        inbox.lost(cause)
        inbox.lost(OSError("later"))  # only the first cause counts
        assert type(inbox.ended()) is kind and inbox.ended().__cause__ is cause
    inbox = new_inbox()
    put(inbox, m.encode(error("57P01", "going down", "FATAL"), error("08P01", "then", "FATAL")))
    inbox.lost(reset)  # the errors count although they were not taken
    ended = inbox.ended()
    assert isinstance(ended, ConnectionClosed) and isinstance(ended.__cause__, PgError)
    assert ended.__cause__.code == "57P01" and "going down" in str(ended)


@pytest.mark.parametrize(
    ("message", "is_one"),
    [
        (error("42601"), False),
        (m.NoticeResponse(error("01000", severity="WARNING").fields), False),
        (m.NoticeResponse(error("57P01", severity="WARNING").fields), True),
        (m.NoticeResponse(error("57P02", severity="WARNING").fields), True),
        (error("57P01", severity="FATAL"), True),
        (error("XX000", severity="PANIC"), True),
        (b"E\0\0\0\x06S!", False),  # malformed: reported when it is taken
    ],
)
def test_fatal_errors_and_shutdown_warnings_are_the_cause_of_the_end(
    message: m.BackendMessage | bytes, is_one: bool
) -> None:
    inbox = new_inbox()
    put(inbox, message if isinstance(message, bytes) else m.encode(message))
    inbox.lost(None)
    assert (inbox.ended().__cause__ is not None) == is_one


def test_a_malformed_message_ends_the_queue_for_good() -> None:
    inbox = new_inbox()
    put(inbox, b"D\0\0\0\x07\0\x01\0" + m.encode(error("57P01", severity="FATAL"), m.ReadyForQuery("I")))
    with pytest.raises(ProtocolError) as caught:
        inbox.take()
    inbox.fail(caught.value)
    inbox.lost(None)
    assert not inbox.frames and inbox.ended() is caught.value


def test_an_end_of_our_own_is_reported_as_given() -> None:
    inbox = new_inbox()
    ours = ConnectionClosed("it was closed by us")
    inbox.lost(ours)
    assert inbox.ended() is ours and ours.__cause__ is None
