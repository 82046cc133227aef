"""A window inside `exclusive()`, left in any way: the block continues, and later requests are not affected."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from pg_wired import AsyncConn, AsyncPool
from rig.checks import SOON, ends_clean, until
from rig.postgres import Server
from tests.endless_queries import ENDLESS_COPY
from tests.pool.pools import shared_conns

pytestmark = pytest.mark.both_loops

MANY = "select generate_series(1, 20000)"


@pytest.fixture(params=["connection", "pool"])
async def owner(request: pytest.FixtureRequest, postgres: Server) -> AsyncIterator[AsyncConn | AsyncPool]:
    made: AsyncConn | AsyncPool
    if request.param == "pool":
        made = await AsyncPool.connect(postgres.dsn, size=1, max_exclusive=1)
        async with made.exclusive():  # opens a connection, which is then kept
            pass
    else:
        made = await AsyncConn.connect(postgres.dsn)
    async with made:
        yield made


@ends_clean()
async def test_a_stream_that_was_not_read_to_its_end_leaves_the_block_usable(owner: AsyncConn | AsyncPool) -> None:
    async with owner.exclusive() as mine:
        async with mine.stream(MANY, row_buffer=10) as rows:
            core = mine._lease.core
            await until(lambda: core.transport._is_paused or rows._incoming.reply.done(), "more rows than are kept")
        assert await mine.exec_query("select 1", timeout=SOON) == [(b"1",)]
        await mine.simple_query("begin")
        async with mine.copy_out(f"copy ({MANY}) to stdout") as data:
            await anext(data)
        await mine.simple_query("rollback")


@ends_clean()
async def test_an_iterator_that_outlives_its_block_does_not_keep_the_connection(owner: AsyncConn | AsyncPool) -> None:
    async with owner.exclusive() as mine:
        left = aiter(mine.copy_out(ENDLESS_COPY))
        await anext(left)
    async with owner.exclusive(acquire_timeout=SOON) as mine:
        assert await mine.exec_query("select 2", timeout=SOON) == [(b"2",)]
    del left


@ends_clean(60)
async def test_an_abandoned_copy_does_not_cancel_the_next_owners_query(owner: AsyncConn | AsyncPool) -> None:
    """The CancelRequest of an abandoned COPY has finished before another owner's query starts."""
    for _ in range(10):
        async with owner.exclusive() as mine:
            async for _chunk in mine.copy_out(ENDLESS_COPY):
                break
        async with owner.exclusive() as mine:
            assert await mine.exec_query("select 'unhurt', pg_sleep(0.02)") == [(b"unhurt", b"")]
    assert await owner.exec_query("select 3") == [(b"3",)]


@ends_clean()
async def test_cancelling_all_tasks_during_the_cleanup_never_passes_on_a_dirty_connection(postgres: Server) -> None:
    """Code that cancels every task must not cause a dirty connection to be acquired by the next owner."""
    async with await AsyncPool.connect(postgres.dsn, size=1, max_exclusive=1) as pool:
        me = asyncio.current_task()

        async def acquire(table: str) -> None:
            async with pool.exclusive() as mine:
                await mine.simple_query(f"begin; create table {table} (a int)")
                mine.exec_query("select pg_sleep(60)").add_done_callback(lambda reply: reply.exception())

        for steps in range(6):
            table = f"half_done_{time.monotonic_ns()}"  # the server keeps the previous one locked until it notices
            borrowing = asyncio.create_task(acquire(table))
            cleaning = "Lease._end"
            while cleaning not in {task.get_coro().__qualname__ for task in asyncio.all_tasks()}:  # type: ignore[union-attr]
                await asyncio.sleep(0)
            for _ in range(steps):
                await asyncio.sleep(0)
            for task in asyncio.all_tasks() - {me}:
                task.cancel()
            await asyncio.wait([borrowing])
            async with pool.exclusive(acquire_timeout=SOON) as mine:
                assert await mine.exec_query(f"select to_regclass('{table}')") == [(None,)], steps


@ends_clean()
async def test_cancelling_before_a_connection_is_opened_leaves_the_pool_usable(postgres: Server) -> None:
    async with await AsyncPool.connect(postgres.dsn, size=1, max_exclusive=1) as pool:

        async def acquire() -> None:
            async with pool.exclusive():
                pass

        borrowing = asyncio.create_task(acquire())
        await asyncio.sleep(0)
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        await asyncio.wait([borrowing])
        await until(lambda: pool.stats().opening == 0, "nothing to be opened")
        async with pool.exclusive(acquire_timeout=SOON) as mine:
            assert await mine.exec_query("select 1") == [(b"1",)]


@ends_clean()
async def test_a_pool_can_be_closed_inside_its_listener_block(postgres: Server) -> None:
    pool = await AsyncPool.connect(postgres.dsn, size=1)
    async with pool.listener(["a"]):
        await pool.close()


@ends_clean()
async def test_a_batch_on_a_lost_connection_fails_as_a_whole(postgres: Server) -> None:
    """Its shared connection is lost before any of it was sent: all of it fails, and none runs on another connection."""
    from pg_wired import ConnectionClosed, Outcome, ResponseCollector
    from pg_wired.protocol import messages as m

    async with (
        await AsyncConn.connect(postgres.dsn) as admin,
        await AsyncPool.connect(postgres.dsn, size=2, max_in_flight=1) as pool,
    ):
        slow = [lane.exec_query("select pg_sleep(60)") for lane in shared_conns(pool)]
        ask = m.encode(m.Query("select 1"))
        batch = pool.submit_batch([(ask, ResponseCollector.ROWS)] * 5)
        [held] = [lane for lane in shared_conns(pool) if len(lane._core.session.pending) == 5]
        await admin.exec_query("select pg_terminate_backend($1::int)", [str(held.backend_pid)])
        for error in await batch:
            assert isinstance(error, ConnectionClosed) and error.outcome is Outcome.NOT_SENT
        for reply in slow:
            reply.cancel()
