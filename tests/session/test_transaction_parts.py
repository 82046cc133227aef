"""exec_transaction at the protocol level: the messages it sends, and the result of each answer to its parts."""

from __future__ import annotations

import gc

import pytest

from pg_wired.errors import ConnectionClosed, Outcome, PgWireError, RequestTimeout, TransactionError, UsageError
from pg_wired.protocol import messages as m
from pg_wired.protocol.server_error import PgError
from pg_wired.protocol.types import TransactionStatus
from pg_wired.session.request import query_request
from pg_wired.session.transaction import BEGIN, GUARD, Transaction
from pg_wired.testing import describe, error
from tests.session.conversation import PREPARED, READY, STALE, Client, Sink, first, known, later, pg_error, result

NOT_SENT, REJECTED, UNKNOWN = Outcome.NOT_SENT, Outcome.REJECTED, Outcome.UNKNOWN
OPEN, FAILED = m.ReadyForQuery("T"), m.ReadyForQuery("E")
Answer = list[m.BackendMessage]


def transact(client: Client, setup: str = "setup", sql: str = "query", *params: bytes, deadline: float = 0.0) -> Sink:
    sink = Sink()
    whole = Transaction(setup, query_request(sink, sql, params, (), 0, 0, deadline)).whole
    client.session.submit(whole)
    client.sinks.append(sink)
    return sink


def tagged(*tags: str, status: m.ReadyForQuery = OPEN) -> Answer:
    """The answer to a simple Query with these tags."""
    return [*map(m.CommandComplete, tags), status]


BEGUN = tagged("BEGIN", "SET")
SET = tagged("SET")
GUARDED: Answer = first((b"1",))[:-1]
GUARDED_AGAIN: Answer = later((b"1",))[:-1]
QUERIED: Answer = [*PREPARED, m.BindComplete(), m.CommandComplete("INSERT 0 1"), OPEN]
COMMITTED = tagged("COMMIT", status=READY)
ROLLED_BACK = tagged("ROLLBACK", status=READY)
FAILING: Answer = [error("22012", "division by zero"), FAILED]
NO_SETTING: Answer = [error("22012", "division by zero"), FAILED]
IN_FAILED: Answer = [error("25P02", "current transaction is aborted"), FAILED]


def usable(client: Client) -> None:
    """Check that the transaction left no trace, and that the next request gets its own answer."""
    session = client.session
    assert (session.failure, session.foreign, session.group, session.holds) == (None, None, [], 0)
    assert session.transaction_status is TransactionStatus.IDLE and not session.inflight
    sink = client.simple("next")
    assert client.sent() == [m.Query("next")]
    client.feed(m.CommandComplete("NEXT"), READY)
    assert sink.result[0].command_tag == "NEXT"


def test_a_finished_transaction_leaves_no_reference_cycle() -> None:
    """The transaction and its parts refer to each other; the cycle must be broken, or the collector has to find it."""

    def run(client: Client) -> Sink:
        sink = transact(client, "set local role alice", "insert")
        client.feed(*BEGUN, *SET, *GUARDED, *QUERIED, *COMMITTED)
        return sink

    run(Client())  # the first use of each message reads its description, which leaves some
    client = Client()
    gc.collect()
    gc.disable()
    try:
        assert run(client).result is not None and gc.collect() == 0
    finally:
        gc.enable()


def test_a_setup_may_be_of_a_subclass_of_str() -> None:
    """SQL constants are often members of a class derived from str."""
    client = Client()
    transact(client, type("Words", (str,), {})("set local role alice"))
    assert client.sent()[1] == m.Query("set local role alice")


def test_a_transaction_sends_begin_setup_guard_query_and_commit() -> None:
    client = Client()
    sink = transact(client, "set local role alice", "select $1", b"x")
    sent = client.sent()
    assert sent[:2] == [m.Query(BEGIN), m.Query("set local role alice")]
    parses = [message.query for message in sent if isinstance(message, m.Parse)]
    assert parses == [GUARD, "select $1"]
    assert "".join(chr(message.tag or 0) for message in sent[2:]) == "PDBE" + "PDBES" + "Q"
    assert sent[-1] == m.Query("COMMIT")
    columns = describe(["a"], ())
    client.feed(*BEGUN, *SET, *GUARDED, *PREPARED[:2], columns, m.BindComplete(), *result((b"x",)), OPEN)
    assert not sink.is_answered  # it has not succeeded before COMMIT
    client.feed(*COMMITTED)
    assert list(sink.result) == [(b"x",)] and sink.result.fields[0].name == "a"
    usable(client)


def test_no_other_request_is_sent_between_the_parts_of_a_transaction() -> None:
    client = Client(max_in_flight=2)
    client.query("a")
    transact(client, "first", "first query")
    client.query("b")
    transact(client, "second", "second query")
    client.simple("c")
    sqls: list[str] = []
    guarded = GUARDED
    while messages := client.sent():
        for message in messages:
            sqls += [message.query] if isinstance(message, m.Query | m.Parse) else []
            match message:
                case m.Query("COMMIT"):
                    client.feed(*guarded, *QUERIED, *COMMITTED)
                    guarded = GUARDED_AGAIN
                case m.Query(query) if query.startswith("BEGIN"):
                    client.feed(*BEGUN)
                case m.Query("first" | "second"):
                    client.feed(*SET)
                case m.Query():
                    client.feed(m.CommandComplete("C"), READY)
                case m.Parse(query="a" | "b"):
                    client.feed(*first())
    one = [BEGIN, "first", GUARD, "first query", "COMMIT"]
    two = [BEGIN, "second", "second query", "COMMIT"]
    assert sqls == ["a", *one, "b", *two, "c"]
    assert all(sink.result is not None for sink in client.sinks)


# The answer to each part; the exception, its SQLSTATE, and the outcome.
ENDS: dict[str, tuple[list[Answer], type[PgWireError], str, Outcome]] = {
    "BEGIN fails": (
        [[error("53300"), READY], tagged("SET", status=READY), [error("25P01"), READY], COMMITTED],
        PgError, "53300", UNKNOWN,
    ),
    "BEGIN fails, and so does the rest": (
        [[error("53300"), READY], tagged("SET", status=READY), [error("25P01"), READY], ROLLED_BACK],
        PgError, "53300", REJECTED,
    ),
    "setup fails": ([BEGUN, FAILING, IN_FAILED, ROLLED_BACK], PgError, "22012", REJECTED),
    "setup commits and fails": (
        [BEGUN, [m.CommandComplete("COMMIT"), error("22012"), READY], [error("25P01"), READY], COMMITTED],
        PgError, "22012", UNKNOWN,
    ),
    "setup commits": (
        [BEGUN, tagged("COMMIT", status=READY), [error("22012"), READY], COMMITTED], TransactionError, "", UNKNOWN,
    ),
    "setup commits and begins": (
        [BEGUN, tagged("COMMIT", "BEGIN"), NO_SETTING, ROLLED_BACK], TransactionError, "", UNKNOWN,
    ),
    "setup prepares": (
        [BEGUN, tagged("PREPARE TRANSACTION", status=READY), [error("22012"), READY], COMMITTED],
        TransactionError, "", UNKNOWN,
    ),
    "setup rolls back and begins": (
        [BEGUN, tagged("ROLLBACK", "BEGIN"), NO_SETTING, ROLLED_BACK], TransactionError, "", REJECTED,
    ),
    "query fails": (
        [BEGUN, SET, [*GUARDED, *FAILING], ROLLED_BACK], PgError, "22012", REJECTED,
    ),
    "query fails behind a commit": (
        [BEGUN, tagged("COMMIT", "BEGIN", "SET"), [*GUARDED, *FAILING], ROLLED_BACK], PgError, "22012", UNKNOWN,
    ),
    "query ends the transaction": (
        [BEGUN, SET, [*GUARDED, *QUERIED[:-1], READY], COMMITTED], TransactionError, "", REJECTED,
    ),
    "query commits": (
        [BEGUN, SET, [*GUARDED, *QUERIED[:-2], m.CommandComplete("COMMIT"), READY], COMMITTED],
        TransactionError, "", UNKNOWN,
    ),
    "COMMIT fails": ([BEGUN, SET, [*GUARDED, *QUERIED], [error("23505"), READY]], PgError, "23505", REJECTED),
    "COMMIT rolls back": ([BEGUN, SET, [*GUARDED, *QUERIED], ROLLED_BACK], TransactionError, "", REJECTED),
}  # fmt: skip


@pytest.mark.parametrize(("answer", "kind", "code", "outcome"), ENDS.values(), ids=ENDS)
@pytest.mark.parametrize("is_at_once", [True, False])
def test_a_failing_part_decides_the_error_and_outcome_of_the_whole(
    answer: list[Answer], kind: type[PgWireError], code: str, outcome: Outcome, is_at_once: bool
) -> None:
    client = Client()
    before, sink, behind = client.simple("before"), transact(client), client.simple("behind")
    client.take()
    client.feed(m.CommandComplete("BEFORE"), READY)
    parts = [[message for part in answer for message in part]] if is_at_once else answer
    for part in parts:
        assert not sink.is_answered
        client.feed(*part)
    assert type(sink.error) is kind and isinstance(sink.error, PgWireError)
    assert (sink.error.outcome, getattr(sink.error, "code", "")) == (outcome, code)
    client.feed(m.CommandComplete("BEHIND"), READY)
    assert [before.result[0].command_tag, behind.result[0].command_tag] == ["BEFORE", "BEHIND"]
    usable(client)


def test_a_copy_as_its_query_is_refused() -> None:
    client = Client()
    sink = transact(client)
    client.take()
    copied: Answer = [m.CopyOutResponse(0, ()), m.CopyData(b"x"), m.CopyDone(), m.CommandComplete("COPY 1"), OPEN]
    client.feed(*BEGUN, *SET, *GUARDED, *PREPARED, m.BindComplete(), *copied, *COMMITTED)
    assert isinstance(sink.error, UsageError) and sink.error.outcome is UNKNOWN
    usable(client)


def test_a_stale_transaction_is_repeated_only_after_its_rollback() -> None:
    client = Client()
    known(client, "query")
    sink, behind = transact(client), client.simple("behind")
    assert client.tags() == "QQ" + "PDBE" + "BDES" + "Q" + "Q"
    stale: Answer = [*GUARDED, STALE, FAILED]
    client.feed(*BEGUN, *SET, *stale)
    assert client.sent() == [] and not sink.is_answered
    client.feed(*ROLLED_BACK, m.CommandComplete("BEHIND"), READY)
    sent = client.sent()
    assert sent[0] == m.Query(BEGIN) and behind.result
    closes = [message for message in sent if isinstance(message, m.Close)]
    assert len(closes) == 1 and sent.index(closes[0]) == 2  # at the head of its group
    client.feed(*BEGUN, *SET, m.CloseComplete(), *GUARDED_AGAIN, *QUERIED, *COMMITTED)
    assert sink.result.command_tag == "INSERT 0 1"
    usable(client)


@pytest.mark.parametrize("why", ["a second time", "it committed", "nobody waits"])
def test_a_stale_transaction_is_not_repeated_if_that_is_unsafe_or_useless(why: str) -> None:
    client = Client()
    known(client, "query")
    sink = transact(client)
    client.take()
    if why == "nobody waits":
        sink.cancelled = True
    setup = tagged("COMMIT", "BEGIN", "SET") if why == "it committed" else SET
    client.feed(*BEGUN, *setup, *GUARDED, STALE, FAILED, *ROLLED_BACK)
    if why == "a second time":
        assert client.tags().startswith("QQ")
        client.feed(*BEGUN, *SET, m.CloseComplete(), *GUARDED_AGAIN, STALE, FAILED, *ROLLED_BACK)
    assert client.sent() == []
    if why == "nobody waits":
        assert not sink.is_answered
    else:
        assert pg_error(sink).code == "0A000" and sink.error is not None
        assert pg_error(sink).outcome is (UNKNOWN if why == "it committed" else REJECTED)
    usable(client)


def test_a_transaction_cancelled_midway_runs_to_its_end() -> None:
    client = Client()
    sink = transact(client)
    client.take()
    client.feed(*BEGUN)
    sink.cancelled = True
    client.feed(*SET, *GUARDED, *QUERIED, *COMMITTED)
    assert not sink.is_answered
    usable(client)


def test_a_transaction_cancelled_before_it_is_encoded_is_not_sent() -> None:
    client = Client(max_in_flight=1)
    head, sink = client.simple("head"), transact(client)
    client.take()
    sink.cancelled = True
    client.feed(m.CommandComplete("HEAD"), READY)
    assert head.result and client.sent() == []
    usable(client)


@pytest.mark.parametrize("answered", range(5))
def test_a_connection_lost_after_any_part_leaves_the_outcome_unknown(answered: int) -> None:
    client = Client()
    sink = transact(client)
    client.take()
    for part in [BEGUN, SET, GUARDED, QUERIED][:answered]:
        client.feed(*part)
    client.session.lost(None)
    assert isinstance(sink.error, ConnectionClosed) and sink.error.outcome is UNKNOWN


@pytest.mark.parametrize(("taken", "outcome"), [(0, NOT_SENT), (1, UNKNOWN)])
def test_a_lost_transaction_is_unknown_once_one_byte_was_handed_over(taken: int, outcome: Outcome) -> None:
    client = Client()
    sink = transact(client)
    client.take(taken)
    client.session.lost(None)
    assert isinstance(sink.error, ConnectionClosed) and sink.error.outcome is outcome


@pytest.mark.parametrize("answered", range(5))
def test_the_deadline_applies_after_any_part(answered: int) -> None:
    client = Client()
    sink = transact(client, deadline=10.0)
    client.take()
    for part in [BEGUN, SET, GUARDED, QUERIED][:answered]:
        client.feed(*part)
    assert client.session.expire(9.0) == 10.0 and not sink.is_answered
    assert client.session.expire(10.0) == 0.0
    assert isinstance(sink.error, RequestTimeout) and sink.error.outcome is UNKNOWN
    assert str(sink.error) == "the request's deadline has passed"  # its own parts do not count as other requests
    for part in [BEGUN, SET, GUARDED, QUERIED, COMMITTED][answered:]:
        client.feed(*part)
    usable(client)


def test_a_transaction_sent_inside_an_open_one_never_succeeds() -> None:
    client = Client()
    offender, sink = client.simple("begin"), transact(client)
    client.take()
    client.feed(m.CommandComplete("BEGIN"), OPEN, *BEGUN, *SET, *GUARDED, *QUERIED, *COMMITTED)
    for each in (offender, sink):
        assert isinstance(each.error, TransactionError) and each.error.outcome is UNKNOWN
    assert client.sent() == [m.Query("ROLLBACK")]
    client.feed(*ROLLED_BACK)
    usable(client)
