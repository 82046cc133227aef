"""Streams that end at any byte or are malformed: each waiting request fails at once, with the right outcome."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from pg_wired import (
    AsyncConn,
    ConnectionClosed,
    FieldDescription,
    IoError,
    Outcome,
    PgError,
    PgWireError,
    ProtocolError,
)
from pg_wired.protocol import messages as m
from pg_wired.testing import FakePG, Peer, error
from rig.checks import SOON, ends_clean, outcome_of, until

pytestmark = pytest.mark.both_loops

FIELDS = m.RowDescription((FieldDescription("c", 0, 0, 25, -1, -1, 0),))
READY = m.ReadyForQuery("I")
FATAL = error("57P01", "terminating connection due to administrator command", "FATAL")


def rows(*values: bytes) -> list[m.BackendMessage]:
    return [*[m.DataRow((value,)) for value in values], m.CommandComplete(f"SELECT {len(values)}")]


# The answers to four requests; each request is finished by the last byte of its answer.
ANSWERS: list[list[m.BackendMessage]] = [
    [m.ParseComplete(), m.ParameterDescription(()), FIELDS, m.BindComplete(), *rows(b"first", b"1"), READY],
    [m.BindComplete(), FIELDS, *rows(b"second", b"2"), READY],
    [FIELDS, *rows(b"third"), FIELDS, *rows(b"fourth", b"4"), READY],
    [m.ParseComplete(), error("22012", "division by zero"), READY],
]
RESULTS: list[Any] = [
    [(b"first",), (b"1",)],
    [(b"second",), (b"2",)],
    [[(b"third",)], [(b"fourth",), (b"4",)]],
    "22012",
]
STREAM = b"".join(m.encode(*answer) for answer in ANSWERS)
ENDS = [len(b"".join(m.encode(*answer) for answer in ANSWERS[: n + 1])) for n in range(len(ANSWERS))]


def ask(conn: AsyncConn) -> list[asyncio.Future[Any]]:
    return [
        conn.exec_query("select 1"),
        conn.exec_query("select 1"),
        conn.simple_query("select; select"),
        conn.exec_query("select 1/0"),
    ]


def simplified(result: Any) -> Any:
    if isinstance(result, PgError):
        return result.code
    if isinstance(result, list):
        return [list(each) for each in result]
    return result if isinstance(result, BaseException) else list(result)


async def cut_off(fake: FakePG) -> list[Any]:
    """The results of the four requests."""
    conn = await AsyncConn.connect(fake.dsn)
    results = await asyncio.gather(*ask(conn), return_exceptions=True)
    assert not conn.is_alive and conn._core.transport.is_closed
    return [simplified(result) for result in results]


def script_of(cut: list[int], reset: bool) -> Any:
    """Answer with the first `cut[0]` bytes of the stream, then end the connection."""

    async def script(peer: Peer) -> None:
        await peer.startup()
        for _ in ANSWERS:
            await peer.group()
        await peer.write(STREAM[: cut[0]])
        if reset:
            peer.reset()
        else:
            peer.close()

    return script


@pytest.mark.parametrize(("reset", "step"), [(False, 1), (True, 5)], ids=["FIN", "RST"])
@ends_clean(60)
async def test_an_end_at_any_byte_fails_only_the_unfinished_requests(reset: bool, step: int) -> None:
    cut = [0]
    async with FakePG(script_of(cut, reset)) as fake:
        for cut[0] in range(0, len(STREAM), step):
            results = await cut_off(fake)
            finished = sum(end <= cut[0] for end in ENDS)
            if reset:  # a reset may overtake the data sent before it
                finished = min(finished, sum(not isinstance(result, ConnectionClosed | IoError) for result in results))
            assert results[:finished] == RESULTS[:finished], cut
            for result in results[finished:]:
                assert isinstance(result, ConnectionClosed | IoError) and result.outcome is Outcome.UNKNOWN, cut


# ---- the last message


async def raise_after(*items: m.BackendMessage | bytes) -> Any:
    """The result of a request when the server sends `items` and closes."""

    async def script(peer: Peer) -> None:
        await peer.startup()
        await peer.group()
        await peer.send(*items)
        peer.close()

    async with FakePG(script) as fake:
        conn = await AsyncConn.connect(fake.dsn)
        result = await outcome_of(conn.simple_query("select 1"))
        await until(lambda: conn._core.transport.is_closed, "the end")
        return result


NO_V = m.ErrorResponse((("S", "FATAL"), ("C", "08P01"), ("M", "server conn crashed?")))
SHUTDOWN = m.NoticeResponse(error("57P01", "terminating connection", "WARNING").fields)
CRASH = m.NoticeResponse(error("57P02", "terminating connection because of crash", "WARNING").fields)
HARMLESS = m.NoticeResponse(error("01000", "careful", "WARNING").fields)
LAST_WORDS: dict[str, tuple[list[m.BackendMessage], str | None]] = {
    "none": ([], None),
    "fatal": ([FATAL], "57P01"),
    "fatal among rows": ([FIELDS, m.DataRow((b"1",)), FATAL], "57P01"),
    "fatal after the tag": ([FIELDS, *rows(b"1"), FATAL], "57P01"),
    "two of a pooler": ([FATAL, NO_V], "57P01"),
    "a pooler's without severity": ([NO_V], "08P01"),
    "crash": ([CRASH], "57P02"),
    "shutdown at once": ([HARMLESS, SHUTDOWN], "57P01"),
    "a harmless notice": ([HARMLESS], None),
    "an error that is not the end": ([error("22012", "division by zero")], None),
}


@pytest.mark.parametrize(("items", "code"), LAST_WORDS.values(), ids=LAST_WORDS)
@ends_clean()
async def test_the_last_message_of_the_server_is_the_cause(items: list[m.BackendMessage], code: str | None) -> None:
    result = await raise_after(*items)
    assert type(result) is ConnectionClosed and result.outcome is Outcome.UNKNOWN
    assert (result.__cause__.code if isinstance(result.__cause__, PgError) else result.__cause__) == code
    if isinstance(result.__cause__, PgError):
        assert result.__cause__.message in str(result)


@ends_clean()
async def test_an_answer_that_arrives_with_the_end_is_returned() -> None:
    assert [list(each) for each in await raise_after(FIELDS, *rows(b"1"), READY, FATAL)] == [[(b"1",)]]


@pytest.mark.parametrize("size", [10, 10_000_000])
@ends_clean()
async def test_the_last_message_is_found_even_if_a_write_fails_first(size: int) -> None:
    async def script(peer: Peer) -> None:
        await peer.startup()
        await over.wait()

    over = asyncio.Event()
    async with FakePG(script) as fake:
        conn = await AsyncConn.connect(fake.dsn)
        [peer] = fake.peers
        await asyncio.sleep(0)
        # The client writes before the loop has noticed any of this.
        peer.sock.send(m.encode(FATAL))
        peer.reset()
        result = await outcome_of(conn.exec_query("select $1", (b"x" * size,)))
        over.set()
        assert type(result) is ConnectionClosed
        assert isinstance(result.__cause__, PgError) and result.__cause__.code == "57P01"
        assert result.outcome is Outcome.NOT_SENT  # send() refused the data


@ends_clean()
async def test_a_server_that_closes_during_a_write_fails_requests_with_their_outcomes() -> None:
    async def script(peer: Peer) -> None:
        await peer.startup()
        await blocked.wait()
        peer.sock.send(m.encode(FATAL))
        peer.sock.close()  # with bytes unread, so it sends a RST

    blocked = asyncio.Event()
    async with FakePG(script) as fake:
        conn = await AsyncConn.connect(fake.dsn)
        big = conn.exec_query("select $1", (b"x" * 20_000_000,))
        small = conn.exec_query("select 1")
        blocked.set()
        for reply, outcome in ((big, Outcome.UNKNOWN), (small, Outcome.NOT_SENT)):
            result = await outcome_of(reply)
            assert isinstance(result, PgWireError) and result.outcome is outcome
            assert isinstance(result.__cause__, PgError) and result.__cause__.code == "57P01"


# ---- malformed streams


GARBAGE: dict[str, bytes] = {
    "http": b"HTTP/1.1 200 OK\r\n\r\n",
    "unknown tag": b"X\0\0\0\x04",
    "a tag of the client": b"Q\0\0\0\x04",
    "length too short": b"Z\0\0\0\x03",
    "negative length": b"T\xff\xff\xff\xff",
    "length too long": b"D\x7f\xff\xff\xff",
    "a long message that is never long": b"C\0\0\xff\xff",
    "unknown status": b"Z\0\0\0\x05X",
    "ready too long": b"Z\0\0\0\x06II",
    "function call": m.encode(m.FunctionCallResponse(None)),
    "copy both": m.encode(m.CopyBothResponse(0, ())),
    "authentication": m.encode(m.AuthenticationOk()),
    "a row without description": m.encode(m.DataRow((b"1",))),
    "a row with a column too many": m.encode(FIELDS, m.DataRow((b"1", b"2"))),
    "a row with a column too few": m.encode(FIELDS, m.DataRow(())),
    "a row whose value is cut off": m.encode(FIELDS) + b"D\0\0\0\x0c\0\x01\0\0\0\xffxx",
    "a row with a negative length": m.encode(FIELDS) + b"D\0\0\0\x0a\0\x01\xff\xff\xff\xfe",
    "a row with bytes left over": m.encode(FIELDS) + b"D\0\0\0\x0b\0\x01\0\0\0\0x",
    "a description cut off": b"T\0\0\0\x07\0\x01c",
    "ready too early": m.encode(READY),
    "an answer to extended messages": m.encode(m.ParseComplete()),
    "rows that are never ended": m.encode(FIELDS, m.DataRow((b"1",)), READY),
    "an error without its end": b"E\0\0\0\x09SERROR",
    "an empty notification": b"A\0\0\0\x04",
}


@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=GARBAGE)
@ends_clean()
async def test_garbage_fails_all_requests_at_once(garbage: bytes) -> None:
    async def script(peer: Peer) -> None:
        await peer.startup()
        for _ in range(3):
            await peer.group()
        sent_at.append(time.monotonic())
        await peer.send(garbage, *[READY] * 3)
        await peer.eof()

    sent_at: list[float] = []
    async with FakePG(script) as fake:
        conn = await AsyncConn.connect(fake.dsn, max_in_flight=3)
        replies: list[asyncio.Future[Any]] = [conn.simple_query("select 1") for _ in range(3)]
        replies.append(conn.exec_query("select 2"))
        results = await asyncio.gather(*replies, return_exceptions=True)
        assert time.monotonic() - sent_at[0] < SOON
        assert [type(result) for result in results] == [ProtocolError] * 4
        outcomes = [getattr(result, "outcome", None) for result in results]
        assert outcomes == [Outcome.UNKNOWN] * 3 + [Outcome.NOT_SENT]
        assert not conn.is_alive and conn._core.transport.is_closed
        with pytest.raises(ProtocolError) as caught:
            conn.exec_query("select 3")
        assert caught.value.outcome is Outcome.NOT_SENT


@pytest.mark.parametrize("garbage", [READY, m.DataRow((b"1",)), m.CommandComplete("X"), b"!", b"Z\0\0\0\0"])
@ends_clean()
async def test_garbage_while_idle_ends_the_connection(garbage: m.BackendMessage | bytes) -> None:
    async def script(peer: Peer) -> None:
        await peer.startup()
        await idle.wait()
        await peer.send(garbage, b"    ")
        await peer.eof()

    idle = asyncio.Event()
    async with FakePG(script) as fake:
        conn = await AsyncConn.connect(fake.dsn)
        idle.set()
        await until(lambda: conn._core.transport.is_closed, "the end")
        with pytest.raises(ProtocolError):
            conn.exec_query("select 1")


@ends_clean()
async def test_more_than_1000_settings_end_the_connection() -> None:
    async def script(peer: Peer) -> None:
        await peer.startup()
        flood = [m.ParameterStatus(f"name{number}", "x") for number in range(1500)]
        await peer.send(*flood)
        await peer.eof()

    async with FakePG(script) as fake:
        conn = await AsyncConn.connect(fake.dsn)
        await until(lambda: not conn.is_alive, "the end")
        assert len(conn.parameters) <= 1000
        with pytest.raises(ProtocolError, match="1000"):
            conn.exec_query("select 1")
