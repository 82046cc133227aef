"""How requests end that are not plain success: with an error, in a group, at their deadline."""

from __future__ import annotations

import pytest

from pg_wired.error import (
    Outcome,
    PipelineAborted,
    ProtocolError,
    RequestTimeout,
    TransactionError,
    UsageError,
)
from pg_wired.protocol import messages as m
from pg_wired.protocol import requests
from pg_wired.protocol.answers import COMMITTING
from pg_wired.protocol.window import Window
from rig.talk import describe, error
from tests.protocol.conversation import (
    PREPARED,
    READY,
    STALE,
    Client,
    Sink,
    first,
    known,
    later,
    outcomes,
    pg_error,
    result,
)

SIMPLE = [*result(), READY]


# ---- sync groups

# What a group says whose last item fails, by the tag of one before.
ENDS = [("INSERT 0 1", Outcome.REJECTED), *((tag, Outcome.UNKNOWN) for tag in sorted(COMMITTING))]


def test_a_group_is_answered_at_its_sync() -> None:
    client = Client()
    sinks = [client.item("select 1", b"1"), client.item("insert"), client.item("select 1", b"2"), client.sync()]
    assert client.tags() == "PDBE" + "PDBE" + "BDE" + "S"
    answer = [*first((b"1",))[:-1], *PREPARED, m.BindComplete(), m.CommandComplete("INSERT 0 1"), m.BindComplete()]
    client.feed(*answer, describe(["a"], ()), *result((b"2",)))
    assert not any(sink.is_answered for sink in sinks)
    client.feed(READY)
    assert [list(sink.result) for sink in sinks] == [[(b"1",)], [], [(b"2",)], []]
    assert sinks[1].result.rows_affected == 1


def test_a_simple_query_among_groups() -> None:
    client = Client()
    sinks = [client.item("insert"), client.sync(), client.simple("select"), client.item("insert"), client.sync()]
    assert client.tags() == "PDBE" + "S" + "Q" + "PDBE" + "S"  # an item relies on no Parse of another group
    client.feed(*first(names=(), tag="INSERT 0 1"), *SIMPLE, *first(names=(), tag="INSERT 0 1"))
    assert all(sink.result is not None for sink in sinks)


# The failing step of the second item of three, and what the first one's tag was.
FAILURES = [([], "Parse"), (PREPARED[:1], "Describe"), (PREPARED, "Bind"), ([*PREPARED, m.BindComplete()], "Execute")]


@pytest.mark.parametrize("answer", [case[0] for case in FAILURES], ids=[case[1] for case in FAILURES])
@pytest.mark.parametrize(("tag", "outcome"), ENDS)
def test_one_error_undoes_the_group(answer: list[m.BackendMessage], tag: str, outcome: Outcome) -> None:
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


def test_an_error_at_the_end_of_a_group() -> None:
    client = Client()
    item, sync = client.item("insert"), client.sync()  # whose constraint is deferred
    client.feed(*first(names=(), tag="INSERT 0 1")[:-1], error("23505"), READY)
    assert isinstance(item.error, PipelineAborted) and outcomes(item, sync) == [Outcome.REJECTED] * 2
    assert item.error.__cause__ is pg_error(sync)


def test_a_group_that_ends_in_a_query() -> None:
    """The library's own transactions do that."""
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


def test_copy_out_in_a_group_is_refused_alone() -> None:
    client = Client()
    copy, other, _ = client.item("copy"), client.item("insert"), client.sync()
    copied = [m.CopyOutResponse(0, ()), m.CopyDone(), m.CommandComplete("COPY 0")]
    client.feed(*PREPARED, m.BindComplete(), *copied, *first(names=(), tag="INSERT 0 1"))
    assert isinstance(copy.error, UsageError) and outcomes(copy) == [Outcome.UNKNOWN]
    assert other.result.rows_affected == 1


def test_a_stale_item_fails_and_is_prepared_anew_the_next_time() -> None:
    client = Client()
    known(client, "select 1")
    stale, sync = client.item("select 1"), client.sync()
    client.take()
    client.feed(error("26000"), READY)
    assert pg_error(stale).code == "26000" and sync.result is not None  # it stands in a group of its caller's making
    client.item("select 1")
    client.sync()
    assert client.tags() == "CPDBE" + "S"


@pytest.mark.parametrize("status", ["T", "E"])
def test_a_group_that_leaves_a_transaction_open(status: str) -> None:
    client = Client()
    sinks = [client.item("begin"), client.sync()]
    client.take()
    client.feed(*first(names=(), tag="BEGIN")[:-1], m.ReadyForQuery(status))
    assert client.sent() == [m.Query("ROLLBACK")]
    client.feed(m.CommandComplete("ROLLBACK"), READY)
    assert [type(sink.error) for sink in sinks] == [TransactionError] * 2
    assert outcomes(*sinks) == [Outcome.REJECTED] * 2


def test_a_connection_lost_inside_a_group() -> None:
    client = Client()
    sinks = [client.item("insert"), client.item("insert"), client.sync()]
    client.take()
    client.feed(*first(names=(), tag="INSERT 0 1")[:-1])
    client.session.lost(None)
    assert outcomes(*sinks) == [Outcome.UNKNOWN] * 3


# ---- refusals


@pytest.mark.parametrize(("tag", "outcome"), ENDS)
def test_a_refused_copy_behind_a_commit(tag: str, outcome: Outcome) -> None:
    client = Client()
    sink = client.simple("begin; commit; copy")
    client.feed(m.CommandComplete("BEGIN"), m.CommandComplete(tag), m.CopyInResponse(0, ()), error("57014"), READY)
    assert isinstance(sink.error, UsageError) and outcomes(sink) == [outcome]


def test_an_error_behind_a_commit() -> None:
    client = Client()
    sink = client.simple("begin; commit; selec")
    client.feed(m.CommandComplete("BEGIN"), m.CommandComplete("COMMIT"), error("42601"), READY)
    assert pg_error(sink).outcome is Outcome.UNKNOWN


# ---- units (see test_transaction)


def test_a_unit_decides_for_itself() -> None:
    client = Client()
    sink = client.transaction("selec", "select 1")
    client.take()
    client.feed(m.CommandComplete("BEGIN"), m.CommandComplete("SET"), m.ReadyForQuery("T"))
    client.feed(error("42601"), m.ReadyForQuery("E"), error("25P02"), m.ReadyForQuery("E"))
    assert not sink.is_answered and client.sent() == []
    client.feed(m.CommandComplete("ROLLBACK"), READY)
    assert pg_error(sink).code == "42601"


# ---- transactions (see test_foreign)


@pytest.mark.parametrize("status", ["T", "E"])
def test_a_transaction_is_rolled_back(status: str) -> None:
    client = Client()
    sink = client.simple("begin")
    client.take()
    client.feed(m.CommandComplete("BEGIN"), m.ReadyForQuery(status))
    assert client.sent() == [m.Query("ROLLBACK")]
    client.feed(m.CommandComplete("ROLLBACK"), READY)
    assert isinstance(sink.error, TransactionError) and sink.error.outcome is Outcome.REJECTED
    assert client.session.holds == 0


def test_rollback_must_end_it() -> None:
    client = Client()
    client.simple("begin")
    client.feed(m.CommandComplete("BEGIN"), m.ReadyForQuery("T"), m.CommandComplete("ROLLBACK"), m.ReadyForQuery("T"))
    assert isinstance(client.sinks[0].error, ProtocolError)


def test_rollback_where_nothing_is_open_any_more() -> None:
    client = Client()
    client.simple("begin")
    client.simple("commit")
    client.feed(m.CommandComplete("BEGIN"), m.ReadyForQuery("T"), m.CommandComplete("COMMIT"), READY)
    client.feed(m.NoticeResponse((("C", "25P01"),)), m.CommandComplete("ROLLBACK"), READY)
    assert [getattr(sink.error, "outcome", None) for sink in client.sinks] == [Outcome.UNKNOWN] * 2
    assert client.session.holds == 0 and client.session.failure is None


# ---- stale statements (see test_repairs)


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
    assert pg_error(sink).outcome is Outcome.REJECTED  # once only
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
def test_what_is_not_repaired(answer: list[m.BackendMessage], code: str) -> None:
    client = Client()
    known(client, "select 1")
    sink = client.query("select 1")
    client.take()
    client.feed(*answer, READY)
    assert pg_error(sink).code == code and client.sent() == []


def test_a_name_that_is_taken_is_repaired() -> None:
    client = Client()
    sink = client.query("select 1")
    client.take()
    client.feed(error("42P05"), READY)
    assert client.tags() == "CPDBES"
    client.feed(m.CloseComplete(), *first((b"1",)))
    assert sink.result == [(b"1",)]


def test_those_behind_a_parse_that_failed_get_their_own_answers() -> None:
    client = Client()
    sinks = [client.query("select 1", b"%d" % n) for n in range(3)]
    client.take()
    client.feed(error("55P03", "lock timeout"), READY, *[error("26000"), READY] * 2)
    assert [message.statement for message in client.sent() if isinstance(message, m.Parse | m.Bind)] == [""] * 4
    client.feed(*first((b"1",)), error("42P01", "own"), READY)
    assert pg_error(sinks[0]).code == "55P03"
    assert sinks[1].result == [(b"1",)]
    assert pg_error(sinks[2]).message == "own"


# ---- the request that nobody waits for any more


def test_the_sole_request() -> None:
    client = Client(max_in_flight=2)
    first_sink = client.simple("a")
    assert client.sole is first_sink
    second = client.simple("b")
    assert client.sole is None
    client.simple("c")
    client.feed(*SIMPLE)
    assert client.sole is None
    client.feed(*SIMPLE)
    assert client.sole is client.sinks[2] and second.result == [[]]


def test_nothing_leaves_until_a_disowned_request_and_its_cancelling_have_ended() -> None:
    client = Client()
    client.simple("a")
    client.take()
    client.disown()
    assert client.sole is None
    behind = client.simple("b")
    assert client.sent() == []
    client.feed(error("57014"), READY)
    assert client.sent() == []
    client.session.release()
    assert client.sent() == [m.Query("b")]
    client.feed(*SIMPLE)
    assert behind.result == [[]] and client.session.holds == 0


def test_a_disowned_request_that_is_answered_all_the_same() -> None:
    client = Client()
    known(client, "select 1")
    client.query("select 1")
    client.disown()
    client.session.release()  # the cancel connection has ended first
    behind = client.query("select 1")
    assert client.tags() == "BES"
    client.feed(*later((b"1",)))
    assert client.tags() == "BES"
    client.feed(*later((b"2",)))
    assert behind.result == [(b"2",)]


# ---- deadlines


def test_expire() -> None:
    client = Client(max_in_flight=2)
    sinks = [client.simple(f"select {n}", deadline=float(n)) for n in range(5)]
    client.take()
    sinks.append(client.simple("late", deadline=9.0))
    assert client.expire(0.5) == 1.0
    assert outcomes(*sinks) == [None] * 6
    sinks[4].cancelled = True
    assert client.expire(3.0) == 9.0
    assert outcomes(*sinks) == [None, Outcome.UNKNOWN, Outcome.NOT_SENT, Outcome.NOT_SENT, None, None]
    texts = [str(sink.error) for sink in sinks[1:4] if isinstance(sink.error, RequestTimeout)]
    late = "the request's deadline has passed, behind"
    assert texts == [f"{late} 1 unanswered request", f"{late} 2 unanswered requests", f"{late} 3 unanswered requests"]
    assert [request.sql for request in client.session.pending] == ["late"]
    client.feed(*SIMPLE * 2)
    assert sinks[0].result == [[]] and sinks[1].result is None
    assert client.expire(9.0) == 0.0
    assert client.expire(10.0) == 0.0


def test_what_is_encoded_will_be_sent_whatever_its_deadline() -> None:
    client = Client()
    sink = client.simple("insert", deadline=1.0)
    client.expire(2.0)
    assert outcomes(sink) == [Outcome.UNKNOWN] and str(sink.error) == "the request's deadline has passed"
    assert client.sent() == [m.Query("insert")]


def test_a_unit_is_one_request_to_those_behind_it_and_a_sync_is_none() -> None:
    client = Client(max_in_flight=6)
    client.transaction("set local a = 1", "select 2")
    client.session.submit(requests.sync(None))
    gone, waits = client.transaction("set local a = 1", "select 2"), client.transaction("", "select 2")
    gone.cancelled = True
    late = client.simple("select 3", deadline=1.0)
    client.expire(1.0)
    assert not waits.is_answered
    assert str(late.error) == "the request's deadline has passed, behind 2 unanswered requests"


def test_a_deadline_beside_a_window_says_whose_it_is() -> None:
    client = Client()
    window = Window(Sink(), "exclusive()", 5.0, has_state=True)
    client.session.submit(window)
    outside, first, second = client.simple("outside", deadline=5.0), Sink(), Sink()
    for sink in (first, second):
        client.session.submit_inside(window, requests.simple_query(sink, "inside", 5.0))
    assert client.expire(6.0) == 0.0
    ends = [str(sink.error).removeprefix("the request's deadline has passed") for sink in (outside, first, second)]
    assert ends == [": exclusive() has the connection", "", ", behind 1 unanswered request"]


def test_a_repair_whose_deadline_passes_was_refused() -> None:
    client = Client()
    known(client, "select 1")
    sink = client.query("select 1", deadline=1.0)
    client.take()
    client.session.holds += 1
    client.feed(error("26000"), READY)
    client.expire(1.0)
    client.session.release()
    assert outcomes(sink) == [Outcome.REJECTED] and client.sent() == []


# ---- a server that refuses to write


@pytest.mark.parametrize(
    ("must_write", "code", "reported", "retires"),
    [
        (True, "25006", [], True),
        (True, "25006", ["on"], True),
        (True, "25006", ["off"], False),  # somebody has asked for a transaction that is read-only
        (True, "25001", [], False),
        (False, "25006", [], False),
    ],
)
def test_a_server_that_refuses_to_write_is_the_wrong_one(
    must_write: bool, code: str, reported: list[str], retires: bool
) -> None:
    client = Client(max_in_flight=1)
    client.session.must_write = must_write
    client.session.parameters.update(in_hot_standby="off")
    sinks = [client.simple("insert"), client.simple("insert")]
    reports = [m.ParameterStatus("default_transaction_read_only", value) for value in reported]
    client.feed(error(code), *reports, READY)
    assert pg_error(sinks[0]).code == code and pg_error(sinks[0]).outcome is Outcome.REJECTED
    assert bool(client.session.retired) is retires
    assert getattr(sinks[1].error, "outcome", None) is (Outcome.NOT_SENT if retires else None)
