"""A hostile or broken server: waiting requests fail at once with a clear error, and claimed lengths take no memory."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from pg_wired.errors import ConnectionClosed, Outcome, ProtocolError
from pg_wired.protocol import messages as m
from pg_wired.protocol.octets import LONG_LIMIT_BYTES, SHORT_LIMIT_BYTES
from pg_wired.protocol.server_error import PgError
from pg_wired.session.session import MAX_SETTINGS
from pg_wired.session.table import State, names_of
from pg_wired.testing import describe, error
from tests.session.conversation import PREPARED, READY, Client, later, pg_error, result
from tests.session.test_table import ROADS

MIB = 1024 * 1024
# Must not be read after a protocol error: it would be the rest of a valid answer.
BAIT = m.encode(m.ParameterStatus("bait", "taken"), *result((b"bait",)), READY)
ROW = m.RowDescription((describe(["a"], ()).fields[0],))  # type: ignore[union-attr]


def packet(tag: bytes, body: bytes = b"", n: int | None = None) -> bytes:
    """A message with any body; `n` is a length that may be wrong."""
    return tag + (len(body) + 4 if n is None else n).to_bytes(4, "big", signed=True) + body


def longer(message: m.Message) -> bytes:
    data = m.encode(message)
    return packet(data[:1], data[5:] + b"\0")


def shorter(message: m.Message) -> bytes:
    data = m.encode(message)
    return packet(data[:1], data[5:-1])


@contextmanager
def little_memory(most: int = MIB) -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < most


REFUSED = (State.COPY_REFUSED, State.EXECUTE_REFUSED, State.RESYNC)


def waiting_in(state: int) -> Client:
    """A client in this state, with two more requests after the one that is being answered."""
    client = Client()
    submit, answer = ROADS[state]
    submit(client)
    if state != State.IDLE:
        if state not in REFUSED:  # a refused COPY ends the connection if other requests follow it
            client.query("select 1")
        client.feed(*answer)
        client.simple("select 2")
    client.take()
    assert client.session.failure is None and client.session.state == state
    return client


IDLE, PARSE, PARAMETERS, FIELDS = State.IDLE, State.PARSE, State.PARAMETERS, State.FIELDS
BIND, EXECUTE, CLOSE, QUERY = State.BIND, State.EXECUTE, State.CLOSE, State.QUERY
STATEMENT, ROWS, SYNC, DISCARD = State.STATEMENT, State.STATEMENT_ROWS, State.SYNC, State.QUERY_DISCARD

# Each message that has a body, with a state in which it is legal.
LEGAL: list[tuple[int, m.BackendMessage]] = [
    (PARAMETERS, m.ParameterDescription((23, 25))),
    (FIELDS, describe(["a", "b"], ())),
    (ROWS, m.DataRow((b"x",))),
    (EXECUTE, m.CommandComplete("SELECT 1")),
    (SYNC, READY),
    (SYNC, error("22012")),
    (QUERY, m.NoticeResponse((("M", "x"),))),
    (IDLE, m.ParameterStatus("a", "b")),
    (IDLE, m.NotificationResponse(1, "a", "b")),
    (QUERY, m.CopyInResponse(0, (0,))),
    (EXECUTE, m.CopyOutResponse(0, (0,))),
]
EMPTY: list[tuple[int, m.BackendMessage]] = [
    (PARSE, m.ParseComplete()),
    (BIND, m.BindComplete()),
    (CLOSE, m.CloseComplete()),
    (FIELDS, m.NoData()),
    (EXECUTE, m.EmptyQueryResponse()),
    (EXECUTE, m.PortalSuspended()),
    (DISCARD, m.CopyDone()),
]
DATA_ROW = [b"\0\1\xff\xff\xff\xfe", b"\0\1\x80\0\0\0", b"\0\1\x7f\xff\xff\xffx", b"\0\1\0\0\0\2x", b"\0\1", b"\0"]
DESCRIPTIONS = [
    *[b"\xff\xff", b"\x7f\xffa\0" + bytes(18), b"\0\1a" + bytes(17) + b"\1", b"\0\1a\0" + bytes(16) + b"\0\2"],
    *[b"\0", b"\0\2a\0" + bytes(18), b"\0\0x"],
]

CORPUS: list[tuple[str, int, bytes]] = [
    *[(f"B01 length {n}", state, packet(m.encode(x)[:1], n=n)) for state, x in LEGAL for n in (0, 1, 3, -1, -(2**31))],
    *[("B02 no body", state, packet(m.encode(x)[:1])) for state, x in LEGAL],
    *[
        ("B04 long", state, packet(m.encode(x)[:1], n=SHORT_LIMIT_BYTES + 1))
        for state, x in LEGAL + EMPTY
        if chr(x.tag or 0) not in "TDdENAt"
    ],
    *[("B04 too long", state, packet(m.encode(x)[:1], n=LONG_LIMIT_BYTES + 1)) for state, x in LEGAL],
    *[("B06", ROWS, packet(b"D", body)) for body in DATA_ROW],
    ("B07 a column less", ROWS, m.encode(m.DataRow(()))),
    ("B07 a column more", ROWS, m.encode(m.DataRow((b"a", b"b")))),
    ("B07 65,535 columns", ROWS, m.encode(m.DataRow((None,) * 65_535))),
    ("B07 65,535 columns claimed", ROWS, packet(b"D", b"\xff\xff")),
    ("B07 a row before its columns", QUERY, m.encode(m.DataRow((b"a",)))),
    ("B07 a row between statements", STATEMENT, m.encode(m.DataRow((b"a",)))),
    *[("B08 a byte more", state, longer(x)) for state, x in LEGAL + EMPTY],
    *[("B08 a byte less", state, shorter(x)) for state, x in LEGAL],
    *[("B09", FIELDS, packet(b"T", body)) for body in DESCRIPTIONS],
    ("B10 no final NUL", QUERY, packet(b"E", b"SERROR\0Mx\0")),
    ("B10 no NUL at all", QUERY, packet(b"E", b"SERROR")),
    ("B12 S", IDLE, packet(b"S", b"a\0b")),
    ("B12 S without value", IDLE, packet(b"S", b"a\0")),
    ("B12 A", QUERY, packet(b"A", b"\0\0\0\1a\0b")),
    ("B12 N", QUERY, packet(b"N", b"Mx")),
    *[("B13", SYNC, packet(b"Z", body)) for body in (b"X", b"", b"II", b"\0", b"i")],
    *[("B14", IDLE, packet(tag)) for tag in (b"1", b"2", b"3", b"n", b"I", b"s", b"c")],
    ("B14 Z", IDLE, m.encode(READY)),
    ("B14 D", IDLE, m.encode(m.DataRow((b"a",)))),
    ("B14 C", IDLE, m.encode(m.CommandComplete("SELECT 1"))),
    *[("B15", state, m.encode(m.FunctionCallResponse(None))) for state in ROADS],
    *[("B15", state, m.encode(m.CopyBothResponse(0, ()))) for state in ROADS],
    ("B15 copy data", EXECUTE, m.encode(m.CopyData(b"x"))),
    ("B15 copy while idle", IDLE, m.encode(m.CopyInResponse(0, ()))),
    ("B16 1 without Parse", BIND, m.encode(m.ParseComplete())),
    ("B16 2 is missing", BIND, m.encode(m.CommandComplete("SELECT 1"))),
    ("B16 two tags", SYNC, m.encode(m.CommandComplete("SELECT 1"))),
    ("B16 a row behind the tag", SYNC, m.encode(m.DataRow((b"a",)))),
    ("B16 no answer at all", QUERY, m.encode(READY)),
    *[("B19 authentication", state, m.encode(m.AuthenticationOk())) for state in ROADS],
    *[("B19 B28 key", state, m.encode(m.BackendKeyData(1, b"1234"))) for state in ROADS],
    ("B19 version", IDLE, m.encode(m.NegotiateProtocolVersion(3 << 16, ()))),
    ("B24 HTTP", QUERY, b"HTTP/1.1 400 Bad Request\r\n\r\n"),
    ("B24 TLS alert", QUERY, b"\x15\x03\x03\0\2\2\x28"),
    ("B24 SSH", QUERY, b"SSH-2.0-OpenSSH_9.2\r\n"),
    ("B24 version 2", QUERY, b"EFATAL:  unsupported frontend protocol\n\0"),
    ("B27 no NUL", EXECUTE, packet(b"C", b"SELECT 1")),
    ("B27 NUL inside", EXECUTE, packet(b"C", b"SELECT\x001\0")),
    ("B27 100 MiB", EXECUTE, packet(b"C", b"SELECT 1", n=100 * MIB)),
]


@pytest.mark.parametrize(
    ("state", "data"), [case[1:] for case in CORPUS], ids=[f"{case[0]}-{names_of(State)[case[1]]}" for case in CORPUS]
)
def test_a_malformed_message_fails_every_waiting_request_and_the_session(state: int, data: bytes) -> None:
    client = waiting_in(state)
    with little_memory():
        client.feed(data + BAIT * 3)
    failure = client.session.failure
    assert isinstance(failure, ProtocolError), failure
    for sink in client.sinks:
        assert sink.result is None
        assert isinstance(sink.error, ProtocolError) and str(sink.error) == str(failure)
        assert sink.error.outcome is Outcome.UNKNOWN
    assert "bait" not in client.session.parameters
    client.feed(BAIT)
    client.session.lost(ConnectionResetError())
    assert "bait" not in client.session.parameters and client.session.failure is failure
    assert (bytes(client.session.out), client.session.waiting()) == (b"", [])


def test_an_unknown_tag_in_any_state_is_a_protocol_error() -> None:
    """B05: every byte that is no tag a session may receive; FunctionCallResponse and the like are among them."""
    known = {message.tag for _, message in LEGAL + EMPTY} | {ord("d")}
    for state in ROADS:
        for byte in set(range(256)) - known:
            client = waiting_in(state)
            client.feed(packet(bytes([byte])) + BAIT)
            assert isinstance(client.session.failure, ProtocolError), (state, byte)
            assert all(sink.result is None and sink.is_answered for sink in client.sinks)


@pytest.mark.parametrize("claim", [LONG_LIMIT_BYTES, 2**29])
@pytest.mark.parametrize(
    ("state", "tag"), [(ROWS, b"D"), (QUERY, b"T"), (QUERY, b"N"), (QUERY, b"E"), (PARAMETERS, b"t")]
)
def test_a_claimed_length_takes_no_memory_until_the_bytes_arrive(state: int, tag: bytes, claim: int) -> None:
    """B03, B22: the length may be genuine, so only the deadline of a request ends the wait."""
    client = waiting_in(state)
    with little_memory():
        client.feed(packet(tag, n=claim))
        for _ in range(1000):
            client.feed(b"x")
    assert client.session.failure is None and not any(sink.is_answered for sink in client.sinks)
    client.session.lost(None)
    assert all(isinstance(sink.error, ConnectionClosed) for sink in client.sinks)


# B10: fields that servers and poolers may omit, and fields that they may add.
ERRORS = {
    "no fields": (b"\0", "ERROR", "", ""),
    "no C": (b"SERROR\0VERROR\0Mx\0\0", "ERROR", "", "x"),
    "no S, no V": (b"C08P01\0Mx\0\0", "ERROR", "08P01", "x"),
    "no V": (b"SERROR\0C08P01\0Mx\0\0", "ERROR", "08P01", "x"),
    "no M": (b"SERROR\0C08P01\0\0", "ERROR", "08P01", ""),
    "twice": (b"SERROR\0SFATAL\0C1\0C2\0Ma\0Mb\0\0", "ERROR", "1", "a"),
    "unknown fields": (b"\xffx\0?y\0Mx\0\0", "ERROR", "", "x"),
    "1 MiB": (b"M" + b"x" * MIB + b"\0\0", "ERROR", "", "x" * MIB),
    "not UTF-8": (b"M\xe9t\xe9\0\0", "ERROR", "", "\ufffdt\ufffd"),
    "localized": (b"SFEHLER\0VERROR\0C1\0Mx\0\0", "ERROR", "1", "x"),
}


@pytest.mark.parametrize(("body", "severity", "code", "message"), ERRORS.values(), ids=list(ERRORS))
def test_incomplete_and_unusual_errors_are_accepted(body: bytes, severity: str, code: str, message: str) -> None:
    client = Client()
    sink, neighbour = client.simple("select"), client.simple("select")
    client.feed(packet(b"E", body) + m.encode(READY, *result(), READY))
    failure = pg_error(sink)
    assert (failure.severity, failure.code, failure.message) == (severity, code, message)
    assert failure.outcome is Outcome.REJECTED and neighbour.result == [[]]


def test_any_accepted_error_may_explain_why_the_connection_ended() -> None:
    for body, *_ in ERRORS.values():
        client = Client()
        client.feed(packet(b"E", body))
        client.session.lost(None)
        assert isinstance(client.session.failure, ConnectionClosed)
        assert isinstance(client.session.failure.__cause__, PgError)


# ---- floods


def test_a_flood_of_parameters_ends_the_session_in_little_memory() -> None:
    """B20: a million ParameterStatus messages."""
    client = waiting_in(QUERY)
    begin = time.process_time()
    with little_memory():
        for i in range(0, 1_000_000, 1000):
            if client.session.failure is None:
                client.feed(*[m.ParameterStatus(f"p{n}", "") for n in range(i, i + 1000)])
    assert isinstance(client.session.failure, ProtocolError)
    assert len(client.session.parameters) == MAX_SETTINGS
    assert time.process_time() - begin < 10


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (ROWS, m.NoticeResponse((("C", "01000"), ("M", "noise")))),
        (ROWS, m.NotificationResponse(1, "never listened to", "\udcff")),
        (ROWS, m.ParameterStatus("a", "b")),
        (IDLE, m.NoticeResponse((("C", "57P01"), ("M", "noise")))),
        (IDLE, error("57P01", "noise", "FATAL")),
        (SYNC, error("57P01", "noise", "FATAL")),
        (DISCARD, m.CopyData(bytes(100))),
    ],
    ids=lambda value: getattr(value, "name", type(value).__name__),
)
def test_a_flood_of_legal_messages_takes_no_memory(state: int, message: m.BackendMessage) -> None:
    """B11, B21, B22: the flood takes no memory, and a request whose answer comes after it still gets the answer."""
    client = waiting_in(state)
    data = m.encode(message) * 200
    with little_memory(MIB // 4):
        for _ in range(30):
            client.feed(data)
    assert client.session.failure is None
    if state is ROWS:
        client.feed(*result((b"1",)), READY)
        assert client.sinks[0].result == [[(b"1",)]]
    if isinstance(message, m.NotificationResponse):
        assert client.session.notifications.dropped == 6000


def test_a_long_message_in_small_pieces_is_read_in_linear_time() -> None:
    client = Client()
    sink = client.query("select")
    client.feed(*PREPARED[:2], ROW, m.BindComplete())
    data = m.encode(m.DataRow((bytes(8 * MIB),)), *result(), READY)
    begin = time.process_time()
    for i in range(0, len(data), 1000):
        client.feed(data[i : i + 1000])
    assert len(sink.result[0][0]) == 8 * MIB
    assert time.process_time() - begin < 5


def test_the_bait_is_accepted_where_it_is_legal() -> None:
    """Without a protocol error, the client accepts the bait."""
    client = waiting_in(IDLE)
    client.query("select")
    client.feed(*PREPARED[:2], ROW, m.BindComplete(), BAIT)
    client.query("select")
    client.feed(*later((b"x",)))
    assert [list(sink.result) for sink in client.sinks] == [[(b"bait",)], [(b"x",)]]
    assert client.session.parameters == {"bait": "taken"}
