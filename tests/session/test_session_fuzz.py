"""Damaged streams: whatever changes in a valid stream, no request gets another one's row, and all errors are clear.

Every request sends a nonce, and its row returns it. Changed bytes may alter a value, and the client cannot detect that
a whole row, or a statement of a simple query, was dropped or repeated; but no change turns one nonce into another.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pg_wired.errors import PgWireError, ProtocolError
from pg_wired.protocol import messages as m
from pg_wired.protocol.server_error import PgError
from rig import strategies
from tests.session.conversation import Client, Sink
from tests.session.server_model import Server
from tests.session.test_table import ROADS

ASKED: list[Callable[[Client, bytes], Sink]] = [
    lambda client, nonce: client.query("select $", nonce),
    lambda client, nonce: client.query("select $", nonce),
    lambda client, nonce: client.query("insert $", nonce),
    lambda client, nonce: client.simple("select 1; insert 1"),
    lambda client, nonce: client.query("fail"),
    lambda client, nonce: client.query("select $", nonce),
    lambda client, nonce: client.simple(""),
    lambda client, nonce: client.query("show $", nonce),
]
SEVERAL = 3  # the simple query of several statements: the client does not know their number
NONCES = [hashlib.md5(b"%d" % n).digest() for n in range(len(ASKED))]


def ask_all(client: Client, nonces: list[bytes]) -> None:
    for ask, nonce in zip(ASKED, nonces, strict=True):
        ask(client, nonce)


def record(*rounds: list[bytes]) -> bytes:
    """The server's answer to the last of these rounds."""
    client, server = Client(), Server()
    answer = b""
    for nonces in rounds:
        ask_all(client, nonces)
        answer = server.answer(client.take())
        client.feed(answer)
    return answer


EARLIER = [b"earlier"] * len(ASKED)
BEFORE = record(EARLIER)
# The streams to change: True has known statements, False their first use.
GOOD = {True: record(EARLIER, NONCES), False: record(NONCES)}


def talk(data: bytes, *, again: bool = True) -> list[Sink]:
    """Send the requests for the first time or again, answer them with `data`, and end the connection."""
    client = Client()
    if again:
        ask_all(client, EARLIER)
        client.feed(BEFORE)
        client.sinks.clear()
    ask_all(client, NONCES)
    client.feed(data)
    client.session.lost(None)
    return client.sinks


def rows(sink: Sink) -> list[Any]:
    if sink.result is None:
        return []
    return [row for part in (sink.result if isinstance(sink.result, list) else [sink.result]) for row in part]


def check_nonces(sinks: list[Sink]) -> None:
    """Check that every request has ended, and that none has a nonce of another request."""
    for sink, nonce in zip(sinks, NONCES, strict=True):
        assert isinstance(sink.error, PgWireError) or sink.result is not None
        values = {value for row in rows(sink) for value in row}
        assert not values & {*NONCES, b"earlier"} - {nonce}


EXPECTED = {again: [sink.shown() for sink in talk(data, again=again)] for again, data in GOOD.items()}


def check_same_or_failed(sinks: list[Sink], again: bool, but_rows: bool) -> None:
    """Check that each request has the expected answer or failed; if `but_rows`, rows may be missing or repeated."""
    check_nonces(sinks)
    for n, (sink, expected, nonce) in enumerate(zip(sinks, EXPECTED[again], NONCES, strict=True)):
        if sink.error is None and sink.shown() != expected and n != SEVERAL:
            assert but_rows and all(row[1:] in ((), (nonce,)) for row in rows(sink))


def test_the_unchanged_stream_gives_the_expected_answers() -> None:
    for again, data in GOOD.items():
        sinks = talk(data, again=again)
        assert [type(sink.error) for sink in sinks] == [PgError if n == 4 else type(None) for n in range(len(sinks))]
        check_same_or_failed(sinks, again, but_rows=False)
        assert NONCES[0] in rows(sinks[0])[0]


# ---- bytes


@pytest.mark.parametrize(
    "change",
    [
        *[lambda byte, bit=bit: bytes([byte ^ 1 << bit]) for bit in range(8)],
        lambda byte: bytes([byte ^ 0xFF]),
        lambda byte: b"",
        lambda byte: b"\0" + bytes([byte]),
        lambda byte: bytes([byte, byte]),
    ],
    ids=[*[f"bit {bit}" for bit in range(8)], "all bits", "dropped", "a NUL before", "twice"],
)
def test_changing_any_byte_gives_no_request_the_row_of_another(change: Callable[[int], bytes]) -> None:
    data = GOOD[True]
    for i in range(len(data)):
        check_nonces(talk(data[:i] + change(data[i]) + data[i + 1 :]))


@settings(deadline=None)
@given(again=st.booleans(), begin=st.floats(0, 1), n=st.integers(0, 9), other=st.binary(max_size=9))
def test_replacing_any_bytes_gives_no_request_the_row_of_another(
    again: bool, begin: float, n: int, other: bytes
) -> None:
    data = GOOD[again]
    i = int(begin * len(data))
    check_nonces(talk(data[:i] + other + data[i + n :], again=again))


@given(state=st.sampled_from(list(ROADS)), data=st.binary(max_size=200))
def test_any_bytes_in_any_state_cause_at_most_a_protocol_error(state: Any, data: bytes) -> None:
    client = Client()
    submit, answer = ROADS[state]
    submit(client)
    client.feed(*answer)
    client.feed(data)
    assert client.session.failure is None or isinstance(client.session.failure, ProtocolError)


@settings(deadline=None)
@given(state=st.sampled_from(list(ROADS)), messages=st.lists(strategies.backend_messages(), max_size=5))
def test_any_messages_in_any_state_leave_no_request_unanswered(state: Any, messages: list[m.BackendMessage]) -> None:
    client = Client()
    submit, answer = ROADS[state]
    submit(client)
    client.feed(*answer, *messages)
    client.session.lost(None)
    assert all(sink.is_answered for sink in client.sinks)


# ---- messages


def pieces(data: bytes) -> list[bytes]:
    """Split a stream into its encoded messages."""
    found, i = [], 0
    while i < len(data):
        stop = i + 1 + int.from_bytes(data[i + 1 : i + 5], "big")
        found.append(data[i:stop])
        i = stop
    return found


CHANGES: dict[str, Callable[[list[bytes], int], list[bytes]]] = {
    "dropped": lambda parts, i: [*parts[:i], *parts[i + 1 :]],
    "twice": lambda parts, i: [*parts[: i + 1], *parts[i:]],
    "the next one first": lambda parts, i: [*parts[:i], *parts[i : i + 2][::-1], *parts[i + 2 :]],
    "the last": lambda parts, i: parts[: i + 1],
}


@pytest.mark.parametrize("again", [True, False])
@pytest.mark.parametrize("change", CHANGES.values(), ids=list(CHANGES))
def test_dropped_repeated_or_swapped_messages_give_the_same_answers_or_errors(
    change: Callable[[list[bytes], int], list[bytes]], again: bool
) -> None:
    parts = pieces(GOOD[again])
    for i in range(len(parts)):
        sinks = talk(b"".join(change(parts, i)), again=again)
        check_same_or_failed(sinks, again, but_rows=parts[i][:1] == b"D")


@pytest.mark.parametrize("tag", [bytes([message.tag or 0]) for message in map(m.BACKEND.get, m.BACKEND) if message])
def test_a_message_under_another_tag_gives_the_same_answers_or_errors(tag: bytes) -> None:
    parts = pieces(GOOD[True])
    for i, part in enumerate(parts):
        sinks = talk(b"".join([*parts[:i], tag + part[1:], *parts[i + 1 :]]))
        # A message may then be read as a notice, or as an error of the same request.
        check_same_or_failed(sinks, True, but_rows=part[:1] == b"D" or tag == b"D")
