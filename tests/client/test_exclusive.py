"""exclusive(): a connection for one owner, with nothing of that owner left afterwards."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from pg_wired import AsyncConn, ConnectionClosed, Outcome, PgError, RequestTimeout, TransactionStatus
from pg_wired import UsageError as Usage
from pg_wired.protocol import messages as m
from rig.checks import SOON, Cancelled, answers, cache_in_step, ends_clean, outcome_of, until_sql
from rig.postgres import Server
from tests.outcomes import column, ends, until_asleep

pytestmark = pytest.mark.both_loops

REJECTED, UNKNOWN, NOT_SENT = Outcome.REJECTED, Outcome.UNKNOWN, Outcome.NOT_SENT
OWNED = "select a from owned order by a"


@pytest.fixture
async def conn(postgres: Server) -> AsyncIterator[AsyncConn]:
    async with await AsyncConn.connect(postgres.dsn) as conn:
        await conn.simple_query("drop table if exists owned; create table owned(a int primary key, b int)")
        yield conn


@pytest.fixture
async def admin(postgres: Server) -> AsyncIterator[AsyncConn]:
    async with await AsyncConn.connect(postgres.dsn) as conn:
        yield conn


# ---- what it is for


@pytest.mark.smoke
@ends_clean()
async def test_other_tasks_wait_while_the_owner_runs_a_transaction(conn: AsyncConn, admin: AsyncConn) -> None:
    async with conn.exclusive() as mine:
        await mine.exec_query("begin")
        assert mine.transaction_status is TransactionStatus.IN_TRANSACTION
        outside = asyncio.create_task(ask(conn, "select count(*) from owned"))
        await mine.exec_query("insert into owned values ($1)", ("1",))
        assert await column(admin, OWNED) == [] and not outside.done()
        await mine.exec_query("commit")
    assert conn.transaction_status is TransactionStatus.IDLE
    assert await outside == [(b"1",)] and await column(admin, OWNED) == [1]
    await cache_in_step(conn)


async def ask(conn: AsyncConn, sql: str) -> list[Any]:
    return list(await conn.exec_query(sql))


@ends_clean()
async def test_an_error_fails_the_owners_transaction_until_it_is_rolled_back(conn: AsyncConn, admin: AsyncConn) -> None:
    async with conn.exclusive() as mine:
        await mine.exec_query("begin")
        got = await ends(mine.exec_query("insert into owned values (1)"), mine.exec_query("select 1/0"))
        assert got == ["INSERT 0 1", ("22012", REJECTED)]
        assert mine.transaction_status is TransactionStatus.FAILED
        assert await ends(mine.exec_query("select 1")) == [("25P02", REJECTED)]
        await mine.exec_query("rollback")
        await mine.exec_query("begin")
        await mine.exec_query("savepoint a")
        await outcome_of(mine.exec_query("select 1/0"))
        await mine.exec_query("rollback to a")
        await mine.exec_query("insert into owned values (2)")
        assert (await mine.exec_query("commit")).command_tag == "COMMIT"
    assert await column(admin, OWNED) == [2]


@ends_clean()
async def test_every_kind_of_request_works_inside(conn: AsyncConn, admin: AsyncConn) -> None:
    async with conn.exclusive() as mine:
        await mine.simple_query("begin; create temp table own(a int)")
        assert await mine.copy_in("copy own from stdin", b"1\n2\n") == 2
        async with mine.stream("select a from own order by a") as rows:
            assert [row async for row in rows] == [(b"1",), (b"2",)]
        async with mine.pipeline() as pipeline:
            first, second = pipeline.query("insert into own values (3)"), pipeline.query("select count(*) from own")
        assert (await ends(first))[0] == "INSERT 0 1" and list(await second) == [(b"3",)]
        async with mine.copy_out("copy own to stdout") as data:
            assert b"".join([part async for part in data]) == b"1\n2\n3\n"
        assert (await mine.describe("select a from own")).fields[0].name == "a"
        assert list(await mine.submit(m.encode(m.Query("select count(*) from own")))) == [(b"3",)]
        await mine.simple_query("commit")
        assert list(await mine.exec_query("select count(*) from own")) == [(b"3",)]
        assert list(await mine.exec_transaction("insert into own values (4)", "select count(*) from own")) == [(b"4",)]
    assert list(await conn.exec_query("select count(*) from pg_class where relname = 'own'")) == [(b"0",)]


@ends_clean()
async def test_a_transaction_stays_open_across_pipelines_inside(conn: AsyncConn, admin: AsyncConn) -> None:
    async with conn.exclusive() as mine:
        async with mine.pipeline() as pipeline:
            await pipeline.query("begin")
            pipeline.query("insert into owned values (1)")
        assert mine.transaction_status is TransactionStatus.IN_TRANSACTION
        async with mine.pipeline() as pipeline:
            failing = [pipeline.query("select 1/0"), pipeline.query("select 1")]
        assert [end[0] for end in await ends(*failing)] == ["22012", "PipelineAborted"]
        async with mine.pipeline() as pipeline:
            pipeline.query("rollback")
            pipeline.query("insert into owned values (2)")
    assert await column(admin, OWNED) == [2]


@ends_clean()
async def test_a_stream_left_early_inside_returns_the_connection_to_the_owner(
    conn: AsyncConn, admin: AsyncConn
) -> None:
    """The owner continues in the same transaction."""
    many = "select i, repeat('x', 1000) from generate_series(1, 200000) i"
    async with conn.exclusive() as mine:
        await mine.simple_query("begin; insert into owned values (1)")
        async with mine.stream("select i from generate_series(1, 5) i", row_buffer=1) as rows:
            async for _ in rows:
                with pytest.raises(Usage, match=r"stream\(\)"):
                    await mine.exec_query("select 1")  # it would wait for rows that only this task reads
        await mine.simple_query("commit; begin; insert into owned values (2)")
        async with mine.stream(many, row_buffer=10) as rows:
            async for _ in rows:
                break
        # a request that was stopped inside a transaction has failed the transaction
        assert mine.transaction_status in (TransactionStatus.FAILED, TransactionStatus.IN_TRANSACTION)
        await mine.simple_query("rollback")
        assert list(await mine.exec_query("select 'mine'")) == [(b"mine",)]
    assert await column(admin, OWNED) == [1]
    await answers(conn)


@ends_clean()
async def test_a_copy_left_unclosed_inside_leaves_the_connection_usable(conn: AsyncConn) -> None:
    async with conn.exclusive() as mine:
        async for _ in mine.copy_out("copy (select generate_series(1, 10000000)) to stdout"):
            break
    await answers(conn)


# ---- cancelling and deadlines


@ends_clean()
async def test_cancelling_inside_stops_the_query_on_the_server(conn: AsyncConn, admin: AsyncConn) -> None:
    async def work() -> None:
        async with conn.exclusive() as mine:
            await mine.exec_query("select pg_sleep(60)")

    task = asyncio.create_task(work())
    await until_asleep(admin, conn.backend_pid)
    waiting = asyncio.create_task(ask(conn, "select 'next'"))
    task.cancel()
    begin = time.monotonic()
    assert isinstance(await outcome_of(task), asyncio.CancelledError)
    assert await waiting == [(b"next",)] and time.monotonic() - begin < SOON
    sql = f"select count(*) = 0 from pg_stat_activity where pid = {conn.backend_pid} and wait_event = 'PgSleep'"
    await until_sql(admin, sql)


@pytest.mark.parametrize("how", ["at once", "asleep", "timeout"])
@ends_clean()
async def test_the_owner_can_continue_after_giving_up_a_request(conn: AsyncConn, admin: AsyncConn, how: str) -> None:
    async with conn.exclusive() as mine:
        reply = mine.exec_query("select pg_sleep(60)", timeout=0.05 if how == "timeout" else None)
        if how == "asleep":
            await until_asleep(admin, conn.backend_pid)
        if how != "timeout":
            await asyncio.sleep(0)
            reply.cancel()
        assert isinstance(await outcome_of(reply), (RequestTimeout, asyncio.CancelledError))
        begin = time.monotonic()
        assert list(await mine.exec_query("select 5")) == [(b"5",)]
        assert time.monotonic() - begin < SOON
    await answers(conn)


@ends_clean()
async def test_requests_unanswered_at_the_end_fail_as_unknown(conn: AsyncConn, admin: AsyncConn) -> None:
    async with conn.exclusive() as mine:
        await mine.simple_query("begin")
        running = mine.exec_query("select pg_sleep(60)")
        behind = mine.exec_query("insert into owned values (1)")
        await until_asleep(admin, conn.backend_pid)
    for reply in (running, behind):
        error = await outcome_of(reply)
        assert isinstance(error, Usage) and error.outcome is UNKNOWN and "exclusive()" in str(error)
    await answers(conn)
    assert await column(admin, OWNED) == []


@ends_clean(60)
async def test_cancelling_at_any_await_leaves_no_half_transaction_and_no_setting(
    conn: AsyncConn, admin: AsyncConn
) -> None:
    async def work() -> None:
        async with conn.exclusive() as mine:
            await mine.exec_query("begin")
            await mine.exec_query("insert into owned values ($1)", (str(at * 2),))
            await mine.exec_query("set timezone = 'Asia/Tokyo'")
            async with mine.stream("select generate_series(1, 10)") as rows:
                async for _ in rows:
                    pass
            await mine.exec_query("insert into owned values ($1)", (str(at * 2 + 1),))
            await mine.exec_query("commit")

    before = list(await conn.exec_query("show timezone"))
    at, was_cancelled = 0, True
    while was_cancelled:
        at += 1
        cancelled = Cancelled(work(), at)
        await outcome_of(cancelled.run())
        was_cancelled = cancelled.was_cancelled
        assert list(await conn.exec_query("show timezone")) == before
        written = await column(admin, OWNED)
        assert (at * 2 in written) == (at * 2 + 1 in written), "half a transaction"
    assert at > 6
    await answers(conn)


# ---- the end


@ends_clean()
async def test_use_after_the_end_is_refused(conn: AsyncConn) -> None:
    async with conn.exclusive() as mine:
        pass
    async with conn.exclusive() as other:
        calls: list[Callable[[], Awaitable[Any]]] = [
            lambda: mine.exec_query("select 1"),
            lambda: mine.simple_query("select 1"),
            lambda: mine.exec_transaction("", "select 1"),
            lambda: mine.describe("select 1"),
            lambda: mine.pipeline().__aenter__(),
            lambda: mine.stream("select 1").__aenter__(),
            lambda: mine.copy_out("copy (select 1) to stdout").__aenter__(),
            lambda: mine.copy_in("copy owned from stdin", b""),
        ]
        for call in calls:
            with pytest.raises(Usage, match=r"exclusive\(\)") as caught:
                await call()
            assert caught.value.outcome is NOT_SENT
        assert list(await other.exec_query("select 1")) == [(b"1",)]
    with pytest.raises(Usage):
        conn.exclusive().exec_query("select 1")
    await answers(conn)


@ends_clean()
async def test_a_lost_connection_inside_fails_each_request_with_its_outcome(
    postgres: Server, conn: AsyncConn, admin: AsyncConn
) -> None:
    shared = await AsyncConn.connect(postgres.dsn)
    async with shared.exclusive() as mine:
        await mine.simple_query("begin; insert into owned values (1)")
        running, behind = mine.exec_query("select pg_sleep(60)"), mine.exec_query("commit")
        await until_asleep(admin, shared.backend_pid)
        await admin.exec_query("select pg_terminate_backend($1)", (str(shared.backend_pid),))
        for reply in (running, behind):
            error = await outcome_of(reply)
            assert isinstance(error, ConnectionClosed) and error.outcome is UNKNOWN
            assert isinstance(error.__cause__, PgError) and error.__cause__.code == "57P01"
        with pytest.raises(ConnectionClosed) as caught:
            await mine.exec_query("select 1")
        assert caught.value.outcome is NOT_SENT
    assert not shared.is_alive
    await shared.close()
    assert await column(admin, OWNED) == []


@ends_clean()
async def test_close_waits_for_the_block_and_leaves_no_transaction_open(
    postgres: Server, conn: AsyncConn, admin: AsyncConn
) -> None:
    shared = await AsyncConn.connect(postgres.dsn)
    async with shared.exclusive() as mine:
        await mine.simple_query("begin; insert into owned values (1)")
        running = mine.exec_query("select pg_sleep(0.1)")
        closing = asyncio.create_task(shared.close())
        assert list(await running) == [(b"",)]
    await closing
    assert not shared.is_alive and await column(admin, OWNED) == []


@ends_clean()
async def test_requests_after_a_cancelled_stream_wait_for_its_cleanup(conn: AsyncConn) -> None:
    """The owner has left the stream: the next query and the next stream wait until the cleanup has finished."""
    async with conn.exclusive() as mine:
        leaving = asyncio.Event()

        async def work() -> list[Any]:
            try:
                async with mine.stream("select generate_series(1, 10000000)") as rows:
                    async for _ in rows:
                        break
                    leaving.set()
            except asyncio.CancelledError:
                reply = mine.exec_query("select 1")
                async with mine.stream("select 2") as rows:
                    return [*await reply, *[row async for row in rows]]
            raise AssertionError("it was not cancelled")

        task = asyncio.create_task(work())
        await leaving.wait()
        task.cancel()
        assert await task == [(b"1",), (b"2",)]
