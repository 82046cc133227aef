"""The session: which requests wait, the order in which they are sent, what is discarded, and how a session ends."""

from __future__ import annotations

import pytest

from pg_wired.errors import ConnectionClosed, Outcome, ProtocolError, TransactionError, UsageError
from pg_wired.protocol import messages as m
from pg_wired.protocol import octets
from pg_wired.protocol.server_error import PgError
from pg_wired.protocol.types import TransactionStatus
from pg_wired.session.request import COPY_OUT, described_item, query_request, simple_query_request
from pg_wired.session.session import BUFFER_BYTES, Reason
from pg_wired.testing import describe, error
from tests.session.conversation import (
    PREPARED,
    READY,
    Client,
    Consumer,
    Sink,
    described,
    first,
    known,
    later,
    outcomes,
    result,
)

SIMPLE = [*result(), READY]
OPEN = m.ReadyForQuery("T")


# ---- requests in, bytes out


def test_a_new_session_is_idle_and_has_nothing_to_send() -> None:
    client = Client(parameters={"server_version": "18"})
    session = client.session
    assert session.transaction_status is TransactionStatus.IDLE
    assert (session.parameters, session.failure, session.reason) == ({"server_version": "18"}, None, None)
    assert (session.waiting(), client.sole, bytes(session.out)) == ([], None, b"")
    client.feed()
    assert session.failure is None


def test_each_request_is_sent_at_once_and_gets_its_own_answer() -> None:
    client = Client()
    sinks = [client.query("select $1", b"%d" % n) for n in range(3)]
    assert client.tags() == "PDBES" + "BDES" * 2
    client.feed(*first((b"0",)), *described((b"1",)), *described((b"2",)))
    sinks += [client.query("select $1", b"%d" % n) for n in range(3, 6)]
    assert client.tags() == "BES" * 3
    client.feed(*later((b"3",)), *later((b"4",)), *later((b"5",)))
    assert [list(sink.result) for sink in sinks] == [[(b"%d" % n,)] for n in range(6)]


def test_requests_beyond_max_in_flight_wait() -> None:
    client = Client(max_in_flight=2)
    sinks = [client.simple(f"select {n}") for n in range(5)]
    assert client.sent() == [m.Query("select 0"), m.Query("select 1")]
    client.feed(*SIMPLE)
    assert client.sent() == [m.Query("select 2")]
    client.feed(*SIMPLE * 2)
    assert client.sent() == [m.Query("select 3"), m.Query("select 4")]
    client.feed(*SIMPLE * 2)
    assert [sink.result for sink in sinks] == [[[]]] * 5


def test_handed_counts_the_bytes_that_the_socket_took() -> None:
    client = Client()
    client.simple("select 1")
    client.query("select 2")
    n = len(client.session.out)
    assert client.session.encoded == n
    client.take(7)
    assert (client.session.handed, len(client.session.out)) == (7, n - 7)
    client.take()
    assert client.session.handed == client.session.encoded == n


def test_evicted_statements_are_closed_at_the_start_of_the_next_group() -> None:
    client = Client()
    known(client, "select 2")
    client.session.statements.drop_sql("select 2")
    client.session.statements.close("pgw_other")
    client.query("select 3")
    assert client.tags() == "CC" + "PDBES"
    client.feed(m.CloseComplete(), m.CloseComplete(), *first())
    client.session.statements.close("pgw_more")
    client.query("select 3")
    client.session.statements.close("pgw_most")
    client.query("show x")
    assert client.tags() == "CBES" + "CPDBES"
    client.feed(m.CloseComplete(), *later(), m.CloseComplete(), *first())
    client.session.statements.close("pgw_last")
    client.query("show x")
    assert client.tags() == "CBDES"  # the columns of SHOW are described on every use
    client.feed(m.CloseComplete(), *described())
    assert client.session.failure is None and all(sink.result is not None for sink in client.sinks)


def test_a_rollback_that_a_cancel_request_has_hit_is_sent_again() -> None:
    """The cancel request was meant for the statement before. Other requests wait, and get their own answers."""
    client = Client()
    sink = client.simple("begin")
    client.take()
    client.feed(m.CommandComplete("BEGIN"), OPEN)
    following = client.simple("select 1")
    for _ in range(2):
        assert client.sent() == [m.Query("ROLLBACK")]
        client.feed(error("57014"), m.ReadyForQuery("E"))
    assert client.sent() == [m.Query("ROLLBACK")]
    client.feed(m.CommandComplete("ROLLBACK"), READY)
    assert isinstance(sink.error, TransactionError) and sink.error.outcome is Outcome.REJECTED
    assert client.sent() == [m.Query("select 1")]
    client.feed(*result(), READY)
    assert following.result == [[]] and client.session.failure is None


def test_a_repair_brings_its_own_parse() -> None:
    client = Client()
    known(client, "select 1")
    known(client, "select 2")
    sinks = [client.query(sql) for sql in ("select 1", "select 1", "select 3", "select 3")]
    client.take()
    client.feed(*[error("26000"), READY] * 2, error("55P03"), READY, error("26000"), READY)
    # The first gets Close and a named Parse; requests after it, or after a Parse that failed, get an unnamed one.
    assert client.tags() == "CPDBES" + "PDBES" * 2
    client.feed(m.CloseComplete(), *first((b"1",)), *first((b"2",)), *first((b"4",)))
    assert [sink.result for sink in sinks] == [[(b"1",)], [(b"2",)], None, [(b"4",)]]


# ---- cancelled requests


def test_a_request_cancelled_before_it_is_encoded_is_not_sent() -> None:
    client = Client(max_in_flight=1)
    client.simple("a")
    cancelled, behind = client.simple("b"), client.simple("c")
    cancelled.cancelled = True
    client.feed(*SIMPLE)
    assert client.sent() == [m.Query("a"), m.Query("c")]
    client.feed(*SIMPLE)
    assert behind.result == [[]]


# ---- the receive buffer


def test_the_buffer_grows_with_a_message_and_shrinks_back() -> None:
    client = Client()
    sink = client.query("select")
    client.feed(*first((bytes(5 * BUFFER_BYTES),)))
    assert len(sink.result[0][0]) == 5 * BUFFER_BYTES
    assert len(client.session.buffer) == BUFFER_BYTES


@pytest.mark.parametrize("is_looked_at", [False, True])
def test_the_buffer_grows_in_place_unless_a_memoryview_exports_it(is_looked_at: bool) -> None:
    client = Client()
    sink = client.query("select")
    value = bytes(range(256)) * (BUFFER_BYTES // 128)
    data = m.encode(*first((value,)))
    client.feed(data[:1000])
    before = client.session.buffer
    view = memoryview(before) if is_looked_at else None
    client.feed(data[1000 : BUFFER_BYTES + 1000])
    assert (client.session.buffer is before) != is_looked_at and len(client.session.buffer) == 2 * BUFFER_BYTES
    client.feed(data[BUFFER_BYTES + 1000 :])
    assert sink.result == [(value,)] and (view is None or len(view) == BUFFER_BYTES)


def test_a_notification_is_kept_for_its_receiver() -> None:
    client = Client()
    client.session.notifications.capacity = 1
    client.feed(m.NotificationResponse(1, "c", "p"), m.NotificationResponse(2, "c", "lost"))
    assert client.session.notifications.take() == (1, "c", "p")


def test_an_owner_may_read_single_bytes_into_the_buffer() -> None:
    client = Client()
    client.simple("x")
    session = client.session
    for byte in m.encode(*SIMPLE):
        session.buffer[session.tail] = byte
        session.received(1)
    assert client.sinks[0].result == [[]] and session.tail == 0


@pytest.mark.parametrize("status", list(TransactionStatus))
def test_the_transaction_status_comes_from_ready_for_query(status: TransactionStatus) -> None:
    client = Client()
    client.simple("begin")
    client.feed(m.CommandComplete("BEGIN"), m.NoticeResponse(()), m.ReadyForQuery(status.value))
    assert client.session.transaction_status is status


def test_an_error_of_one_request_does_not_affect_the_next() -> None:
    client = Client()
    sinks = [client.simple("a"), client.query("b"), client.simple("c")]
    client.feed(error("22012"), READY, *first((b"1",)), describe(["a"], ()), *result((b"2",)), READY)
    assert isinstance(sinks[0].error, PgError) and sinks[0].result is None
    assert (sinks[1].result, sinks[2].result) == ([(b"1",)], [[(b"2",)]])


# ---- windows


def test_a_window_waits_for_earlier_requests_and_holds_back_later_ones() -> None:
    client = Client()
    before = client.simple("before")
    window = client.window()
    behind = client.simple("behind")
    assert client.sent() == [m.Query("before")] and not client.sinks[1].is_answered
    client.feed(*SIMPLE)
    assert before.result == [[]] and client.sinks[1].result is window and client.session.window is window
    assert client.sent() == []
    client.inside = window
    inside = [client.simple(name) for name in ("one", "two")]
    assert client.sent() == [m.Query("one"), m.Query("two")]
    client.feed(*SIMPLE * 2)
    assert [sink.result for sink in inside] == [[[]]] * 2 and not behind.is_answered
    client.session.leave(window)
    assert client.sent() == [m.Query("behind")]
    client.session.leave(window)  # leaving again does nothing
    client.feed(*SIMPLE)
    assert behind.result == [[]]


def test_requests_inside_a_window_obey_max_in_flight_too() -> None:
    client = Client(max_in_flight=1)
    client.inside = client.window()
    one, two, three = (client.simple(name) for name in ("one", "two", "three"))
    assert client.sent() == [m.Query("one")]
    two.cancelled = True
    client.feed(*SIMPLE)
    assert client.sent() == [m.Query("three")]
    assert [request.sql for request in client.session.waiting()] == ["three"]
    client.feed(*SIMPLE)
    assert (one.result, three.result) == ([[]], [[]])


def test_a_cancelled_window_is_skipped() -> None:
    client = Client()
    client.simple("before")
    client.window()
    client.sinks[1].cancelled = True
    behind = client.simple("behind")
    client.feed(*SIMPLE)
    assert client.sent() == [m.Query("before"), m.Query("behind")]
    client.feed(*SIMPLE)
    assert behind.result == [[]] and client.session.window is None


def test_a_window_refuses_requests_before_it_opens_and_after_it_ends() -> None:
    client = Client()
    client.simple("before")
    window = client.inside = client.window("stream()")
    with pytest.raises(UsageError, match=r"^stream\(\) has ended"):
        client.simple("early")
    client.feed(*SIMPLE)
    client.session.leave(window)
    with pytest.raises(UsageError, match=r"^stream\(\) has ended"):
        client.simple("late")
    client.session.lost(None)
    with pytest.raises(ConnectionClosed):
        client.simple("too late")


def test_a_window_may_finish_on_a_draining_connection() -> None:
    client = Client()
    window = client.inside = client.window()
    client.session.drain(Reason.REPLACED)
    sink = client.simple("inside")
    client.feed(*SIMPLE)
    assert sink.result == [[]] and client.sent() == [m.Query("inside")]
    client.session.leave(window)
    assert client.sent() == [m.Terminate()]


def test_a_connection_lost_inside_a_window_fails_requests_inside_and_outside() -> None:
    client = Client(max_in_flight=1)
    client.inside = client.window()
    sent, waiting = client.simple("sent"), client.simple("waiting")
    client.inside = None
    outside = client.simple("outside")
    client.take()
    client.session.lost(None)
    assert outcomes(sent, waiting, outside) == [Outcome.UNKNOWN, Outcome.NOT_SENT, Outcome.NOT_SENT]


# ---- sync groups (see test_outcomes)


def test_items_share_one_sync_and_are_all_sent_despite_max_in_flight() -> None:
    client = Client(max_in_flight=2)
    sinks = [client.item("select 1"), client.item("select 1"), client.item("select 1"), client.sync()]
    assert client.tags() == "PDBE" + "BDE" * 2 + "S"  # the server need not answer before Sync, so all are sent
    waiting = client.simple("select 2")
    client.feed(*first((b"1",))[:-1], *described((b"2",))[:-1], *described((b"3",)))
    assert [list(sink.result) for sink in sinks] == [[(b"1",)], [(b"2",)], [(b"3",)], []]
    assert client.sent() == [m.Query("select 2")] and not waiting.is_answered


def test_after_a_failed_item_the_rest_of_the_group_is_rejected() -> None:
    client = Client()
    sinks = [client.item("fail"), client.item("select 1"), client.query("select 2")]
    client.take()
    client.feed(error("22012"), READY)
    assert outcomes(*sinks) == [Outcome.REJECTED] * 3
    client.query("select 1")
    client.query("select 2")
    assert client.tags() == "PDBES" * 2


def test_items_of_a_group_lost_before_its_sync_have_an_unknown_outcome() -> None:
    client = Client()
    sinks = [client.item("fail"), client.item("select 1")]
    client.take()
    client.feed(error("22012"))
    client.session.lost(None)
    assert outcomes(*sinks) == [Outcome.UNKNOWN] * 2


def test_no_close_is_sent_inside_a_group() -> None:
    client = Client()
    client.item("select 1")
    client.session.statements.drop_sql("select 1")
    client.item("select 1")
    client.item("select 2")
    client.sync()
    names = [message.statement for message in client.sent() if isinstance(message, m.Parse)]
    assert names[1] == "" and names[0] and names[2]
    client.item("select 3")
    assert client.tags() == "CPDBE"


def test_names_are_closed_before_the_first_item_of_any_kind() -> None:
    client = Client()
    client.session.statements.close("pgw_gone")
    request = described_item(Sink(), "select 1", ())
    request.is_item = True
    client.session.submit(request)
    client.sync()
    assert client.tags() == "CPD" + "S"
    client.feed(m.CloseComplete(), *PREPARED, READY)
    assert client.session.failure is None and request.sink is not None and request.sink.done()


def test_a_cancelled_sync_still_separates_two_groups() -> None:
    client = Client(max_in_flight=1)
    client.simple("before")
    client.item("select 1")
    client.sync().cancelled = True
    client.item("select 2").cancelled = True
    client.item("select 3")
    client.sync()
    client.take()
    client.feed(*SIMPLE)
    assert client.tags() == "PDBE" + "S"
    client.feed(*first((b"1",)))
    assert client.tags() == "PDBE" + "S"


def test_a_transaction_is_sent_and_answered_as_a_whole() -> None:
    client = Client(max_in_flight=1)
    before, sink = client.simple("before"), client.transaction("set local x", "select 1")
    client.take()
    client.feed(*SIMPLE)
    assert client.tags() == "QQ" + "PDBE" + "PDBES" + "Q"
    client.feed(m.CommandComplete("BEGIN"), m.CommandComplete("SET"), OPEN, m.CommandComplete("SET"), OPEN)
    client.feed(*first((b"1",))[:-1], *first((b"1",))[:-1], OPEN)
    assert not sink.is_answered
    client.feed(m.CommandComplete("COMMIT"), READY)
    assert (before.result, sink.result) == ([[]], [(b"1",)])


def test_the_parts_of_a_transaction_share_one_outcome() -> None:
    client = Client()
    sink = client.transaction("set local x", "select 1")
    client.take(1)
    client.session.lost(None)
    assert outcomes(sink) == [Outcome.UNKNOWN]


# ---- answers


def test_each_part_of_an_answer_goes_to_the_oldest_request() -> None:
    client, rows, data = Client(), Consumer(), Consumer()
    query = query_request(Sink(), "select 1", (), (), 0, 0, 0.0)
    query.consumer = rows
    client.session.submit(query)
    copied, gone = client.copy("copy", COPY_OUT, data), client.query("select 2")
    gone.cancelled = True
    client.feed(*first((b"1",)))
    client.feed(m.CopyOutResponse(0, (0,)), m.CopyData(b"x"), m.CopyDone(), m.CommandComplete("COPY 1"), READY)
    client.feed(*first((b"2",)))
    assert (len(rows.headers), [body.count for body in rows.parts]) == (1, [1])
    assert (len(data.headers), data.parts, copied.result[0].command_tag) == (1, [b"x"], "COPY 1")
    assert gone.result is None and not client.session.inflight


# ---- the end (see test_session_ends)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"C\0\0\0\5x", "CommandComplete without its final NUL"),
        (b"C\0\0\0\7x\0\0", "CommandComplete with bytes after its NUL"),
        (b"C\0\0\0\5\0Z\0\0\0\6II", "b'Z' has a body of the wrong length in state STATEMENT"),
    ],
)
def test_a_malformed_answer_ends_the_session(data: bytes, text: str) -> None:
    client = Client()
    sink = client.simple("select")
    client.take()
    client.feed(data + m.encode(*SIMPLE))
    session = client.session
    session.lost(OSError("later"))
    session.received(5)
    assert isinstance(session.failure, ProtocolError) and text in str(session.failure)
    assert outcomes(sink) == [Outcome.UNKNOWN] and str(sink.error) == str(session.failure)
    with pytest.raises(ProtocolError) as caught:
        client.simple("select")
    assert caught.value.outcome is Outcome.NOT_SENT


def test_nothing_is_sent_while_the_session_is_held() -> None:
    client = Client()
    client.session.hold()
    client.simple("select")
    assert client.sent() == []
    client.session.release()
    assert client.sent() == [m.Query("select")]


def test_a_group_larger_than_the_high_water_mark_is_sent_in_steps() -> None:
    """The server need not answer before the Sync, so only the socket can ask for more bytes."""
    client = Client()
    items = [client.item("insert", bytes(octets.HIGH_WATER_BYTES // 4)) for _ in range(20)]
    last = client.sync()
    taken = 0
    while data := client.take(octets.HIGH_WATER_BYTES // 8):
        assert len(client.session.out) < 2 * octets.HIGH_WATER_BYTES
        taken += len(data)
    assert not client.session.pending and taken > 5 * octets.HIGH_WATER_BYTES
    assert len(client.session.inflight) == len(items) + 1 and not last.is_answered


def test_a_tag_is_noted_once() -> None:
    client = Client()
    opened = client.window()
    for _ in range(2):
        client.session.submit_inside(opened, simple_query_request(Sink(), "select", 0.0))
        client.take()
        client.feed(describe("a", ()), m.DataRow((b"1",)), m.CommandComplete("SELECT 1"), READY)
    assert opened.tags == {"SELECT"}
