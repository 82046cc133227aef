"""Acquiring connections: first come, first served, in a bounded queue; a waiter that gives up loses none."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import pytest

from pg_wired import AsyncPool, ConfigError, Outcome, PoolExhausted, RequestTimeout
from rig.checks import Cancelled, ends_clean, outcome_of, until
from rig.lively_pg import LivelyPG
from rig.postgres import Server
from tests.pool.pools import conserved

pytestmark = pytest.mark.both_loops


async def waiting(pool: AsyncPool, count: int) -> None:
    await until(lambda: pool.stats().waiting == count, f"{count} to wait")


# ---- waiting


@ends_clean()
async def test_waiters_are_served_in_order() -> None:
    """Nine tasks acquire from three connections."""
    order: list[int] = []

    async def work(number: int) -> None:
        async with pool.exclusive() as mine:
            order.append(number)
            await mine.exec_query("select 1")
            await may_leave.wait()
            await asyncio.sleep(0)

    may_leave = asyncio.Event()
    async with LivelyPG() as fake, await AsyncPool.connect(fake.dsn, size=1, max_exclusive=3) as pool:
        tasks = []
        for number in range(9):
            tasks.append(asyncio.ensure_future(work(number)))
            await asyncio.sleep(0)
        await until(lambda: len(order) == 3, "three to have theirs")
        stats = pool.stats()
        assert (stats.lent, stats.waiting, stats.idle, stats.opening) == (3, 6, 0, 0)
        may_leave.set()
        await asyncio.gather(*tasks)
        assert order == list(range(9)) and pool.stats().longest_wait > 0
        assert fake.most == 4
        await conserved(pool, 3)


@ends_clean()
async def test_a_cancelled_waiter_leaves_its_connection_to_the_pool() -> None:
    """It is cancelled while it waits, or in the loop iteration in which it is handed a connection."""
    async with LivelyPG() as fake, await AsyncPool.connect(fake.dsn, size=1, max_exclusive=1) as pool:
        for handed_first in (False, True):
            async with AsyncExitStack() as stack:
                await stack.enter_async_context(pool.exclusive())
                first = asyncio.ensure_future(pool.exclusive().__aenter__())
                second = asyncio.ensure_future(pool.exclusive().__aenter__())
                await waiting(pool, 2)
                if not handed_first:
                    first.cancel()
            first.cancel()  # leaving the block has handed it the connection, but it has not run yet
            assert isinstance(await outcome_of(first), asyncio.CancelledError)
            await (await second).__aexit__()
            await conserved(pool, 1)


@ends_clean()
async def test_a_waiter_that_times_out_when_handed_a_connection_leaves_it_to_the_pool() -> None:
    async def patient() -> None:
        async with asyncio.timeout(5) as scope:
            scopes.append(scope)
            async with pool.exclusive():
                pass

    async with LivelyPG() as fake, await AsyncPool.connect(fake.dsn, size=1, max_exclusive=1) as pool:
        for _ in range(5):
            holder = pool.exclusive()
            await holder.__aenter__()
            scopes: list[asyncio.Timeout] = []
            waiter = asyncio.ensure_future(patient())
            await waiting(pool, 1)
            scopes[0].reschedule(asyncio.get_running_loop().time())
            await holder.__aexit__()
            assert isinstance(await outcome_of(waiter), TimeoutError | None)
            await conserved(pool, 1)


@ends_clean()
async def test_cancelling_a_block_at_every_step_leaves_a_clean_connection(postgres: Server) -> None:
    """While it is acquired, used or released: the next task to acquire it finds it clean."""

    async def work() -> None:
        async with pool.exclusive() as mine:
            await mine.simple_query("begin; create temp table t(a int4)")
            await mine.exec_query("insert into t values (1)")

    async with await AsyncPool.connect(postgres.dsn, size=1, max_exclusive=1) as pool:
        at = 1
        while True:
            cancelled = Cancelled(work(), at)
            end = await outcome_of(cancelled.run())
            assert end is None or isinstance(end, asyncio.CancelledError)
            async with pool.exclusive(acquire_timeout=5) as mine:
                assert mine.transaction_status.name == "IDLE"
                assert list(await mine.exec_query("select to_regclass('pg_temp.t')")) == [(None,)]
            if not cancelled.was_cancelled:
                break
            at += 1
        assert at >= 4
        await conserved(pool, 1)


@ends_clean()
async def test_the_wait_queue_is_bounded() -> None:
    settings: dict[str, Any] = {"size": 1, "max_exclusive": 1, "max_waiting": 2}
    async with LivelyPG() as fake, await AsyncPool.connect(fake.dsn, **settings) as pool:
        async with pool.exclusive():
            waiters = [asyncio.ensure_future(pool.exclusive().__aenter__()) for _ in range(2)]
            await waiting(pool, 2)
            with pytest.raises(PoolExhausted, match="2 wait already") as caught:
                async with pool.stream("select 1"):
                    pass
            assert caught.value.outcome is Outcome.NOT_SENT
        for waiter in waiters:
            await (await waiter).__aexit__()
        await conserved(pool, 1)


@ends_clean()
async def test_with_max_waiting_zero_connections_are_still_opened_up_to_the_limit() -> None:
    settings: dict[str, Any] = {"size": 1, "max_exclusive": 2, "max_waiting": 0}
    async with LivelyPG() as fake, await AsyncPool.connect(fake.dsn, **settings) as pool:
        first, second = pool.exclusive(), pool.exclusive()
        await asyncio.gather(first.__aenter__(), second.__aenter__())
        with pytest.raises(PoolExhausted, match="0 wait"):
            await pool.exclusive().__aenter__()
        await asyncio.gather(first.__aexit__(), second.__aexit__())


@ends_clean()
async def test_the_acquire_timeout_names_the_task_that_holds_the_connection() -> None:
    """With one connection, a task that already holds it and acquires again can only time out."""

    async def selfish() -> None:
        async with pool.exclusive(), pool.exclusive():
            pass

    async with (
        LivelyPG() as fake,
        await AsyncPool.connect(fake.dsn, size=1, max_exclusive=1, acquire_timeout=0.1) as pool,
    ):
        task = asyncio.get_running_loop().create_task(selfish(), name="the selfish one")
        error = await outcome_of(task)
        assert isinstance(error, PoolExhausted) and error.outcome is Outcome.NOT_SENT
        assert "1 of 1 are lent" in str(error) and "task 'the selfish one' in exclusive() for 0.1 s" in str(error)
        await conserved(pool, 1)


@ends_clean()
async def test_a_requests_timeout_includes_the_wait_for_a_connection() -> None:
    async with LivelyPG() as fake, await AsyncPool.connect(fake.dsn, size=1, max_exclusive=1) as pool:
        async with pool.exclusive():
            for work in (
                pool.stream("select 1", timeout=0.05).__aenter__(),
                pool.copy_in("copy t from stdin", b"", timeout=0.05),
                pool.copy_out("copy t to stdout", timeout=0.05).__aenter__(),
            ):
                error = await outcome_of(work)
                assert isinstance(error, RequestTimeout) and error.outcome is Outcome.NOT_SENT, repr(error)
        with pytest.raises(RequestTimeout):  # also when a connection is idle
            await pool.stream("select 1", timeout=0).__aenter__()
        await conserved(pool, 1)


@ends_clean()
async def test_with_max_exclusive_zero_acquiring_is_refused() -> None:
    async with LivelyPG() as fake, await AsyncPool.connect(fake.dsn, size=1, max_exclusive=0) as pool:
        with pytest.raises(PoolExhausted, match="max_exclusive is 0"):
            await pool.exclusive().__aenter__()


# ---- settings


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"size": 0}, ConfigError),
        ({"size": "4"}, TypeError),
        ({"size": True}, TypeError),
        ({"max_exclusive": -1}, ConfigError),
        ({"max_waiting": -1}, ConfigError),
        ({"acquire_timeout": 0}, ConfigError),
        ({"acquire_timeout": "30"}, TypeError),
        ({"max_lifetime": float("nan")}, ConfigError),
        ({"max_idle": -1}, ConfigError),
        ({"probe_interval": float("inf")}, ConfigError),
        ({"when_down": "hope"}, ConfigError),
        ({"on_connect": "select 1"}, TypeError),
        ({"sise": 4}, ConfigError),
    ],
)
async def test_an_invalid_setting_is_refused_and_named(settings: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error, match=next(iter(settings))):
        await AsyncPool.connect("host=127.0.0.1 port=1", **settings)
