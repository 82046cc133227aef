"""The outcomes of requests that fail: alone, in a sync group, in a transaction, or with a stale statement."""

from __future__ import annotations

import pytest

from pg_wired.errors import Outcome, PipelineAborted, ProtocolError, TransactionError, UsageError
from pg_wired.protocol import messages as m
from pg_wired.session.request import COMMITTING_TAGS
from pg_wired.testing import describe, error
from tests.session.conversation import (
    PREPARED,
    READY,
    STALE,
    Client,
    first,
    known,
    outcomes,
    pg_error,
    result,
)

SIMPLE = [*result(), READY]


# ---- sync groups

# The outcome of a group whose last item fails, by the tag of an earlier item.
ENDS = [("INSERT 0 1", Outcome.REJECTED), *((tag, Outcome.UNKNOWN) for tag in sorted(COMMITTING_TAGS))]


def test_the_items_of_a_group_are_answered_at_its_sync() -> None:
    client = Client()
    sinks = [client.item("select 1", b"1"), client.item("insert"), client.item("select 1", b"2"), client.sync()]
    assert client.tags() == "PDBE" + "PDBE" + "BDE" + "S"
    answer = [*first((b"1",))[:-1], *PREPARED, m.BindComplete(), m.CommandComplete("INSERT 0 1"), m.BindComplete()]
    client.feed(*answer, describe(["a"], ()), *result((b"2",)))
    assert not any(sink.is_answered for sink in sinks)
    client.feed(READY)
    assert [list(sink.result) for sink in sinks] == [[(b"1",)], [], [(b"2",)], []]
    assert sinks[1].result.rows_affected == 1


def test_a_simple_query_may_stand_between_two_groups() -> None:
    client = Client()
    sinks = [client.item("insert"), client.sync(), client.simple("select"), client.item("insert"), client.sync()]
    assert client.tags() == "PDBE" + "S" + "Q" + "PDBE" + "S"  # an item does not rely on the Parse of another group
    client.feed(*first(names=(), tag="INSERT 0 1"), *SIMPLE, *first(names=(), tag="INSERT 0 1"))
    assert all(sink.result is not None for sink in sinks)


# The answers before the error, and the step of the second of three items that fails.
FAILURES = [([], "Parse"), (PREPARED[:1], "Describe"), (PREPARED, "Bind"), ([*PREPARED, m.BindComplete()], "Execute")]


@pytest.mark.parametrize("answer", [case[0] for case in FAILURES], ids=[case[1] for case in FAILURES])
@pytest.mark.parametrize(("tag", "outcome"), ENDS)
def test_one_error_fails_every_item_of_the_group(answer: list[m.BackendMessage], tag: str, outcome: Outcome) -> None:
    client = Client()
    done, failed, skipped, sync = client.item("a"), client.item("b"), client.item("c"), client.sync()
    behind = client.item("select 1"), client.sync()
    client.take()
    client.feed(*first(names=(), tag=tag)[:-1], *answer, error("22012"), READY, *first((b"1",)))
    assert outcomes(done, failed, skipped) == [outcome] * 3
    assert isinstance(done.error, PipelineAborted) and "was rolled back" in str(done.error)
    assert isinstance(skipped.error, PipelineAborted) and "was skipped" in str(skipped.error)
    assert pg_error(failed).code == "22012" and done.error.__cause__ is skipped.error.__cause__ is failed.error
    assert list(sync.result) == [] and [list(sink.result) for sink in behind] == [[(b"1",)], []]


def test_an_error_at_the_sync_fails_the_items_and_the_sync() -> None:
    client = Client()
    item, sync = client.item("insert"), client.sync()  # its constraint is deferred
    client.feed(*first(names=(), tag="INSERT 0 1")[:-1], error("23505"), READY)
    assert isinstance(item.error, PipelineAborted) and outcomes(item, sync) == [Outcome.REJECTED] * 2
    assert item.error.__cause__ is pg_error(sync)


def test_a_failed_item_also_fails_the_query_that_ends_its_group() -> None:
    """The library's own transactions end their groups like this."""
    client = Client()
    item, last = client.item("fail"), client.query("select 1")
    client.take()
    client.feed(error("22012"), READY)
    assert pg_error(item).code == "22012"
    assert isinstance(last.error, PipelineAborted) and outcomes(last) == [Outcome.REJECTED]
    again = client.item("fail"), client.query("select 1")
    assert client.tags() == "PDBE" + "PDBES"  # the server has parsed neither
    client.feed(*first(names=(), tag="X")[:-1], *first((b"1",)))
    assert [list(sink.result) for sink in again] == [[], [(b"1",)]]


def test_copy_out_in_a_group_fails_without_affecting_other_items() -> None:
    client = Client()
    copy, other, _ = client.item("copy"), client.item("insert"), client.sync()
    copied = [m.CopyOutResponse(0, ()), m.CopyDone(), m.CommandComplete("COPY 0")]
    client.feed(*PREPARED, m.BindComplete(), *copied, *first(names=(), tag="INSERT 0 1"))
    assert isinstance(copy.error, UsageError) and outcomes(copy) == [Outcome.UNKNOWN]
    assert other.result.rows_affected == 1


def test_a_stale_item_fails_and_is_prepared_again_on_its_next_use() -> None:
    client = Client()
    known(client, "select 1")
    stale, sync = client.item("select 1"), client.sync()
    client.take()
    client.feed(error("26000"), READY)
    assert pg_error(stale).code == "26000" and sync.result is not None  # no repair in a group that the caller built
    client.item("select 1")
    client.sync()
    assert client.tags() == "CPDBE" + "S"


@pytest.mark.parametrize("status", ["T", "E"])
def test_a_group_that_leaves_a_transaction_open_is_rolled_back_and_fails(status: str) -> None:
    client = Client()
    sinks = [client.item("begin"), client.sync()]
    client.take()
    client.feed(*first(names=(), tag="BEGIN")[:-1], m.ReadyForQuery(status))
    assert client.sent() == [m.Query("ROLLBACK")]
    client.feed(m.CommandComplete("ROLLBACK"), READY)
    assert [type(sink.error) for sink in sinks] == [TransactionError] * 2
    assert outcomes(*sinks) == [Outcome.REJECTED] * 2


def test_a_connection_lost_inside_a_group_leaves_every_outcome_unknown() -> None:
    client = Client()
    sinks = [client.item("insert"), client.item("insert"), client.sync()]
    client.take()
    client.feed(*first(names=(), tag="INSERT 0 1")[:-1])
    client.session.lost(None)
    assert outcomes(*sinks) == [Outcome.UNKNOWN] * 3


# ---- refusals


@pytest.mark.parametrize(("tag", "outcome"), ENDS)
def test_a_refused_copy_after_a_committing_tag_has_an_unknown_outcome(tag: str, outcome: Outcome) -> None:
    client = Client()
    sink = client.simple("begin; commit; copy")
    client.feed(m.CommandComplete("BEGIN"), m.CommandComplete(tag), m.CopyInResponse(0, ()), error("57014"), READY)
    assert isinstance(sink.error, UsageError) and outcomes(sink) == [outcome]


def test_an_error_after_a_commit_in_one_query_has_an_unknown_outcome() -> None:
    client = Client()
    sink = client.simple("begin; commit; selec")
    client.feed(m.CommandComplete("BEGIN"), m.CommandComplete("COMMIT"), error("42601"), READY)
    assert pg_error(sink).outcome is Outcome.UNKNOWN


# ---- transactions sent as one request (see test_transaction)


def test_a_transaction_request_is_answered_only_after_its_own_rollback() -> None:
    client = Client()
    sink = client.transaction("selec", "select 1")
    client.take()
    client.feed(m.CommandComplete("BEGIN"), m.CommandComplete("SET"), m.ReadyForQuery("T"))
    client.feed(error("42601"), m.ReadyForQuery("E"), error("25P02"), m.ReadyForQuery("E"))
    assert not sink.is_answered and client.sent() == []
    client.feed(m.CommandComplete("ROLLBACK"), READY)
    assert pg_error(sink).code == "42601"


# ---- transactions left open (see test_outcomes_transactions)


@pytest.mark.parametrize("status", ["T", "E"])
def test_a_transaction_left_open_is_rolled_back_and_rejected(status: str) -> None:
    client = Client()
    sink = client.simple("begin")
    client.take()
    client.feed(m.CommandComplete("BEGIN"), m.ReadyForQuery(status))
    assert client.sent() == [m.Query("ROLLBACK")]
    client.feed(m.CommandComplete("ROLLBACK"), READY)
    assert isinstance(sink.error, TransactionError) and sink.error.outcome is Outcome.REJECTED
    assert client.session.holds == 0


def test_a_transaction_still_open_after_rollback_is_a_protocol_error() -> None:
    client = Client()
    client.simple("begin")
    client.feed(m.CommandComplete("BEGIN"), m.ReadyForQuery("T"), m.CommandComplete("ROLLBACK"), m.ReadyForQuery("T"))
    assert isinstance(client.sinks[0].error, ProtocolError)


def test_a_rollback_without_an_open_transaction_does_no_harm() -> None:
    client = Client()
    client.simple("begin")
    client.simple("commit")
    client.feed(m.CommandComplete("BEGIN"), m.ReadyForQuery("T"), m.CommandComplete("COMMIT"), READY)
    client.feed(m.NoticeResponse((("C", "25P01"),)), m.CommandComplete("ROLLBACK"), READY)
    assert [getattr(sink.error, "outcome", None) for sink in client.sinks] == [Outcome.UNKNOWN] * 2
    assert client.session.holds == 0 and client.session.failure is None


# ---- stale statements (see test_session_repairs)


@pytest.mark.parametrize("stale", [error("26000"), STALE], ids=["26000", "0A000"])
def test_a_stale_statement_is_repaired_once(stale: m.ErrorResponse) -> None:
    client = Client()
    known(client, "select 1")
    name = client.session.statements.entries["select 1"].name
    sink, neighbour = client.query("select 1", b"x"), client.simple("select 2")
    client.take()
    client.feed(stale, READY)
    assert client.sent() == [
        m.Close("S", name),
        m.Parse(name, "select 1"),
        m.Describe("S", name),
        m.Bind("", name, (), (b"x",)),
        m.Execute(),
        m.Sync(),
    ]
    client.feed(*result(), READY, m.CloseComplete(), stale, READY)
    assert neighbour.result == [[]]
    assert pg_error(sink).outcome is Outcome.REJECTED  # it is repaired only once
    assert client.sent() == []


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        ([error("0A000")], "0A000"),  # not from RevalidateCachedQuery
        ([error("22P02")], "22P02"),
        ([m.BindComplete(), error("26000")], "26000"),  # EXECUTE of a name, inside the statement
        ([m.BindComplete(), m.DataRow((b"1",)), STALE], "0A000"),
    ],
)
def test_other_errors_are_not_repaired(answer: list[m.BackendMessage], code: str) -> None:
    client = Client()
    known(client, "select 1")
    sink = client.query("select 1")
    client.take()
    client.feed(*answer, READY)
    assert pg_error(sink).code == code and client.sent() == []


def test_a_statement_name_that_already_exists_is_repaired() -> None:
    client = Client()
    sink = client.query("select 1")
    client.take()
    client.feed(error("42P05"), READY)
    assert client.tags() == "CPDBES"
    client.feed(m.CloseComplete(), *first((b"1",)))
    assert sink.result == [(b"1",)]


def test_requests_after_a_failed_parse_get_their_own_answers() -> None:
    client = Client()
    sinks = [client.query("select 1", b"%d" % n) for n in range(3)]
    client.take()
    client.feed(error("55P03", "lock timeout"), READY, *[error("26000"), READY] * 2)
    assert [message.statement for message in client.sent() if isinstance(message, m.Parse | m.Bind)] == [""] * 4
    client.feed(*first((b"1",)), error("42P01", "own"), READY)
    assert pg_error(sinks[0]).code == "55P03"
    assert sinks[1].result == [(b"1",)]
    assert pg_error(sinks[2]).message == "own"
