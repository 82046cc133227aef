"""A window at the protocol level: when it opens among the requests, and which requests are encoded while it is open."""

from __future__ import annotations

import pytest

from pg_wired.errors import ConnectionClosed, Outcome, PipelineAborted, RequestTimeout, UsageError
from pg_wired.protocol import messages as m
from pg_wired.protocol.octets import HIGH_WATER_BYTES
from pg_wired.protocol.server_error import PgError
from pg_wired.protocol.types import TransactionStatus
from pg_wired.session.request import Window, query_request, simple_query_request, sync_request
from pg_wired.session.session import Reason
from pg_wired.testing import describe, error
from tests.session.conversation import PREPARED, READY, STALE, Client, Sink, first, known, outcomes, pg_error, result

OPEN = m.ReadyForQuery("T")


def window(client: Client, *, has_state: bool = True, deadline: float = 0.0) -> Window:
    opened = Window(Sink(), "exclusive()", deadline, has_state)
    client.session.submit(opened)
    return opened


def is_open(opened: Window) -> bool:
    sink = opened.sink
    assert isinstance(sink, Sink)
    assert sink.result in (None, opened)
    return sink.result is not None


def inside(client: Client, opened: Window, sql: str) -> Sink:
    sink = Sink()
    client.session.submit_inside(opened, simple_query_request(sink, sql, 0.0))
    return sink


def item(client: Client, opened: Window, sql: str) -> Sink:
    """A query that is not the last of its group."""
    sink = Sink()
    request = query_request(sink, sql, (), (), 0, 0, 0.0)
    request.is_item = True
    client.session.submit_inside(opened, request)
    return sink


def sync(client: Client, opened: Window) -> Sink:
    sink = Sink()
    client.session.submit_inside(opened, sync_request(sink))
    return sink


def done(tag: str = "DONE", status: m.ReadyForQuery = READY) -> list[m.BackendMessage]:
    return [m.CommandComplete(tag), status]


def test_a_window_opens_at_once_if_nothing_is_unanswered() -> None:
    client = Client()
    opened = window(client)
    assert is_open(opened) and client.session.window is opened and client.sent() == []


def test_a_window_waits_for_earlier_requests_and_holds_back_later_ones() -> None:
    client = Client()
    before = [client.simple("before"), client.simple("before")]
    opened, behind = window(client), client.simple("behind")
    assert client.sent() == [m.Query("before")] * 2
    client.feed(*done())
    assert not is_open(opened)
    client.feed(*done())
    assert is_open(opened) and all(sink.result for sink in before)
    assert client.sent() == []
    mine = inside(client, opened, "mine")
    assert client.sent() == [m.Query("mine")]
    client.feed(*done())
    assert mine.result and not behind.is_answered and client.sent() == []
    client.session.leave(opened)
    assert client.sent() == [m.Query("behind")] and client.session.window is None


def test_windows_open_one_after_another_in_order() -> None:
    client = Client()
    all_of_them = [window(client) for _ in range(3)]
    for number, opened in enumerate(all_of_them):
        assert [is_open(each) for each in all_of_them] == [n <= number for n in range(3)]
        client.session.leave(opened)
    client.session.leave(all_of_them[0])  # it has left already
    assert client.session.window is None


@pytest.mark.parametrize("is_cancelled", [True, False])
def test_a_cancelled_or_overdue_window_is_skipped(is_cancelled: bool) -> None:
    client = Client()
    slow, gone = client.simple("slow"), window(client, deadline=5.0)
    behind = client.simple("behind")
    if is_cancelled:
        assert isinstance(gone.sink, Sink)
        gone.sink.cancelled = True
    assert client.sent() == [m.Query("slow")]
    assert client.session.expire(5.0) == 0.0
    assert client.sent() == [m.Query("behind")]
    if not is_cancelled:
        assert isinstance(gone.sink, Sink) and isinstance(gone.sink.error, RequestTimeout)
        assert gone.sink.error.outcome is Outcome.NOT_SENT
    client.feed(*done(), *done())
    assert slow.result and behind.result and client.session.window is None


def test_an_open_window_ignores_its_deadline() -> None:
    client = Client()
    opened = window(client, deadline=5.0)
    assert client.session.expire(6.0) == 0.0
    assert is_open(opened) and client.session.window is opened


def test_a_window_without_a_sink_still_opens() -> None:
    client = Client()
    client.simple("before")
    opened = window(client)
    opened.sink = None
    client.take()
    client.feed(*done())
    assert client.session.window is opened


def test_a_window_that_was_left_refuses_requests() -> None:
    client = Client()
    opened = window(client)
    client.session.leave(opened)
    with pytest.raises(UsageError, match=r"exclusive\(\) has ended"):
        inside(client, opened, "mine")
    following = window(client)
    with pytest.raises(UsageError, match=r"exclusive\(\) has ended"):
        inside(client, opened, "mine")
    assert is_open(following) and client.sent() == []


def test_a_transaction_may_stay_open_in_a_window_with_state() -> None:
    client = Client()
    opened = window(client)
    begin, mine = inside(client, opened, "begin"), inside(client, opened, "mine")
    client.take()
    client.feed(*done("BEGIN", OPEN), error("22012"), m.ReadyForQuery("E"))
    assert begin.result[0].command_tag == "BEGIN" and pg_error(mine).code == "22012"
    assert client.session.transaction_status is TransactionStatus.FAILED
    assert client.session.foreign is None and client.sent() == []


def test_a_transaction_is_rolled_back_in_a_window_without_state() -> None:
    client = Client()
    opened = window(client, has_state=False)
    begin = inside(client, opened, "begin")
    client.take()
    client.feed(*done("BEGIN", OPEN))
    assert client.sent() == [m.Query("ROLLBACK")] and not begin.is_answered


TAGS = [
    (["BEGIN", "INSERT 0 17", "UPDATE 12", "SELECT 1", "COMMIT"], {"BEGIN", "INSERT", "UPDATE", "COMMIT"}),
    (["SET", "CREATE TABLE", "DISCARD ALL"], {"SET", "CREATE TABLE", "DISCARD ALL"}),
    (["SELECT 5"], set()),
]


@pytest.mark.parametrize(("tags", "seen"), TAGS)
def test_a_window_notes_the_tags_of_its_own_requests(tags: list[str], seen: set[str]) -> None:
    """SELECT without columns is SELECT INTO, or CREATE TABLE AS."""
    client = Client()
    opened = window(client)
    inside(client, opened, "all of it")
    client.take()
    client.feed(*map(m.CommandComplete, tags), READY)
    assert opened.tags == seen | ({"SELECT INTO"} if any(tag.startswith("SELECT") for tag in tags) else set())
    inside(client, opened, "select")
    client.feed(describe(["a"], ()), *result((b"1",)), READY)
    assert "SELECT" in opened.tags
    item(client, opened, "select")
    sync(client, opened)
    client.feed(*first((b"1",)))
    assert "SELECT INTO" not in opened.tags or any(tag.startswith("SELECT") for tag in tags)
    client.session.leave(opened)
    client.simple("set")
    client.feed(*done("SET"))
    assert opened.tags - seen <= {"SELECT", "SELECT INTO"}  # only tags of its own requests


def test_a_connection_lost_while_a_window_is_open_fails_all_requests() -> None:
    client = Client(max_in_flight=1)
    opened = window(client)
    sent, queued = inside(client, opened, "mine"), inside(client, opened, "mine")
    outside, waiting = client.simple("outside"), window(client)
    client.take()
    client.session.lost(None)
    ends = [sent, queued, outside, waiting.sink]
    outcomes = [
        sink.error.outcome for sink in ends if isinstance(sink, Sink) and isinstance(sink.error, ConnectionClosed)
    ]
    assert outcomes == [Outcome.UNKNOWN, *[Outcome.NOT_SENT] * 3]
    with pytest.raises(ConnectionClosed):
        inside(client, opened, "mine")
    client.session.leave(opened)


def test_a_draining_session_terminates_only_after_the_window_is_left() -> None:
    client = Client()
    opened = window(client)
    client.session.drain(Reason.CLOSED)
    client.session.finish()
    mine = inside(client, opened, "mine")
    assert client.sent() == [m.Query("mine")]
    client.feed(*done())
    assert mine.result and client.sent() == []
    client.session.leave(opened)
    assert client.sent() == [m.Terminate()]


# ---- groups


def test_a_group_counts_as_one_request_in_flight_and_is_answered_at_its_sync() -> None:
    client = Client(max_in_flight=1)
    opened = window(client)
    items = [item(client, opened, f"select {n}") for n in range(3)]
    assert client.tags() == "PDBE" * 3
    last, queued = sync(client, opened), item(client, opened, "select 4")
    assert client.tags() == "S"  # the group is one unanswered request, the most that may be in flight
    client.feed(*[message for n in b"012" for message in first((bytes([n]),))[:-1]])
    assert not any(sink.is_answered for sink in items)
    client.feed(READY)
    assert [list(sink.result) for sink in items] == [[(bytes([n]),)] for n in b"012"] and last.is_answered
    assert client.tags() == "PDBE" and not queued.is_answered


def test_a_cancelled_sync_still_separates_two_groups() -> None:
    client = Client()
    opened = window(client)
    client.session.submit_inside(opened, simple_query_request(None, "x" * HIGH_WATER_BYTES, 0.0))
    before, cut, dropped, behind = (
        item(client, opened, "before"),
        sync(client, opened),
        item(client, opened, "dropped"),
        item(client, opened, "behind"),
    )
    cut.cancelled = dropped.cancelled = True
    last = sync(client, opened)
    client.take()
    client.session.pump()
    assert client.tags() == "PDBESPDBES"
    client.feed(*done(), *first(), error("22012"), READY)
    assert before.result is not None and pg_error(behind).code == "22012" and last.error is None


def test_a_parse_of_another_group_is_not_relied_on() -> None:
    client = Client()
    opened = window(client)
    items = []
    for _ in range(2):
        items += [item(client, opened, "same"), item(client, opened, "same")]
        sync(client, opened)
    parses = [message.statement for message in client.sent() if isinstance(message, m.Parse)]
    assert len(parses) == 3 and parses[0] and parses[1:] == ["", ""]
    client.feed(error("42601"), READY, error("42601"), READY)
    assert [pg_error(items[0]).code, pg_error(items[2]).code] == ["42601", "42601"]
    assert isinstance(items[1].error, PipelineAborted) and items[1].error.outcome is Outcome.REJECTED
    assert not client.session.statements.entries


def test_a_stale_statement_in_a_group_is_dropped_and_not_repaired() -> None:
    client = Client()
    known(client, "query")
    opened = window(client)
    stale = item(client, opened, "query")
    sync(client, opened)
    client.take()
    client.feed(STALE, READY)
    assert pg_error(stale).code == "0A000" and client.sent() == []
    item(client, opened, "query")
    assert client.tags() == "CPDBE"


def test_a_stale_statement_in_a_transaction_is_dropped_and_not_repaired() -> None:
    client = Client()
    known(client, "query")
    opened = window(client)
    inside(client, opened, "begin")
    stale = Sink()
    client.session.submit_inside(opened, query_request(stale, "query", (), (), 0, 0, 0.0))
    client.take()
    client.feed(*done("BEGIN", OPEN), STALE, m.ReadyForQuery("E"))
    assert isinstance(stale.error, PgError) and client.sent() == []
    assert not client.session.statements.entries


def test_a_stale_query_in_a_window_is_repaired_before_its_waiting_requests() -> None:
    client = Client(max_in_flight=1)
    known(client, "query")
    opened = window(client)
    stale = Sink()
    client.session.submit_inside(opened, query_request(stale, "query", (), (), 0, 0, 0.0))
    inside(client, opened, "behind")
    client.take()
    client.feed(STALE, READY)
    assert client.tags() == "CPDBES"
    client.feed(m.CloseComplete(), *PREPARED, m.BindComplete(), *done())
    assert stale.result.command_tag == "DONE" and client.sent() == [m.Query("behind")]


def test_abandoned_requests_of_a_window_fail_and_their_answers_are_discarded() -> None:
    client = Client(max_in_flight=2)
    opened = window(client)
    sinks = [inside(client, opened, name) for name in ("encoded", "also encoded", "not encoded")]
    client.take()
    client.session.abandon_inside(opened, "stream()")
    assert [str(sink.error) for sink in sinks] == [
        *["stream() has ended before the answer came"] * 2,
        "stream() has ended before the request was sent",
    ]
    assert outcomes(*sinks) == [Outcome.UNKNOWN, Outcome.UNKNOWN, Outcome.NOT_SENT]
    client.feed(*done(), *done())
    assert client.session.failure is None and client.session.waiting() == []
