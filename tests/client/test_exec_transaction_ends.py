"""exec_transaction cancelled, late, cut off or stale: no transaction stays open, no effect is partial or doubled."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from pg_wired import (
    AsyncConn,
    ConnectionClosed,
    Outcome,
    PgError,
    RequestTimeout,
    TransactionError,
    TransactionStatus,
    UsageError,
)
from pg_wired.protocol import messages as m
from pg_wired.testing import FakePG, Peer, error
from rig.checks import (
    SOON,
    Cancelled,
    cache_in_step,
    ends_clean,
    outcome_of,
    prepared,
    repeatable,
    until,
)
from rig.postgres import Server
from tests.outcomes import GATE, column, gate, until_asleep
from tests.transaction_tables import INSERT, TABLES, done, usable

pytestmark = pytest.mark.both_loops

REJECTED, UNKNOWN, NOT_SENT = Outcome.REJECTED, Outcome.UNKNOWN, Outcome.NOT_SENT


@pytest.fixture
async def conn(postgres: Server) -> AsyncIterator[AsyncConn]:
    async with await AsyncConn.connect(postgres.dsn) as conn:
        await conn.simple_query(TABLES)
        yield conn


@pytest.fixture
async def admin(postgres: Server) -> AsyncIterator[AsyncConn]:
    async with await AsyncConn.connect(postgres.dsn) as conn:
        yield conn


# ---- cancelling and deadlines


@ends_clean(60)
async def test_cancelling_at_random_moments_never_leaves_half_a_transaction(conn: AsyncConn, admin: AsyncConn) -> None:
    rng = repeatable()

    async def one(number: int) -> None:
        setup = f"insert into setups values ({number})"
        reply = asyncio.ensure_future(conn.exec_transaction(setup, INSERT, (str(number),)))
        if number % 2:
            asyncio.get_running_loop().call_later(rng.random() ** 2 * 0.01, reply.cancel)
        await asyncio.sleep(0)
        result = await outcome_of(reply)
        if isinstance(result, asyncio.CancelledError):
            return
        assert result.command_tag == "INSERT 0 1"
        sure.append(number)

    sure: list[int] = []
    for begin in range(0, 400, 40):
        await asyncio.gather(*[one(number) for number in range(begin, begin + 40)])
    await usable(conn)
    written = await done(admin)
    assert written == await column(admin, "select a from setups order by a")
    assert set(sure) <= set(written) and len(sure) >= 200


@ends_clean(60)
async def test_cancelling_at_any_await_never_leaves_half_a_transaction(conn: AsyncConn, admin: AsyncConn) -> None:
    async def work() -> None:
        await conn.exec_transaction(f"insert into setups values ({at})", INSERT, (str(at),))

    at = 0
    was_cancelled = True
    while was_cancelled:
        at += 1
        cancelled = Cancelled(work(), at)
        await outcome_of(cancelled.run())
        was_cancelled = cancelled.was_cancelled
        await usable(conn)
        assert await done(admin) == await column(admin, "select a from setups order by a")
    assert at > 1 and at in await done(admin)


@ends_clean()
async def test_a_transaction_cancelled_in_the_queue_never_runs(postgres: Server, conn: AsyncConn) -> None:
    async with await AsyncConn.connect(postgres.dsn, max_in_flight=1) as shared:
        async with gate(postgres.dsn):
            slow = shared.exec_query(f"select {GATE}")
            first, second = (shared.exec_transaction("", INSERT, (n,)) for n in "12")
            first.cancel()
        await asyncio.gather(slow, second)
        assert await done(conn) == [2]


@pytest.mark.parametrize("part", ["setup", "query"])
@pytest.mark.parametrize("how", ["cancel", "timeout"])
@ends_clean()
async def test_an_abandoned_sole_transaction_is_stopped_on_the_server(
    conn: AsyncConn, admin: AsyncConn, part: str, how: str
) -> None:
    sleep = "insert into setups values (1); select pg_sleep(60)" if part == "setup" else "select pg_sleep(60)"
    reply = conn.exec_transaction(*((sleep, "select 1") if part == "setup" else ("", sleep)), timeout=0.3)
    await until_asleep(admin, conn.backend_pid)
    if how == "cancel":
        reply.cancel()
    result = await outcome_of(reply)
    assert isinstance(result, asyncio.CancelledError if how == "cancel" else RequestTimeout)
    begin = time.monotonic()
    await usable(conn)
    assert time.monotonic() - begin < SOON
    assert await column(admin, "select a from setups") == []


@ends_clean()
async def test_a_transaction_past_its_deadline_times_out_with_the_right_outcome(
    postgres: Server, conn: AsyncConn, admin: AsyncConn
) -> None:
    with pytest.raises(RequestTimeout) as caught:
        await conn.exec_transaction("", INSERT, ("1",), timeout=0)
    assert caught.value.outcome is NOT_SENT
    async with gate(postgres.dsn):
        slow = conn.exec_query(f"select {GATE}")
        with pytest.raises(RequestTimeout) as caught:
            await conn.exec_transaction("", INSERT, ("2",), timeout=0.05)
    assert caught.value.outcome is UNKNOWN  # it was already sent, and runs
    await slow
    await usable(conn)
    assert await done(admin) in ([], [2])  # once it is the only request, the server is asked to stop it
    await conn.exec_transaction("", INSERT, ("3",), timeout=10)


@ends_clean()
async def test_a_deadline_that_passes_in_the_queue_means_not_sent(postgres: Server, conn: AsyncConn) -> None:
    async with await AsyncConn.connect(postgres.dsn, max_in_flight=1) as shared:
        async with gate(postgres.dsn):
            slow = shared.exec_query(f"select {GATE}")
            with pytest.raises(RequestTimeout) as caught:
                await shared.exec_transaction("", INSERT, ("1",), timeout=0.05)
        assert caught.value.outcome is NOT_SENT
        await slow
        assert await done(conn) == []


# ---- the connection ends


@ends_clean()
async def test_a_terminated_backend_leaves_no_half_transaction(
    postgres: Server, conn: AsyncConn, admin: AsyncConn
) -> None:
    async with await AsyncConn.connect(postgres.dsn) as shared:
        first = shared.exec_transaction("", INSERT, ("1",))
        killed = shared.exec_transaction("insert into setups values (1)", "select pg_sleep(60)")
        behind = shared.exec_transaction("", INSERT, ("2",))
        await first
        await until_asleep(admin, shared.backend_pid)
        await admin.exec_query("select pg_terminate_backend($1)", (str(shared.backend_pid),))
        for reply in (killed, behind):
            failure = await outcome_of(reply)
            assert isinstance(failure, ConnectionClosed) and failure.outcome is UNKNOWN
            assert isinstance(failure.__cause__, PgError) and failure.__cause__.code == "57P01"
    assert (await done(admin), await column(admin, "select a from setups")) == ([1], [])


def begun(tag: str = "BEGIN") -> list[m.BackendMessage]:
    return [m.CommandComplete(tag), m.CommandComplete("SET"), m.ReadyForQuery("T")]


ANSWERED = [m.ParseComplete(), m.ParameterDescription(()), m.NoData(), m.BindComplete(), m.CommandComplete("DONE")]
SET = [m.CommandComplete("SET"), m.ReadyForQuery("T")]


async def meet(script: Any, check: Any) -> None:
    async with FakePG(script) as fake, await AsyncConn.connect(fake.dsn) as conn:
        await check(conn)


@ends_clean()
async def test_a_rollback_at_commit_raises_transaction_error() -> None:
    async def script(peer: Peer) -> None:
        await peer.startup()
        for _ in range(4):
            await peer.group()
        await peer.send(*begun(), *SET, *ANSWERED, *ANSWERED, m.ReadyForQuery("T"))
        await peer.send(m.CommandComplete("ROLLBACK"), m.ReadyForQuery("I"))

    async def check(conn: AsyncConn) -> None:
        failure = await outcome_of(conn.exec_transaction("set x", "select 1"))
        assert isinstance(failure, TransactionError) and failure.outcome is REJECTED and "COMMIT" in str(failure)

    await meet(script, check)


@pytest.mark.parametrize("answered", range(5))
@ends_clean()
async def test_a_connection_lost_after_any_part_leaves_the_outcome_unknown(answered: int) -> None:
    parts = [begun(), SET, ANSWERED, [*ANSWERED, m.ReadyForQuery("T")]]

    async def script(peer: Peer) -> None:
        await peer.startup()
        for _ in range(4):
            await peer.group()
        await peer.send(*(message for part in parts[:answered] for message in part))
        peer.close()

    async def check(conn: AsyncConn) -> None:
        failure = await outcome_of(conn.exec_transaction("set x", "select 1"))
        assert isinstance(failure, ConnectionClosed) and failure.outcome is UNKNOWN
        assert not conn.is_alive

    await meet(script, check)


@ends_clean()
async def test_the_error_of_the_first_failed_part_is_raised() -> None:
    async def script(peer: Peer) -> None:
        await peer.startup()
        for _ in range(4):
            await peer.group()
        await peer.send(error("53300", "too many"), m.ReadyForQuery("I"), *SET[:1], m.ReadyForQuery("I"))
        await peer.send(error("25P01", "no transaction"), m.ReadyForQuery("I"))
        await peer.send(m.CommandComplete("COMMIT"), m.ReadyForQuery("I"))

    async def check(conn: AsyncConn) -> None:
        failure = await outcome_of(conn.exec_transaction("set x", "select 1"))
        assert isinstance(failure, PgError) and failure.code == "53300"
        # the setup ran outside a transaction and was committed on its own
        assert failure.outcome is UNKNOWN

    await meet(script, check)


# ---- with other transactions


@ends_clean()
async def test_exec_transaction_fails_after_another_request_opened_a_transaction(
    conn: AsyncConn, admin: AsyncConn
) -> None:
    offender = conn.exec_query("begin")
    inside = conn.exec_transaction("", INSERT, ("1",))
    behind = conn.exec_query("select 1")
    failure = await outcome_of(offender)
    assert isinstance(failure, TransactionError)
    result = await outcome_of(inside)
    assert isinstance(result, TransactionError) and result.outcome is UNKNOWN
    await outcome_of(behind)
    await usable(conn)


@ends_clean()
async def test_exec_transaction_is_refused_if_the_block_may_have_a_transaction_open(
    conn: AsyncConn, admin: AsyncConn
) -> None:
    """Its COMMIT would commit the block's own transaction."""
    async with conn.exclusive() as mine:
        begun = mine.exec_query("begin")
        with pytest.raises(UsageError, match="await that"):
            mine.exec_transaction("", INSERT, ("1",))
        await begun
        with pytest.raises(UsageError, match="is open here already"):
            mine.exec_transaction("", INSERT, ("1",))
        await mine.simple_query("rollback")
        several = [mine.exec_transaction("select pg_sleep(0.02)", INSERT, (str(n),)) for n in (1, 2)]
        while mine.transaction_status is TransactionStatus.IDLE:  # until the transaction of the first one is seen
            await asyncio.sleep(0)
        several.append(mine.exec_transaction("", INSERT, ("3",)))
        assert [(await each).command_tag for each in several] == ["INSERT 0 1"] * 3
        describing = mine.describe("select 1")
        assert await mine.exec_transaction("", INSERT, ("4",)) == [] and await describing
        with pytest.raises(RequestTimeout):
            await mine.exec_query("select pg_sleep(60)", timeout=0.02)
        assert await mine.exec_transaction("", INSERT, ("5",)) == []
    assert sorted(await done(admin)) == [1, 2, 3, 4, 5]


@ends_clean()
async def test_close_waits_for_a_running_transaction(postgres: Server, admin: AsyncConn, conn: AsyncConn) -> None:
    shared = await AsyncConn.connect(postgres.dsn)
    reply = shared.exec_transaction("select pg_sleep(0.1)", INSERT, ("1",))
    await shared.close()
    assert (await reply).command_tag == "INSERT 0 1" and await done(admin) == [1]


@ends_clean()
async def test_abort_leaves_no_effect_of_a_running_transaction(
    postgres: Server, admin: AsyncConn, conn: AsyncConn
) -> None:
    shared = await AsyncConn.connect(postgres.dsn)
    pid = shared.backend_pid
    reply = shared.exec_transaction("insert into setups values (1)", "select pg_sleep(60)")
    await until_asleep(admin, pid)
    shared.abort()
    failure = await outcome_of(reply)
    assert isinstance(failure, ConnectionClosed) and failure.outcome is UNKNOWN
    await until(lambda: shared._core.transport.is_closed, "the end")
    await admin.exec_query("select pg_terminate_backend($1)", (str(pid),))
    assert await column(admin, "select a from setups") == []


# ---- stale statements


@ends_clean()
async def test_a_stale_statement_is_repeated_once_with_a_single_effect(conn: AsyncConn, admin: AsyncConn) -> None:
    await admin.simple_query("alter table done add b int")
    sql = "insert into done values ($1) returning *"
    for number in range(3):
        assert len(await conn.exec_transaction("insert into setups values (1)", sql, (str(number),))) == 1
    for number, ddl in ((10, "add c int"), (11, "drop b"), (12, "alter c type bigint")):
        await admin.simple_query(f"alter table done {ddl}")
        replies = [
            conn.exec_transaction("insert into setups values (2)", sql, (str(number * 10 + n),)) for n in range(3)
        ]
        for rows in await asyncio.gather(*replies):
            assert len(rows) == 1 and len(rows[0]) == len(rows.fields)
    assert await done(admin) == [0, 1, 2, *(n * 10 + k for n in (10, 11, 12) for k in range(3))]
    assert await column(admin, "select a from setups order by a") == [1] * 3 + [2] * 9
    await cache_in_step(conn)


@ends_clean()
async def test_a_deallocated_statement_is_parsed_again(conn: AsyncConn, admin: AsyncConn) -> None:
    await conn.exec_transaction("", INSERT, ("1",))
    name = (await conn.exec_query(f"select name from pg_prepared_statements where statement = '{INSERT}'"))[0][0]
    await conn.simple_query(f"deallocate {(name or b'').decode()}")
    await asyncio.gather(*[conn.exec_transaction("insert into setups values (1)", INSERT, (str(n),)) for n in (2, 3)])
    assert await done(admin) == [1, 2, 3] and await column(admin, "select a from setups") == [1, 1]
    await cache_in_step(conn)


@ends_clean()
async def test_evicted_statements_are_closed(postgres: Server) -> None:
    async with await AsyncConn.connect(postgres.dsn, statement_cache_size=2) as shared:
        for number in range(20):
            assert list(await shared.exec_transaction("", f"select {number}")) == [(str(number).encode(),)]
        assert len(await prepared(shared)) <= 3
        await cache_in_step(shared)


@ends_clean()
async def test_a_stale_query_after_a_setup_that_commits_is_not_repeated(conn: AsyncConn, admin: AsyncConn) -> None:
    """The query is stale and the setup's row is already committed: an error, and a single effect."""
    await conn.exec_query("select * from done")
    await admin.simple_query("alter table done add b int")
    setup = "insert into setups values (1); commit; begin; set local pg_wired.setup = 'open'"
    failure = await outcome_of(conn.exec_transaction(setup, "select * from done"))
    assert isinstance(failure, PgError) and (failure.code, failure.outcome) == ("0A000", UNKNOWN)
    assert await column(admin, "select a from setups") == [1]
    await usable(conn)


@ends_clean()
async def test_a_statement_skipped_after_a_failed_setup_is_prepared_later(conn: AsyncConn) -> None:
    """The server skipped its Parse: the cache must neither assume that the statement exists nor give it up."""
    await outcome_of(conn.exec_transaction("select 1/0", "select 'skipped'"))
    for _ in range(2):
        assert list(await conn.exec_transaction("", "select 'skipped'")) == [(b"skipped",)]
    rows = await conn.exec_query("select count(*) from pg_prepared_statements where statement = 'select ''skipped'''")
    assert list(rows) == [(b"1",)]
    await cache_in_step(conn)
