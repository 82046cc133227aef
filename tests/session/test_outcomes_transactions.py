"""A transaction left open on a shared connection: every request that ran inside it fails, with the right outcome."""

from __future__ import annotations

from typing import Any

import pytest

from pg_wired.errors import ConnectionClosed, Outcome, ProtocolError, TransactionError
from pg_wired.protocol import messages as m
from pg_wired.protocol.server_error import PgError
from pg_wired.protocol.types import TransactionStatus
from pg_wired.testing import describe, error
from tests.session.conversation import READY, Client, Sink, first, known, later, result

ROLLBACK = [m.Query("ROLLBACK")]
OPEN = m.ReadyForQuery("T")
FAILED = m.ReadyForQuery("E")
BEGIN = [m.CommandComplete("BEGIN"), OPEN]
ROLLED_BACK = [m.CommandComplete("ROLLBACK"), READY]


def check(sink: Sink, outcome: Outcome, *words: str) -> TransactionError:
    """Check that the request failed because of an open transaction, with this outcome."""
    assert isinstance(sink.error, TransactionError), sink.shown()
    assert sink.error.outcome is outcome, sink.error
    for word in (*words, "use exclusive()", "certain" if outcome is Outcome.UNKNOWN else "rolled back"):
        assert word in str(sink.error)
    return sink.error


def check_usable(client: Client) -> None:
    """Check that the transaction left no trace: the next query runs, and nothing is held back."""
    assert client.session.failure is None
    assert (client.session.holds, client.session.foreign) == (0, None)
    assert client.session.transaction_status is TransactionStatus.IDLE
    assert client.sent() == []
    sink = client.simple("select 1")
    assert client.sent() == [m.Query("select 1")]
    client.feed(describe(["a"], ()), *result((b"1",)), READY)
    assert sink.result == [[(b"1",)]]


def test_a_lone_begin_is_rolled_back_and_rejected_before_other_requests_are_sent() -> None:
    client = Client()
    sink = client.query("begin")
    client.take()
    client.feed(*first(names=(), tag="BEGIN")[:-1], OPEN)
    assert client.session.transaction_status is TransactionStatus.IN_TRANSACTION
    assert not sink.is_answered  # not before the end of the transaction is known
    assert client.sent() == ROLLBACK
    waiting = client.query("select 1")
    assert client.sent() == []  # held back until then
    client.feed(*ROLLED_BACK)
    check(sink, Outcome.REJECTED, "left a transaction open", "'begin'")
    assert client.tags() == "PDBES"
    client.feed(*first((b"1",)))
    assert waiting.result == [(b"1",)]
    check_usable(client)


def test_requests_before_an_open_transaction_succeed_and_those_inside_it_fail() -> None:
    client = Client()
    before, offender, behind = client.simple("select 1"), client.simple("begin; insert"), client.simple("select 2")
    failing = client.simple("selec")
    client.take()
    client.feed(describe(["a"], ()), *result((b"1",)), READY)
    client.feed(m.CommandComplete("BEGIN"), m.CommandComplete("INSERT 0 1"), OPEN)
    client.feed(describe(["a"], ()), *result((b"2",)), OPEN, error("42601", "syntax error"), FAILED)
    assert before.result == [[(b"1",)]]
    assert not (offender.is_answered or behind.is_answered or failing.is_answered)
    assert client.sent() == ROLLBACK
    client.feed(*ROLLED_BACK)
    check(offender, Outcome.REJECTED, "'begin; insert'")
    check(behind, Outcome.REJECTED, "ran inside the transaction", "'begin; insert'")
    cause = check(failing, Outcome.REJECTED, "ran inside").__cause__
    assert isinstance(cause, PgError) and cause.code == "42601"
    check_usable(client)


# The requests pipelined after BEGIN, with the tags and status that answer each; and the outcome of all of them.
PIPELINED: list[tuple[str, list[tuple[str, list[str], str]], Outcome]] = [
    ("COMMIT", [("insert", ["INSERT 0 1"], "T"), ("commit", ["COMMIT"], "I")], Outcome.UNKNOWN),
    ("ROLLBACK", [("insert", ["INSERT 0 1"], "T"), ("rollback", ["ROLLBACK"], "I")], Outcome.REJECTED),
    ("COMMIT AND CHAIN", [("commit and chain", ["COMMIT"], "T")], Outcome.UNKNOWN),
    ("ROLLBACK AND CHAIN", [("rollback and chain", ["ROLLBACK"], "T")], Outcome.REJECTED),
    ("ROLLBACK; INSERT", [("rollback; insert", ["ROLLBACK", "INSERT 0 1"], "I")], Outcome.UNKNOWN),
    ("COMMIT; BEGIN", [("commit; begin", ["COMMIT", "BEGIN"], "T")], Outcome.UNKNOWN),
    ("ROLLBACK; BEGIN", [("rollback; begin", ["ROLLBACK", "BEGIN"], "T")], Outcome.REJECTED),
    ("PREPARE TRANSACTION", [("prepare transaction 'x'", ["PREPARE TRANSACTION"], "I")], Outcome.UNKNOWN),
    ("COMMIT AND CHAIN, ROLLBACK", [("a", ["COMMIT"], "T"), ("b", ["ROLLBACK"], "I")], Outcome.UNKNOWN),
    ("SAVEPOINT", [("savepoint a", ["SAVEPOINT"], "T")], Outcome.REJECTED),
    ("empty", [("", [], "T")], Outcome.REJECTED),
]


@pytest.mark.parametrize(("requests", "outcome"), [case[1:] for case in PIPELINED], ids=[case[0] for case in PIPELINED])
@pytest.mark.parametrize("is_at_once", [True, False])
def test_the_way_a_transaction_ends_decides_the_outcome_of_all_requests_inside(
    requests: list[tuple[str, list[str], str]], outcome: Outcome, is_at_once: bool
) -> None:
    client = Client()
    sinks = [client.simple("begin"), *(client.simple(sql) for sql, _, _ in requests)]
    client.take()
    answers: list[list[m.BackendMessage]] = [BEGIN]
    for _, tags, status in requests:
        answers.append([*(map(m.CommandComplete, tags) if tags else [m.EmptyQueryResponse()]), m.ReadyForQuery(status)])
    # ROLLBACK was sent after them. If no transaction is open any more, it only causes a warning.
    answers.append(ROLLED_BACK)
    if is_at_once:
        answers = [[message for answer in answers for message in answer]]
    for answer in answers:
        client.feed(*answer)
    assert client.sent() == ROLLBACK
    check(sinks[0], outcome, "left a transaction open")
    for sink in sinks[1:]:
        check(sink, outcome, "ran inside")
    check_usable(client)


def test_a_request_after_the_end_of_the_transaction_succeeds() -> None:
    client = Client()
    sinks = [client.simple(sql) for sql in ("begin", "commit", "select")]
    client.take()
    client.feed(*BEGIN, m.CommandComplete("COMMIT"), READY, describe(["a"], ()), *result((b"1",)), READY)
    check(sinks[0], Outcome.UNKNOWN)
    check(sinks[1], Outcome.UNKNOWN)
    assert sinks[2].result == [[(b"1",)]]
    waiting = client.simple("select")
    assert client.sent() == ROLLBACK  # still held back: ROLLBACK is not answered yet
    client.feed(*ROLLED_BACK)
    assert client.sent() == [m.Query("select")]
    client.feed(m.CommandComplete("SELECT 0"), READY)
    assert waiting.result == [[]]
    check_usable(client)


def test_a_second_open_transaction_gets_its_own_rollback_and_outcome() -> None:
    client = Client()
    sinks = [client.simple(sql) for sql in ("begin", "commit", "start transaction")]
    client.take()
    client.feed(*BEGIN, m.CommandComplete("COMMIT"), READY, m.CommandComplete("START TRANSACTION"), OPEN)
    assert client.sent() == ROLLBACK * 2
    client.feed(*ROLLED_BACK)
    check(sinks[0], Outcome.UNKNOWN, "'begin'")
    check(sinks[2], Outcome.REJECTED, "left a transaction open", "'start transaction'")
    client.feed(m.NoticeResponse((("C", "25P01"),)), *ROLLED_BACK)
    check_usable(client)


def test_a_request_that_commits_and_begins_again_has_an_unknown_outcome() -> None:
    client = Client()
    sink = client.simple("begin; insert; commit; begin")
    client.take()
    client.feed(*map(m.CommandComplete, ("BEGIN", "INSERT 0 1", "COMMIT", "BEGIN")), OPEN, *ROLLED_BACK)
    check(sink, Outcome.UNKNOWN)


def test_requests_in_a_failed_transaction_are_rejected_with_their_own_causes() -> None:
    client = Client()
    sinks = [client.simple("begin; selec"), client.query("select 1"), client.simple("commit")]
    client.take()
    client.feed(m.CommandComplete("BEGIN"), error("42601"), FAILED)
    assert client.session.transaction_status is TransactionStatus.FAILED
    client.feed(error("25P02", "current transaction is aborted"), FAILED)
    client.feed(*ROLLED_BACK)  # COMMIT of a failed transaction
    for sink, code in zip(sinks[:2], ("42601", "25P02"), strict=True):
        cause = check(sink, Outcome.REJECTED).__cause__
        assert isinstance(cause, PgError) and cause.code == code
    assert check(sinks[2], Outcome.REJECTED).__cause__ is None
    client.feed(*ROLLED_BACK)
    assert client.sent() == ROLLBACK
    check_usable(client)


def test_a_parse_that_failed_inside_a_transaction_is_not_relied_on_later() -> None:
    client = Client()
    offender, parses, follows = client.simple("begin; selec; "), client.query("select 1"), client.query("select 1")
    commit, behind = client.simple("commit"), client.query("select 1", b"own")
    client.take()
    client.feed(error("42601"), FAILED, error("25P02"), FAILED, error("25P02"), FAILED, *ROLLED_BACK)
    for sink in (offender, parses, follows, commit):
        check(sink, Outcome.REJECTED)
    client.feed(error("26000", "prepared statement does not exist"), READY)
    assert not behind.is_answered
    client.feed(*ROLLED_BACK)
    assert client.sent()[1:2] == [m.Parse("", "select 1")]  # after ROLLBACK, with its own Parse
    client.feed(*first((b"own",)))
    assert behind.result == [(b"own",)]


@pytest.mark.parametrize("answered", [1, 2, 3])
def test_a_connection_lost_before_the_rollback_leaves_outcomes_unknown(answered: int) -> None:
    client = Client()
    sinks = [client.simple("begin"), client.simple("insert"), client.simple("select")]
    client.take()
    answers = [BEGIN, [m.CommandComplete("INSERT 0 1"), OPEN], [m.CommandComplete("SELECT 0"), OPEN]]
    for answer in answers[:answered]:
        client.feed(*answer)
    assert client.sent() == ROLLBACK
    waiting = client.simple("never sent")
    client.session.lost(None)
    for sink in sinks:
        assert isinstance(sink.error, ConnectionClosed) and sink.error.outcome is Outcome.UNKNOWN
    assert isinstance(waiting.error, ConnectionClosed) and waiting.error.outcome is Outcome.NOT_SENT
    assert client.session.out == b""


def test_a_protocol_error_inside_a_transaction_fails_every_waiting_request() -> None:
    client = Client()
    sinks: list[Any] = [client.simple("begin"), client.simple("insert")]
    client.take()
    client.feed(*BEGIN, m.BindComplete())
    assert [(type(sink.error), sink.error.outcome) for sink in sinks] == [(ProtocolError, Outcome.UNKNOWN)] * 2


@pytest.mark.parametrize("status", [OPEN, FAILED])
def test_a_rollback_that_does_not_end_the_transaction_is_a_protocol_error(status: m.ReadyForQuery) -> None:
    client = Client()
    sink = client.simple("begin")
    client.take()
    client.feed(*BEGIN, m.CommandComplete("ROLLBACK"), status)
    assert isinstance(client.session.failure, ProtocolError)
    assert "kept a transaction open after ROLLBACK" in str(client.session.failure)
    assert isinstance(sink.error, ProtocolError)


def test_a_refused_rollback_leaves_the_outcome_unknown() -> None:
    """No server refuses a ROLLBACK, but if one does, it must not count as a success."""
    client = Client()
    sink = client.simple("begin")
    client.take()
    client.feed(*BEGIN, error("XX000"), READY)
    check(sink, Outcome.UNKNOWN)


def test_cancelled_and_overdue_requests_get_no_second_answer() -> None:
    client = Client()
    offender, overdue, neighbour = client.simple("begin"), client.simple("a", deadline=1.0), client.simple("b")
    client.take()
    client.feed(*BEGIN, m.CommandComplete("SELECT 0"), OPEN, m.CommandComplete("SELECT 0"), OPEN)
    offender.cancelled = True
    client.expire(2.0)
    assert type(overdue.error).__name__ == "RequestTimeout"
    client.feed(*ROLLED_BACK)
    assert offender.error is None
    check(neighbour, Outcome.REJECTED)


def test_rows_read_inside_a_transaction_are_not_delivered() -> None:
    client = Client()
    known(client, "select 1")
    sinks = [client.simple("begin"), client.query("select 1")]
    client.take()
    client.feed(*BEGIN, *later((b"uncommitted",))[:-1], OPEN, *ROLLED_BACK)
    assert [sink.result for sink in sinks] == [None, None]
