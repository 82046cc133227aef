"""Requests: bad input is refused at the call; then how a request is encoded, answered and ended."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from pg_wired.errors import ConfigError, ConnectionClosed, Outcome, PipelineAborted
from pg_wired.protocol import messages as m
from pg_wired.protocol import octets
from pg_wired.protocol.octets import LONG_LIMIT_BYTES
from pg_wired.protocol.records import FieldDescription, StatementDescription
from pg_wired.protocol.rows import Rows
from pg_wired.protocol.server_error import PgError
from pg_wired.protocol.types import FormatCode
from pg_wired.session.request import (
    COPY_IN,
    COPY_OUT,
    MAX_NOTES,
    SIMPLE,
    Request,
    add_note,
    described_item,
    encoded_request,
    failing_item,
    query_request,
    simple_query_request,
    sync_request,
)
from pg_wired.session.table import State
from pg_wired.testing import TEXT, describe, error
from tests.session.conversation import READY, Client, Consumer, Sink, first, known, later, result

FIELD = FieldDescription("a", 0, 0, TEXT, -1, -1, 0)
SYNC = m.encode(m.Sync())
HUGE = bytes(32 * 1024)  # 65,535 references to it are 2 GiB

Call = Callable[[Client], Any]


WRONG: list[tuple[str, Call, type[Exception], str]] = [
    ("parameter type", lambda c: c.query("x", 1), TypeError, r"^parameter \$1 is int: pass bytes"),  # type: ignore[arg-type]
    ("parameters", lambda c: c.query("x", *("",) * 65_536), ConfigError, "^65536 parameters"),
    ("parameter surrogate", lambda c: c.query("x", "\ud800"), ConfigError, r"^parameter \$1 cannot be sent as UTF-8"),
    ("parameters' size", lambda c: c.query("x", *(HUGE,) * 65_535), ConfigError, "^parameters of 2147450880 bytes"),
    ("NUL", lambda c: c.query("a\0b"), ConfigError, "^sql has a NUL character at 1"),
    ("surrogate", lambda c: c.query("\ud800"), ConfigError, "^sql cannot be sent as UTF-8"),
    ("sql type", lambda c: c.query(b"select"), TypeError, "^sql is bytes: pass a str"),  # type: ignore[arg-type]
    ("param format", lambda c: c.query("x", "1", param_formats=2), ConfigError, "^param_formats has 2: pass Format"),
    (
        "param formats",
        lambda c: c.query("x", "1", param_formats=[0, 0]),
        ConfigError,
        "^param_formats has 2 codes for 1",
    ),
    (
        "result format",
        lambda c: c.query("x", result_formats=[0, -1]),
        ConfigError,
        "^result_formats has -1: pass Format",
    ),
    ("result formats", lambda c: c.query("x", result_formats=[0] * 65_536), ConfigError, "^result_formats has 65536"),
    ("oid", lambda c: c.query("x", oids=(-1,)), ConfigError, "^param_oids has -1: an OID is an int from 0 to"),
    ("oids", lambda c: c.query("x", oids=(0,) * 65_536), ConfigError, "^65536 parameter OIDs"),
    ("simple NUL", lambda c: c.simple("a\0"), ConfigError, "^sql has a NUL character"),
    ("simple surrogate", lambda c: c.simple("\udfff"), ConfigError, "^sql cannot be sent as UTF-8"),
    ("simple type", lambda c: c.simple(None), TypeError, "^sql is NoneType: pass a str"),  # type: ignore[arg-type]
    ("describe NUL", lambda c: c.describe("\0"), ConfigError, "^sql has a NUL character"),
    ("describe oid", lambda c: c.describe("x", oids=(1 << 32,)), ConfigError, "^param_oids has 4294967296"),
    ("no Sync", lambda c: c.encoded(m.Bind()), ConfigError, "^messages 'B' are not one request"),
    ("cut", lambda c: encoded_request(Sink(), SYNC[:-1], False, 0.0), ConfigError, "^the message at byte 0 is cut"),
    ("COPY", lambda c: c.encoded(m.CopyDone(), m.Sync()), ConfigError, "^message 'c' at byte 0 cannot"),
]


@pytest.mark.parametrize(("call", "kind", "text"), [case[1:] for case in WRONG], ids=[case[0] for case in WRONG])
def test_bad_input_is_refused_at_once(call: Call, kind: type[Exception], text: str) -> None:
    client = Client()
    with pytest.raises(kind, match=text) as caught:
        call(client)
    assert getattr(caught.value, "outcome", Outcome.NOT_SENT) is Outcome.NOT_SENT
    assert (bytes(client.session.out), client.sinks) == (b"", [])
    known(client, "select 1")
    sink = client.query("select 1")
    client.feed(*later((b"1",)))
    assert sink.result == [(b"1",)]


def test_a_query_sends_its_types_formats_and_parameters() -> None:
    client = Client()
    sink = client.query(
        "select $1, $2", "ü", None, oids=(25, 0), param_formats=(0, 1), result_formats=FormatCode.BINARY
    )
    [parse, _, bind, _, _] = client.sent()
    assert isinstance(parse, m.Parse) and isinstance(bind, m.Bind)
    assert (parse.query, parse.param_oids) == ("select $1, $2", (25, 0))
    assert bind == m.Bind("", parse.statement, (0, 1), ("ü".encode(), None), (1,))
    client.feed(*first((b"\0",), oids=(25, 25)))
    assert (sink.result, sink.result.fields, sink.result.command_tag) == (
        [(b"\0",)],
        (FIELD._replace(format=1),),
        "SELECT 1",
    )


def test_parameters_are_copied_when_the_query_is_called() -> None:
    client = Client(max_in_flight=1)
    value = bytearray(b"then")
    client.query("a", value)
    client.query("b", value)
    value[:] = b"now!"
    client.feed(*first())
    assert [message.params for message in client.sent() if isinstance(message, m.Bind)] == [(b"then",)] * 2


def test_a_simple_query_has_one_result_for_each_statement() -> None:
    client = Client()
    sink = client.simple("select; insert; show")
    assert client.sent() == [m.Query("select; insert; show")]
    client.feed(describe(["a"], ()), *result((b"1",), (None,)), *result(tag="INSERT 0 1"))
    client.feed(describe(["a"], ()), *result(), READY)
    assert [(list(rows), rows.fields, rows.command_tag) for rows in sink.result] == [
        ([(b"1",), (None,)], (FIELD,), "SELECT 2"),
        ([], (), "INSERT 0 1"),
        ([], (FIELD,), "SELECT 0"),
    ]


def test_describe_returns_parameter_types_and_columns() -> None:
    client = Client()
    sinks = [client.describe("select $1", (23,)), client.describe("insert")]
    expected = [
        m.Parse("", "select $1", (23,)),
        m.Describe("S"),
        m.Sync(),
        m.Parse("", "insert"),
        m.Describe("S"),
        m.Sync(),
    ]
    assert client.sent() == expected
    client.feed(m.ParseComplete(), m.ParameterDescription((23,)), describe(["a"], ()), READY)
    client.feed(m.ParseComplete(), m.ParameterDescription(()), m.NoData(), READY)
    assert [sink.result for sink in sinks] == [StatementDescription((23,), (FIELD,)), StatementDescription((), ())]


# Messages encoded by the caller, the server's answer, and the rows, fields and tag of the last result.
ENCODED: list[tuple[list[m.FrontendMessage], list[m.BackendMessage], tuple[Any, ...]]] = [
    ([m.Sync()], [], ([], (), "")),
    (
        [m.Parse("", "x"), m.Bind(), m.Describe("P"), m.Execute(), m.Sync()],
        [m.ParseComplete(), m.BindComplete(), describe(["a"], ()), *result((b"1",))],
        ([(b"1",)], (FIELD,), "SELECT 1"),
    ),
    (
        [m.Bind(), m.Execute(), m.Describe("P"), m.Sync()],
        [m.BindComplete(), *result((b"1", b"2")), describe(["a", "a"], ())],
        ([(b"1", b"2")], (), "SELECT 1"),
    ),
    (
        [m.Describe("S", "x"), m.Bind("", "y"), m.Execute(), m.Sync()],
        [m.ParameterDescription(()), m.NoData(), m.BindComplete(), *result((b"1",))],
        ([(b"1",)], (), "SELECT 1"),
    ),
    (
        [m.Bind("p"), m.Describe("P", "p"), m.Execute("p", 1), m.Execute("p", 1), m.Execute("p", 1), m.Sync()],
        [
            *[m.BindComplete(), describe(["a"], ()), m.DataRow((b"1",)), m.PortalSuspended()],
            *[m.DataRow((b"2",)), m.PortalSuspended(), *result()],
        ],
        ([], (FIELD,), "SELECT 0"),
    ),
    (
        [m.Bind(), m.Describe("P"), m.Execute("", 1), m.Sync()],
        [m.BindComplete(), describe(["a"], ()), m.DataRow((b"1",)), m.PortalSuspended()],
        ([(b"1",)], (FIELD,), ""),
    ),
    (
        [m.Query("select; insert")],
        [describe(["a"], ()), *result((b"1",)), *result(tag="INSERT 0 1")],
        ([], (), "INSERT 0 1"),
    ),
    ([m.Query("")], [m.EmptyQueryResponse()], ([], (), "")),
    ([m.Close("S", "x"), m.Sync()], [m.CloseComplete()], ([], (), "")),
]


@pytest.mark.parametrize("drain", [False, True])
@pytest.mark.parametrize(
    ("messages", "answer", "expected"),
    ENCODED,
    ids=["".join(chr(message.tag or 0) for message in messages) for messages, _, _ in ENCODED],
)
def test_encoded_messages_answer_with_their_last_result(
    messages: list[m.FrontendMessage], answer: list[m.BackendMessage], expected: tuple[Any, ...], drain: bool
) -> None:
    client = Client()
    sink = client.encoded(*messages, drain=drain)
    assert client.sent() == messages
    client.feed(*answer, READY)
    assert client.session.failure is None
    rows = [] if drain else expected[0]
    assert (list(sink.result), sink.result.fields, sink.result.command_tag) == (rows, *expected[1:])


def test_described_and_failing_items_are_encoded_without_a_sync() -> None:
    client = Client()
    sink = Sink()
    request = described_item(sink, "select $1", (23,))
    request.is_item = True
    client.session.submit(request)
    client.session.submit(failing_item())
    client.session.submit(sync_request(None))
    parse, describing, execute, sync = client.sent()
    assert (parse, describing, sync) == (m.Parse("", "select $1", (23,)), m.Describe("S"), m.Sync())
    assert isinstance(execute, m.Execute) and execute.portal
    client.feed(m.ParseComplete(), m.ParameterDescription((23,)), describe(["a"], ()), error("34000"), READY)
    assert isinstance(sink.error, PipelineAborted)


def test_a_sync_is_answered_by_ready_for_query() -> None:
    client = Client()
    sink = client.sync()
    assert client.sent() == [m.Sync()]
    client.feed(READY)
    assert list(sink.result) == []


@pytest.mark.parametrize("states", [COPY_IN, COPY_OUT])
def test_a_copy_request_accepts_an_answer_that_is_no_copy(states: bytes) -> None:
    client, consumer = Client(), Consumer()
    sink = client.copy("copy t", states, consumer)
    assert client.sent() == [m.Query("copy t")]
    client.feed(m.CommandComplete("COPY 0"), READY)  # a rule may turn the COPY into something else
    assert sink.result[0].command_tag == "COPY 0" and consumer.headers == []
    with pytest.raises(ConfigError, match="NUL"):
        client.copy("\0", states, consumer)


def test_drained_rows_are_still_checked() -> None:
    client = Client()
    sink = client.encoded(m.Bind(), m.Execute(), m.Sync(), drain=True)
    client.feed(m.BindComplete(), b"D\0\0\0\x0a\0\1\0\0\0\1")
    assert str(sink.error) == "DataRow has a column of 1 bytes where 0 are left"


# ---- answers in parts


def test_a_result_that_arrives_in_several_reads_is_complete() -> None:
    client = Client()
    sink = client.query("select 1")
    client.feed(*first()[:4], m.DataRow((b"1",)), m.DataRow((None,)))
    client.feed(m.DataRow((b"3",)), *result(tag="SELECT 3"), READY)
    assert sink.result == [(b"1",), (None,), (b"3",)] and len(sink.result) == 3
    other = client.query("select 1")
    client.feed(*later((b"4",)))
    assert other.result == [(b"4",)] and sink.result[2] == (b"3",)


def test_a_notice_between_rows_does_not_split_the_result() -> None:
    client = Client()
    sink = client.query("select 1")
    notice = m.NoticeResponse((("C", "00000"),))
    client.feed(*first()[:4], m.DataRow((b"1",)), notice, m.DataRow((b"2",)))
    client.feed(m.DataRow((b"3",)), notice, *result(tag="SELECT 3"), READY)
    assert sink.result == [(b"1",), (b"2",), (b"3",)]


def test_rows_go_to_a_consumer_as_they_arrive() -> None:
    client = Client()
    consumer = Consumer()
    request = query_request(Sink(), "select 1", (), (), 0, 0, 0.0)
    request.consumer = consumer
    client.session.submit(request)
    client.feed(*first()[:4], m.DataRow((b"1",)), m.DataRow((b"2",)))
    client.feed(m.DataRow((b"3",)), *result(tag="SELECT 3"), READY)
    assert [[field.name for field in fields] for fields in consumer.headers] == [["a"]]
    assert [Rows((), [], "", body) for body in consumer.parts] == [[(b"1",), (b"2",)], [(b"3",)]]
    sink: Any = request.sink
    assert (list(sink.result), sink.result.command_tag) == ([], "SELECT 3")


@pytest.mark.parametrize("is_cancelled", [False, True])
def test_copied_data_goes_to_a_consumer_until_its_caller_has_gone(is_cancelled: bool) -> None:
    client, consumer = Client(), Consumer()
    sink = client.copy("copy", COPY_OUT, consumer)
    header = m.CopyOutResponse(0, (0, 0))
    client.feed(header, m.CopyData(b"1\n"), m.CopyData(b""), m.CopyData(b"2\n"), m.CopyData(b""))
    sink.cancelled = is_cancelled
    client.feed(m.CopyData(b""), m.CopyData(b"3\n"))
    client.feed(m.CopyDone(), m.CommandComplete("COPY 3"), READY)
    assert consumer.headers == [header]
    assert consumer.parts == ([b"1\n2\n"] if is_cancelled else [b"1\n2\n", b"3\n"])
    assert client.session.failure is None and (is_cancelled or sink.result[0].rows_affected == 3)


def test_rows_in_place_of_a_copy_do_not_go_to_its_consumer() -> None:
    client, consumer = Client(), Consumer()
    sink = client.copy("select", COPY_OUT, consumer)
    client.feed(describe(["a"], ()), *result((b"1",)), READY)
    assert (consumer.headers, consumer.parts) == ([], [])
    [rows] = sink.result
    assert rows.command_tag == "SELECT 1"


def test_the_answer_to_a_request_cancelled_midway_is_discarded() -> None:
    client = Client()
    cancelled, behind = client.query("select 1"), client.simple("b")
    client.feed(*first()[:4], m.DataRow((b"1",)))
    cancelled.cancelled = True
    client.feed(m.DataRow((b"2",)), m.DataRow((b"3",)), *result(), READY, *result(), READY)
    assert cancelled.result is None and behind.result == [[]]


# ---- the end of a request


def test_failing_a_request_without_a_waiting_caller_does_nothing() -> None:
    """The caller has stopped waiting, or the request never had one."""
    sink = Sink()
    request = simple_query_request(sink, "x", 0.0)
    sink.cancelled = True
    request.fail(ConnectionClosed("closed"))
    assert sink.error is None
    simple_query_request(None, "x", 0.0).fail(ConnectionClosed("closed"))


def test_a_request_is_not_sent_until_its_first_byte_is_handed_over() -> None:
    request = simple_query_request(Sink(), "x", 0.0)
    assert request.start == octets.NEVER and request.outcome(1 << 40) is Outcome.NOT_SENT
    request.start = 10
    assert [request.outcome(handed) for handed in (9, 10, 11)] == [Outcome.NOT_SENT] * 2 + [Outcome.UNKNOWN]


def test_a_request_that_is_sent_again_starts_over() -> None:
    client = Client()
    known(client, "select 1")
    sink = client.query("select 1")
    request = client.session.inflight[0]
    client.take()
    assert request.outcome(client.session.handed) is Outcome.UNKNOWN
    client.session.hold()  # keep the repair in the queue
    client.feed(error("26000"), READY)
    assert list(client.session.pending) == [request]
    assert (request.step, request.error, request.columns, request.parses) == (0, None, octets.NO_ROWS, False)
    assert request.outcome(client.session.handed) is Outcome.REJECTED  # it was refused once, and is not sent again yet
    client.session.release()
    assert client.tags() == "CPDBES"
    client.feed(m.CloseComplete(), *first((b"1",)))
    assert sink.result == [(b"1",)]


def test_the_size_limit_of_a_query_allows_nearly_the_longest_message() -> None:
    """The size of its Bind is computed; the message is not written."""
    size = next(n for n in range(LONG_LIMIT_BYTES // 65_535, 0, -1) if _is_taken((bytes(n),) * 65_535))
    body = 4 + 2 + 63 + 2 + 2 * 65_535 + 2 + (4 + size) * 65_535 + 2 + 2 * 65_535
    assert LONG_LIMIT_BYTES - 65_535 - 4096 < body <= LONG_LIMIT_BYTES


def _is_taken(params: tuple[bytes, ...]) -> bool:
    codes = [1] * 65_535
    try:
        query_request(Sink(), "x", params, (), codes, codes, 0.0)
    except ConfigError:
        return False
    return True


def test_forgetting_the_encoding_makes_a_request_as_good_as_new() -> None:
    client = Client()
    known(client, "select 1")
    client.query("select 1")
    simple = client.simple("select 2")
    query, other = client.session.inflight
    assert query.statement is not None and query.columns == 1 and query.fields
    query.reset()
    other.reset()
    forgotten: tuple[object, ...] = (query.statement, query.columns, query.fields, query.start)
    assert forgotten == (None, octets.NO_ROWS, (), octets.NEVER)
    assert other.sink is simple and other.data is not None and other.script == SIMPLE
    assert query.outcome(10**9) is other.outcome(10**9) is Outcome.NOT_SENT


def test_a_request_without_a_caller_builds_no_rows() -> None:
    request = simple_query_request(None, "set a to b; select 1", 0.0)
    request.end_result("SET")
    assert request.result is None and request.results == []


def test_is_awaited_tells_whether_a_caller_is_waiting() -> None:
    client = Client()
    waiting, gone = client.query("select 1"), client.query("select 2")
    client.transaction("", "select 3")
    gone.cancelled = True
    first, second, *parts = client.session.inflight
    assert first.is_awaited and not second.is_awaited and not any(part.is_awaited for part in parts)
    assert not Request(None, "", 0.0).is_awaited and waiting.result is None


def test_deliver_to_sets_the_consumer() -> None:
    request, consumer = simple_query_request(Sink(), "select", 0.0), Consumer()
    request.deliver_to(consumer)
    assert request.consumer is consumer


def test_a_request_may_move_only_after_allow_move() -> None:
    request = simple_query_request(Sink(), "select", 0.0)
    assert not request.may_move
    request.allow_move()
    assert request.may_move


def test_a_described_item_does_not_end_in_a_sync() -> None:
    request = described_item(Sink(), "select 1", ())
    assert request.data is not None and not request.data.endswith(m.encode(m.Sync()))
    assert list(request.script) == [State.PARSE, State.PARAMETERS, State.FIELDS]


def test_become_item_marks_an_item_and_add_note_is_limited() -> None:
    request = simple_query_request(Sink(), "select", 0.0)
    request.become_item()
    assert request.is_item
    first = PgError([("M", "first")])
    for n in range(2 * MAX_NOTES):
        add_note(first, PgError([("M", f"further {n}")]))
    assert len(first.__notes__) == MAX_NOTES and first.__notes__[0] == "then: ERROR:  further 0"
