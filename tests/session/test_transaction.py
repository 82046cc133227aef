"""BEGIN, setup, query and COMMIT as one request: it succeeds only if all is committed, else the first error counts."""

from __future__ import annotations

import pytest

from pg_wired.errors import ConnectionClosed, Outcome, PgWireError, TransactionError, UsageError
from pg_wired.protocol import messages as m
from pg_wired.protocol.server_error import PgError
from pg_wired.session.transaction import BEGIN, GUARD
from pg_wired.testing import describe, error
from tests.session.conversation import PREPARED, READY, STALE, Client, first, known, later, pg_error, result

OPEN, FAILED = m.ReadyForQuery("T"), m.ReadyForQuery("E")
Answer = list[m.BackendMessage]


def tags(*names: str, status: m.ReadyForQuery = OPEN) -> Answer:
    return [*map(m.CommandComplete, names), status]


BEGUN, SET = tags("BEGIN", "SET"), tags("SET")
GUARDED: Answer = first((b"1",))[:-1]
GUARDED_AGAIN: Answer = later((b"1",))[:-1]
QUERY: Answer = [*first((b"1",))[:-1], OPEN]
COMMITTED, ROLLED_BACK = tags("COMMIT", status=READY), tags("ROLLBACK", status=READY)


def test_all_parts_are_sent_in_one_write_and_answered_at_commit() -> None:
    client = Client()
    sink = client.transaction("set local x = 1", "select $1", b"x")
    begin, setup, guard, *_, parse, _, bind, _, sync, commit = client.sent()
    assert begin == m.Query(BEGIN) and setup == m.Query("set local x = 1")
    assert isinstance(guard, m.Parse) and guard.query == GUARD
    assert isinstance(parse, m.Parse) and isinstance(bind, m.Bind)
    assert (parse.query, bind.params, sync, commit) == ("select $1", (b"x",), m.Sync(), m.Query("COMMIT"))
    client.feed(*BEGUN, *SET, *GUARDED, *QUERY)
    assert not sink.is_answered and client.session.foreign is None
    client.feed(*COMMITTED)
    assert sink.result == [(b"1",)] and sink.result.command_tag == "SELECT 1"
    assert client.sent() == []


def test_a_second_transaction_reuses_the_prepared_query() -> None:
    client = Client()
    client.transaction("set local x = 1", "select 1")
    client.take()
    client.feed(*BEGUN, *SET, *GUARDED, *QUERY, *COMMITTED)
    sink = client.transaction("set local x = 2", "select 1")
    assert client.tags() == "QQ" + "BE" + "BES" + "Q"
    client.feed(*BEGUN, *SET, *GUARDED_AGAIN, m.BindComplete(), *result((b"2",)), OPEN, *COMMITTED)
    assert sink.result == [(b"2",)]


REJECTED, UNKNOWN = Outcome.REJECTED, Outcome.UNKNOWN
# The answers to the parts, and the error and outcome of the whole.
FAILURES: dict[str, tuple[Answer, type[PgWireError], str, Outcome]] = {
    "BEGIN": ([error("53300"), READY, *SET, error("25P01"), READY, *COMMITTED], PgError, "53300", UNKNOWN),
    "setup": ([*BEGUN, error("42704"), FAILED, error("25P02"), FAILED, *ROLLED_BACK], PgError, "42704", REJECTED),
    "setup says COMMIT": (
        [*BEGUN, *tags("COMMIT", status=READY), error("22012"), READY, *COMMITTED],
        TransactionError,
        "the setup ended the transaction itself: the query was not run",
        UNKNOWN,
    ),
    "setup says COMMIT; BEGIN": (
        [*BEGUN, *tags("COMMIT", "BEGIN"), error("22012"), FAILED, *ROLLED_BACK],
        TransactionError,
        "the setup ended the transaction itself",
        UNKNOWN,
    ),
    "setup says COMMIT and fails": (
        [*BEGUN, m.CommandComplete("COMMIT"), error("42704"), READY, error("25P01"), READY, *COMMITTED],
        PgError,
        "42704",
        UNKNOWN,
    ),
    "setup says ROLLBACK; BEGIN": (
        [*BEGUN, *tags("ROLLBACK", "BEGIN"), error("22012"), FAILED, *ROLLED_BACK],
        TransactionError,
        "the setup ended the transaction itself",
        REJECTED,
    ),
    "query is not understood": (
        [*BEGUN, *SET, *GUARDED, error("42601"), FAILED, *ROLLED_BACK],
        PgError,
        "42601",
        REJECTED,
    ),
    "query fails": (
        [*BEGUN, *SET, *GUARDED, *first()[:4], error("22012"), FAILED, *ROLLED_BACK],
        PgError,
        "22012",
        REJECTED,
    ),
    "query says COMMIT": (
        [*BEGUN, *SET, *GUARDED, *PREPARED, m.BindComplete(), *tags("COMMIT", status=READY), *COMMITTED],
        TransactionError,
        "the query ended the transaction itself",
        UNKNOWN,
    ),
    "query says ROLLBACK": (
        [*BEGUN, *SET, *GUARDED, *PREPARED, m.BindComplete(), *tags("ROLLBACK", status=READY), *COMMITTED],
        TransactionError,
        "the query ended the transaction itself",
        REJECTED,
    ),
    "COMMIT": ([*BEGUN, *SET, *GUARDED, *QUERY, error("23505"), READY], PgError, "23505", REJECTED),
    "COMMIT that rolls back": (
        [*BEGUN, *SET, *GUARDED, *QUERY, *ROLLED_BACK],
        TransactionError,
        "COMMIT rolled back",
        REJECTED,
    ),
    "COPY TO STDOUT": (
        [
            *[*BEGUN, *SET, *GUARDED, *PREPARED, m.BindComplete(), m.CopyOutResponse(0, ()), m.CopyDone()],
            *[*tags("COPY 0"), *COMMITTED],
        ],
        UsageError,
        "COPY TO STDOUT as a query",
        UNKNOWN,
    ),
}


@pytest.mark.parametrize(("answer", "kind", "text", "outcome"), FAILURES.values(), ids=list(FAILURES))
def test_a_failing_part_decides_the_error_and_outcome_of_the_whole(
    answer: Answer, kind: type[PgWireError], text: str, outcome: Outcome
) -> None:
    client = Client()
    sink = client.transaction("setup", "query")
    behind = client.simple("select")
    client.take()
    client.feed(*answer, *result(), READY)
    assert type(sink.error) is kind and isinstance(sink.error, PgWireError), sink.shown()
    assert sink.error.outcome is outcome
    assert (sink.error.code if isinstance(sink.error, PgError) else str(sink.error)).startswith(text)
    assert behind.result == [[]] and client.sent() == [] and client.session.foreign is None


@pytest.mark.parametrize("stale", [error("26000"), STALE], ids=["26000", "0A000"])
def test_a_stale_statement_is_repaired_by_repeating_the_whole_transaction(stale: m.ErrorResponse) -> None:
    client = Client()
    known(client, "select 1")
    sink = client.transaction("set local x = 1", "select 1")
    client.take()
    refused = [*BEGUN, *SET, *GUARDED, stale, FAILED, *ROLLED_BACK]
    client.feed(*refused)
    assert not sink.is_answered
    messages = client.sent()
    assert messages[:2] == [m.Query(BEGIN), m.Query("set local x = 1")]
    assert "".join(chr(message.tag or 0) for message in messages[2:]) == "CBE" + "PDBES" + "Q"
    client.feed(*BEGUN, *SET, m.CloseComplete(), *GUARDED_AGAIN, *QUERY, *COMMITTED)
    assert sink.result == [(b"1",)]


def test_a_transaction_is_not_repaired_twice_or_after_its_own_commit() -> None:
    refused = [STALE, FAILED, *ROLLED_BACK]
    for first_answer, second_answer in (
        ([*BEGUN, *SET, *GUARDED, *refused], [*BEGUN, *SET, m.CloseComplete(), *GUARDED_AGAIN, *refused]),
        ([*BEGUN, *tags("COMMIT", "BEGIN", "SET"), *GUARDED, *refused], []),
    ):
        client = Client()
        known(client, "select 1")
        sink = client.transaction("setup", "select 1")
        client.take()
        client.feed(*first_answer)
        client.take()
        client.feed(*second_answer)
        assert pg_error(sink).code == "0A000" and client.sent() == []


def test_a_stale_guard_is_repaired_by_repeating_the_whole_transaction() -> None:
    client = Client()
    known(client, GUARD)
    sink = client.transaction("deallocate all", "select 1")
    client.take()
    refused = [*BEGUN, *tags("DEALLOCATE ALL"), error("26000"), FAILED, *ROLLED_BACK]
    client.feed(*refused)
    assert not sink.is_answered
    assert client.tags() == "QQ" + "CPDBE" + "PDBES" + "Q"
    client.feed(*BEGUN, *tags("DEALLOCATE ALL"), m.CloseComplete(), *GUARDED, *QUERY, *COMMITTED)
    assert sink.result == [(b"1",)]


def test_any_other_error_of_the_guard_is_reported() -> None:
    client = Client()
    sink = client.transaction("setup", "query")
    client.take()
    client.feed(*BEGUN, *SET, *GUARDED[:4], error("57014"), FAILED, *ROLLED_BACK)
    assert pg_error(sink).code == "57014" and pg_error(sink).outcome is REJECTED


def test_a_cancelled_transaction_runs_to_its_end_without_an_answer() -> None:
    client = Client()
    sink = client.transaction("set local x = 1", "select 1")
    client.take()
    sink.cancelled = True
    client.feed(*BEGUN, *SET, *GUARDED, *QUERY, *COMMITTED)
    assert not sink.is_answered and client.session.failure is None


def test_the_query_of_a_lone_transaction_can_be_cancelled() -> None:
    client = Client()
    sink = client.transaction("set local x = 1", "select 1")
    client.take()
    assert client.sole is sink
    client.disown()
    waiting = client.simple("select")
    client.feed(*BEGUN, *SET, *GUARDED, *PREPARED[:2], describe(["a"], ()), m.BindComplete(), error("57014"), FAILED)
    client.session.release()
    assert client.sent() == []
    client.feed(*ROLLED_BACK)
    assert not sink.is_answered and client.sent() == [m.Query("select")]
    client.feed(*result(), READY)
    assert waiting.result == [[]]


@pytest.mark.parametrize("answered", range(5))
def test_a_connection_lost_after_any_part_leaves_the_outcome_unknown(answered: int) -> None:
    client = Client()
    sink = client.transaction("set local x = 1", "select 1")
    client.take()
    for answer in [BEGUN, SET, GUARDED, QUERY][:answered]:
        client.feed(*answer)
    client.session.lost(None)
    assert isinstance(sink.error, ConnectionClosed) and sink.error.outcome is Outcome.UNKNOWN
    assert client.sole is None  # nothing is left to cancel


def test_a_transaction_sent_inside_an_open_one_never_succeeds() -> None:
    client = Client()
    offender, sink = client.simple("begin"), client.transaction("set local x = 1", "select 1")
    client.take()
    client.feed(*tags("BEGIN"))
    client.feed(m.NoticeResponse((("C", "25001"),)), *BEGUN, *SET, *GUARDED, *QUERY, *COMMITTED, *ROLLED_BACK)
    for each in (offender, sink):
        assert isinstance(each.error, TransactionError) and each.error.outcome is Outcome.UNKNOWN
    assert client.session.holds == 0
