"""The answers off the hot path: errors, notices, settings, descriptions, transactions, and unrequested COPY."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from pg_wired.errors import ConnectionClosed, Outcome, ProtocolError, UsageError
from pg_wired.protocol import messages as m
from pg_wired.protocol.server_error import PgError
from pg_wired.session.request import COPY_IN, COPY_OUT, MAX_NOTES
from pg_wired.session.session import MAX_SETTINGS
from pg_wired.testing import describe, error
from tests.session.conversation import (
    PREPARED,
    READY,
    Client,
    Consumer,
    Sink,
    first,
    known,
    pg_error,
    result,
)

TAG = m.CommandComplete("INSERT 0 1")


# ---- errors


@pytest.mark.parametrize("n", range(5))
def test_an_error_at_any_step_rejects_only_its_own_request(n: int) -> None:
    client = Client()
    sink, neighbour = client.query("insert"), client.simple("select")
    answer = [*PREPARED, m.BindComplete(), TAG]
    client.feed(*answer[:n], error("23505", "duplicate key"))
    assert not sink.is_answered
    client.feed(READY, *result(), READY)
    failure = pg_error(sink)
    assert (failure.code, failure.message, failure.outcome) == ("23505", "duplicate key", Outcome.REJECTED)
    assert (failure.sql, failure.partial) == ("insert", [])
    assert neighbour.result == [[]]


def test_a_deferred_error_after_the_tag_rejects_the_request() -> None:
    client = Client()
    sink = client.query("insert")
    client.feed(*first(names=(), tag="INSERT 0 1")[:-1])
    assert not sink.is_answered
    client.feed(error("23505"), READY)
    assert pg_error(sink).outcome is Outcome.REJECTED


def test_an_error_keeps_the_earlier_results_of_a_simple_query() -> None:
    client = Client()
    sink = client.simple("select; selec")
    client.feed(describe(["a"], ()), *result((b"1",)), error("22012"), READY)
    failure = pg_error(sink)
    assert ([list(rows) for rows in failure.partial], failure.outcome) == ([[(b"1",)]], Outcome.REJECTED)


@pytest.mark.parametrize(
    ("tags", "outcome"),
    [
        (["BEGIN", "INSERT 0 1", "COMMIT"], Outcome.UNKNOWN),
        (["BEGIN", "PREPARE TRANSACTION"], Outcome.UNKNOWN),
        (["INSERT 0 1", "COPY 1", "DELETE 1", "CREATE TABLE", "DISCARD PLANS", "PREPARE"], Outcome.REJECTED),
        (["BEGIN", "INSERT 0 1", "ROLLBACK"], Outcome.REJECTED),
    ],
)
def test_an_error_after_a_committing_tag_has_an_unknown_outcome(tags: list[str], outcome: Outcome) -> None:
    client = Client()
    sink = client.simple("several")
    client.feed(*map(m.CommandComplete, tags), error("22012"), READY)
    assert pg_error(sink).outcome is outcome


def test_further_errors_become_a_limited_number_of_notes() -> None:
    client = Client()
    sink = client.simple("select")
    client.feed(*[error("XX000", f"{n}") for n in range(2 * MAX_NOTES)], READY)
    failure = pg_error(sink)
    assert failure.message == "0" and failure.__notes__ == [f"then: ERROR:  {n}" for n in range(1, MAX_NOTES + 1)]


# ---- the last words (see test_session_last_words)


@pytest.mark.parametrize(
    "message",
    [
        error("57P05", "last words"),
        error("57P05", "last words", "FATAL"),
        m.NoticeResponse((("C", "57P01"), ("M", "last words"))),
    ],
)
def test_the_first_last_words_explain_why_the_server_closed(message: m.BackendMessage) -> None:
    client = Client()
    client.feed(m.NoticeResponse(()), message, error("57P01", "even more"))
    client.session.lost(None)
    assert str(client.session.failure) == "the server closed the connection: last words"


def test_a_fatal_error_is_the_cause_of_the_lost_connection() -> None:
    client = Client()
    sink = client.simple("select")
    client.take()
    client.feed(error("22012", "an error"), error("57P01", "last words", "FATAL"))
    client.session.lost(None)
    assert isinstance(sink.error, ConnectionClosed) and sink.error.outcome is Outcome.UNKNOWN
    assert isinstance(sink.error.__cause__, PgError) and sink.error.__cause__.message == "last words"


# ---- asynchronous messages


def test_asynchronous_messages_change_no_answer() -> None:
    between = [
        m.NoticeResponse((("C", "01000"),)),
        m.ParameterStatus("TimeZone", "UTC"),
        m.NotificationResponse(1, "c", "p"),
    ]
    client = Client()
    client.feed(*between)
    sink = client.query("select 1")
    for message in first((b"1",), (b"2",)):
        client.feed(message, *between)
    assert sink.result == [(b"1",), (b"2",)]
    assert client.session.parameters == {"TimeZone": "UTC"}
    assert client.session.notifications.dropped == 9


def test_a_reported_setting_is_stored_before_its_request_is_answered() -> None:
    client = Client()
    client.query("set timezone = x")
    client.feed(*PREPARED, m.BindComplete(), m.CommandComplete("SET"), m.ParameterStatus("TimeZone", "x"))
    assert client.session.parameters == {"TimeZone": "x"} and not client.sinks[0].is_answered


def test_too_many_reported_parameters_are_a_protocol_error() -> None:
    client = Client()
    client.feed(*[m.ParameterStatus(f"p{n}", "") for n in range(MAX_SETTINGS)])
    client.feed(m.ParameterStatus("p0", "changed"))
    assert client.session.failure is None and client.session.parameters["p0"] == "changed"
    client.feed(m.ParameterStatus("one more", ""))
    assert isinstance(client.session.failure, ProtocolError)
    assert len(client.session.parameters) == MAX_SETTINGS


@pytest.mark.parametrize(
    ("name", "before", "after"),
    [
        ("client_encoding", "UTF8", "LATIN1"),
        ("standard_conforming_strings", "on", "off"),
        ("session_authorization", "me", "you"),
        ("in_hot_standby", "on", "off"),
    ],
)
def test_a_setting_that_others_rely_on_retires_the_connection(name: str, before: str, after: str) -> None:
    client = Client(max_in_flight=2)
    client.feed(m.ParameterStatus(name, before), m.ParameterStatus(name, before))  # the first report is no change
    sinks = [client.simple("set"), client.simple("a"), client.simple("b")]
    client.take()
    client.feed(m.CommandComplete("SET"), m.ParameterStatus(name, after), READY)
    assert sinks[0].result == [[]]
    assert isinstance(sinks[2].error, ConnectionClosed) and sinks[2].error.outcome is Outcome.NOT_SENT
    for text in (name, before, after, "connect again"):
        assert text in str(sinks[2].error)
    with pytest.raises(ConnectionClosed, match=name) as caught:
        client.simple("c")
    assert caught.value.outcome is Outcome.NOT_SENT
    assert client.sent() == []
    client.feed(*result(), READY)
    assert sinks[1].result == [[]]
    assert client.sent() == [m.Terminate()]


def test_a_window_with_state_may_change_settings_until_it_is_left() -> None:
    client = Client(parameters={"client_encoding": "UTF8"})
    client.window(has_state=True)
    client.feed(m.ParameterStatus("client_encoding", "LATIN1"))
    client.feed(m.ParameterStatus("in_hot_standby", "on"))  # not reported before
    assert client.session.reason is None
    client.session.check_settings()
    assert "client_encoding was left at 'LATIN1'" in client.session.reason_text


def test_settings_restored_inside_a_window_do_not_retire_the_connection() -> None:
    client = Client(parameters={"client_encoding": "UTF8"})
    client.window(has_state=True)
    client.feed(m.ParameterStatus("client_encoding", "LATIN1"), m.ParameterStatus("client_encoding", "UTF8"))
    client.session.check_settings()
    assert client.session.reason is None


def test_notices_are_passed_to_the_handler() -> None:
    client = Client()
    notices: list[PgError] = []
    client.session.handle_notices(notices.append)
    client.feed(m.NoticeResponse((("C", "01000"),)), m.NoticeResponse((("C", "57P01"),)))
    assert [notice.code for notice in notices] == ["01000", "57P01"]


def test_notifications_are_queued_and_those_that_do_not_fit_leave_a_gap() -> None:
    client = Client()
    client.session.notifications.capacity = 2
    for channel, payload in (("c", "p"), ("\udcff", ""), ("dropped", "")):
        client.feed(m.NotificationResponse(-7, channel, payload))
    queue = client.session.notifications
    assert [queue.take() for _ in range(3)] == [(-7, "c", "p"), (-7, "\udcff", ""), (1,)]


@pytest.mark.parametrize("body", [b"", b"\0\0\0", b"\0\0\0\1", b"\0\0\0\1c\0", b"\0\0\0\1c\0p", b"\0\0\0\1c\0p\0\0"])
def test_a_malformed_notification_is_a_protocol_error(body: bytes) -> None:
    client = Client()
    client.feed(b"A" + (len(body) + 4).to_bytes(4, "big") + body)
    assert isinstance(client.session.failure, ProtocolError)


@pytest.mark.parametrize("status", ["T", "E"])
def test_a_window_with_state_may_leave_a_transaction_open_or_failed(status: str) -> None:
    client = Client()
    client.inside = client.window(has_state=True)
    sink = client.simple("begin")
    client.feed(m.CommandComplete("BEGIN"), m.ReadyForQuery(status))
    assert sink.result is not None and client.session.transaction_status.value == status


# ---- descriptions


def test_each_query_of_a_rewrite_rule_has_its_own_result() -> None:
    client = Client()
    sink = client.simple("insert")
    client.feed(describe(["a"], ()), m.DataRow((b"1",)), describe(["b", "c"], ()), m.DataRow((b"2", b"3")), TAG, READY)
    assert [(list(rows), len(rows.fields), rows.command_tag) for rows in sink.result] == [
        ([(b"1",)], 1, ""),
        ([(b"2", b"3")], 2, "INSERT 0 1"),
    ]


def test_rows_of_encoded_messages_need_not_match_the_described_columns() -> None:
    client = Client()
    sink = client.encoded(m.Parse("", "x"), m.Describe("S"), m.Bind(), m.Execute(), m.Sync())
    client.feed(*PREPARED[:2], describe(["a"], ()), m.BindComplete(), *result((b"1", b"2")), READY)
    assert (list(sink.result), len(sink.result.fields)) == ([(b"1", b"2")], 1)


def test_an_empty_query_has_no_tag() -> None:
    client = Client()
    sinks = [client.query(""), client.simple("")]
    client.feed(*PREPARED, m.BindComplete(), m.EmptyQueryResponse(), READY, m.EmptyQueryResponse(), READY)
    [simple] = sinks[1].result
    assert [(len(rows), rows.command_tag, rows.fields) for rows in (sinks[0].result, simple)] == [(0, "", ())] * 2


# ---- COPY as a query


RESYNC: list[m.FrontendMessage] = [m.Sync(), m.Close("P", ""), m.Sync()]
SLIPS: dict[str, tuple[Callable[[Client], Sink], list[m.BackendMessage], list[m.FrontendMessage]]] = {
    "simple": (lambda client: client.simple("copy"), [], []),
    # In the extended protocol, the server has treated the Sync sent after Execute as part of the COPY.
    "extended": (lambda client: client.query("copy"), [*PREPARED, m.BindComplete()], RESYNC),
    "portal": (lambda client: client.encoded(m.Execute("p", 5), m.Sync()), [], RESYNC),
    "asked for the other way": (lambda client: client.copy("copy", COPY_OUT, Consumer()), [], []),
}


@pytest.mark.parametrize("has_read", [True, False])
@pytest.mark.parametrize(("ask", "answer", "sync"), SLIPS.values(), ids=list(SLIPS))
def test_copy_in_without_later_requests_is_refused_with_copy_fail(
    ask: Callable[[Client], Sink],
    answer: list[m.BackendMessage],
    sync: list[m.FrontendMessage],
    has_read: bool,
) -> None:
    """A server that fails before it reads, for example because the table is a view, answers the request's Sync, too."""
    client = Client()
    sink = ask(client)
    client.take()
    client.feed(*answer, m.CopyInResponse(0, (0,)))
    waiting = client.simple("select")
    fail, *rest = client.sent()
    assert isinstance(fail, m.CopyFail) and "use copy_in()" in fail.message
    assert rest == [*sync, m.Query("select")]
    syncs = [READY] * (1 if has_read else 2)
    client.feed(error("57014", "COPY from stdin failed"), *([*syncs, m.CloseComplete(), READY] if sync else [READY]))
    assert isinstance(sink.error, UsageError) and sink.error.outcome is Outcome.REJECTED
    assert "use copy_in()" in str(sink.error) and isinstance(sink.error.__cause__, PgError)
    client.feed(*result(), READY)
    assert waiting.result == [[]]


@pytest.mark.parametrize("is_simple", [True, False])
def test_copy_in_with_later_requests_in_flight_ends_the_connection(is_simple: bool) -> None:
    client = Client(max_in_flight=3, parameters={"client_encoding": "UTF8"})
    before = client.simple("select")
    copy = client.simple("copy") if is_simple else client.query("copy")
    behind = client.simple("select")
    client.take()
    waiting = client.simple("select")
    client.feed(*result(), READY)
    client.feed(*[[*PREPARED, m.BindComplete()], []][is_simple], m.CopyInResponse(0, (0,)), *result(), READY)
    assert before.result == [[]]
    assert isinstance(copy.error, UsageError) and copy.error.outcome is Outcome.UNKNOWN
    assert "requests followed it" in str(copy.error)
    assert isinstance(behind.error, ConnectionClosed) and behind.error.outcome is Outcome.UNKNOWN
    assert isinstance(waiting.error, ConnectionClosed) and waiting.error.outcome is Outcome.NOT_SENT
    assert isinstance(client.session.failure, ConnectionClosed)


def test_nothing_is_sent_after_a_copy_in_has_ended_the_connection() -> None:
    client = Client(parameters={"client_encoding": "UTF8"})
    client.simple("copy")
    client.simple("select")
    client.take()
    client.feed(m.ParameterStatus("client_encoding", "LATIN1"), m.CopyInResponse(0, ()))
    assert client.session.failure is not None and client.session.out == b""


@pytest.mark.parametrize("is_simple", [True, False])
@pytest.mark.parametrize("data", [[], [b"row\n", b"", b"\\.\n"]])
def test_copy_out_as_a_query_is_discarded_and_refused(is_simple: bool, data: list[bytes]) -> None:
    client = Client()
    sink = client.simple("copy; select") if is_simple else client.query("copy")
    behind = client.simple("select")
    client.take()
    client.feed(*[[*PREPARED, m.BindComplete()], []][is_simple], m.CopyOutResponse(0, (0,)))
    client.feed(*map(m.CopyData, data), m.NoticeResponse(()), m.CopyDone(), m.CommandComplete("COPY 3"))
    if is_simple:
        client.feed(describe(["a"], ()), *result((b"1",)))
    client.feed(READY, *result(), READY)
    assert isinstance(sink.error, UsageError) and sink.error.outcome is Outcome.UNKNOWN
    assert "use copy_out()" in str(sink.error) and sink.error.__cause__ is None
    assert behind.result == [[]] and client.session.out == b""


def test_a_requested_copy_passes_its_header_to_the_consumer() -> None:
    for states, answer in (
        (COPY_IN, m.CopyInResponse(1, ())),
        (COPY_OUT, m.CopyOutResponse(0, (0,))),
    ):
        client, consumer = Client(), Consumer()
        client.copy("copy", states, consumer)
        client.take()
        client.feed(answer)
        assert consumer.headers == [answer] and client.sent() == []


@pytest.mark.parametrize("behind", [0, 2])
def test_a_cancelled_copy_in_is_ended_with_copy_fail(behind: int) -> None:
    client, consumer = Client(), Consumer()
    client.inside = client.window()
    client.copy("copy", COPY_IN, consumer).cancelled = True
    syncs = [client.sync() for _ in range(behind)]
    client.take()
    client.feed(m.CopyInResponse(0, ()))
    fail, *rest = client.sent()  # the server has treated the earlier Syncs as part of the COPY
    assert isinstance(fail, m.CopyFail) and rest == [m.Sync()] * behind and consumer.headers == []
    client.feed(error("57014"), READY, *[READY] * behind)
    assert all(sink.result is not None for sink in syncs)


def test_a_cancelled_copy_out_is_read_and_discarded() -> None:
    client, consumer = Client(), Consumer()
    client.copy("copy", COPY_OUT, consumer).cancelled = True
    client.take()
    client.feed(m.CopyOutResponse(0, ()), m.CopyData(b"x"), m.CopyDone(), m.CommandComplete("COPY 1"), READY)
    assert (consumer.headers, consumer.parts, client.sent()) == ([], [], []) and client.session.failure is None


def test_a_copy_out_that_fails_midway_keeps_the_error_as_its_cause() -> None:
    client = Client()
    sink = client.query("copy")
    client.feed(*PREPARED, m.BindComplete(), m.CopyOutResponse(0, ()), m.CopyData(b"x"), error("57014"), READY)
    assert isinstance(sink.error, UsageError) and isinstance(sink.error.__cause__, PgError)


@pytest.mark.parametrize("tag", ["DISCARD ALL", "DEALLOCATE ALL"])
def test_discard_all_drops_older_statements_and_keeps_newer_ones(tag: str) -> None:
    client = Client()
    known(client, "select 1")
    known(client, "select 2")
    client.query(tag.lower())
    younger, used = client.query("select 3"), client.query("select 2")
    client.take()
    client.feed(*first(names=(), tag=tag))
    assert list(client.session.statements.entries) == ["select 3"]
    client.feed(*first((b"3",)), error("26000"), READY)
    assert client.tags() == "CPDBES"
    client.feed(m.CloseComplete(), *first((b"2",)))
    assert (younger.result, used.result) == ([(b"3",)], [(b"2",)])


# ---- malformed answers (see test_session_hostile)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"C\0\0\0\4", "CommandComplete without its final NUL"),
        (b"C\0\0\0\5x", "CommandComplete without its final NUL"),
        (b"C\0\0\0\7x\0\0", "CommandComplete with bytes after its NUL"),
        (b"Z\0\0\0\5I", r"b'Z' .*out of place in state QUERY"),
        (b"C\0\0\0\3", r"b'C' .*a length of 3 in state QUERY"),
        (b"C\x80\0\0\0", r"b'C' .*a length of -2147483648 in state QUERY"),
        (b"C\0\0\x75\x31", r"b'C' .*a length of 30001 in state QUERY"),
        (b"T\x3f\xff\xff\xff", r"b'T' .*a length of 1073741823 in state QUERY"),
        (b"C\0\0\0\5\0Z\0\0\0\5X", "ReadyForQuery has the transaction status 'X'"),
        (b"C\0\0\0\5\0Z\0\0\0\4", r"b'Z' .*a body of the wrong length in state STATEMENT"),
        (b"C\0\0\0\5\0Z\0\0\0\6II", r"b'Z' .*a body of the wrong length in state STATEMENT"),
    ],
)
def test_a_malformed_answer_fails_the_request_and_the_session(data: bytes, text: str) -> None:
    client = Client()
    sink = client.simple("select")
    client.take()
    client.feed(data + m.encode(*result(), READY))
    assert isinstance(sink.error, ProtocolError) and sink.error.outcome is Outcome.UNKNOWN
    assert re.search(text, str(sink.error))
    assert client.session.failure is not None and str(client.session.failure) == str(sink.error)


def test_messages_up_to_the_length_limits_are_accepted() -> None:
    client = Client()
    client.simple("select")
    client.feed(b"N\x3f\xff\xff\xfe")
    assert client.session.failure is None
    other = Client()
    other.simple("select")
    other.feed(b"C" + (30_000).to_bytes(4, "big") + b"x" * 29_995 + b"\0" + m.encode(READY))
    assert other.sinks[0].result[0].command_tag == "x" * 29_995
