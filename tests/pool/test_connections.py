"""Connecting one at a time, replacing connections that are lost, old or silent, and what is logged."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from pg_wired import AsyncConn, AsyncPool, ConfigError, Outcome, PgError, RequestTimeout, TransactionError
from rig.checks import SOON, ends_clean, outcome_of, until
from rig.lively_pg import LivelyPG
from rig.postgres import Server
from rig.randomness import chosen
from tests.outcomes import column
from tests.pool.pools import pid

pytestmark = pytest.mark.both_loops


@ends_clean()
async def test_only_one_connection_attempt_runs_at_a_time() -> None:
    """This also holds while connections are acquired, and when all are replaced together."""
    now = most = 0

    async def on_connect(conn: AsyncConn) -> None:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await conn.simple_query("setup")
        now -= 1

    async with LivelyPG() as fake, await AsyncPool.connect(fake.dsn, size=4, on_connect=on_connect) as pool:

        async def acquire() -> None:
            async with pool.exclusive() as mine:
                await mine.exec_query("select 1")

        for _ in range(2):
            for number in list(fake.sessions):
                fake.kill(number)
            await until(lambda: not pool.stats().idle, "the loss to be seen")
            await asyncio.gather(*[acquire() for _ in range(4)])
            await until(lambda: pool.alive_count == 4, "all to be back")
        assert most == 1 and fake.most <= 8


@ends_clean()
async def test_connect_raises_when_the_first_connection_fails(postgres: Server) -> None:
    async def on_connect(conn: AsyncConn) -> None:
        raise ValueError("not this one")

    with pytest.raises(ValueError, match="not this one"):
        await AsyncPool.connect(postgres.dsn, size=3, on_connect=on_connect)
    with pytest.raises(PgError, match="no_such_database"):
        await AsyncPool.connect(postgres.dsn, dbname="no_such_database")


@ends_clean()
async def test_connections_after_the_first_may_fail_and_are_retried_in_the_background() -> None:
    async with LivelyPG() as fake:
        attempts = 0

        async def on_connect(conn: AsyncConn) -> None:
            nonlocal attempts
            attempts += 1
            if attempts in (2, 3):
                raise ValueError("not yet")

        async with await AsyncPool.connect(fake.dsn, size=3, on_connect=on_connect) as pool:
            assert pool.size == 3 and pool.alive_count >= 1
            await until(lambda: pool.alive_count == 3, "the others")
            assert pool.stats().connect_failures == 2 and pool.stats().connects == 3


@ends_clean()
async def test_connect_returns_when_a_later_connection_fails() -> None:
    attempts, has_connected = 0, asyncio.Event()

    async def on_connect(conn: AsyncConn) -> None:
        nonlocal attempts
        attempts += 1
        if attempts == 2:
            raise ValueError("no room")
        if attempts > 2:
            await has_connected.wait()

    async with LivelyPG() as fake:
        async with asyncio.timeout(SOON):
            pool = await AsyncPool.connect(fake.dsn, size=3, on_connect=on_connect)
        async with pool:
            assert pool.alive_count == 1
            has_connected.set()
            await until(lambda: pool.alive_count == 3, "the others")


@ends_clean()
async def test_connect_takes_no_longer_than_its_timeout() -> None:
    attempts = 0

    async def on_connect(conn: AsyncConn) -> None:
        nonlocal attempts
        attempts += 1
        if attempts > 1:
            await asyncio.sleep(60)

    async with LivelyPG() as fake:
        async with await AsyncPool.connect(fake.dsn, size=3, on_connect=on_connect, timeout=2.0) as pool:
            assert (pool.alive_count, attempts) == (1, 2)
            assert pool.stats().connect_failures == 0  # connect() did not wait for on_connect to end
        refused = await outcome_of(AsyncPool.connect(fake.dsn, on_connect=on_connect, timeout=0.1))
        assert type(refused) is RequestTimeout and refused.outcome is Outcome.NOT_SENT
        assert str(refused) == "no connection within 0.1 s"
        for wrong, kind in (("1", TypeError), (-1, ConfigError)):
            settings: Any = {"timeout": wrong}
            assert type(await outcome_of(AsyncPool.connect(fake.dsn, **settings))) is kind


@ends_clean()
async def test_a_result_in_the_same_loop_iteration_as_the_timeout_counts() -> None:
    """After the loop was blocked past the timeout, the connection or its error is reported, not the timeout."""

    async def on_connect(conn: AsyncConn) -> None:
        time.sleep(0.3)
        await asyncio.sleep(0)
        if fails:
            raise ValueError("mine")

    fails = False

    settings: dict[str, Any] = {"size": 3, "on_connect": on_connect, "timeout": 0.2}
    async with LivelyPG() as fake, await AsyncPool.connect(fake.dsn, **settings) as pool:
        assert pool.size == 3
        await until(lambda: pool.alive_count == 3, "the others")
        fails = True
        with pytest.raises(ValueError, match="mine"):
            await AsyncPool.connect(fake.dsn, **settings)


@ends_clean()
async def test_a_connection_that_ends_during_on_connect_counts_as_a_failure() -> None:
    async def on_connect(conn: AsyncConn) -> None:
        attempts.append(conn)
        if len(attempts) == 2:
            conn.abort()

    attempts: list[AsyncConn] = []
    async with LivelyPG() as fake, await AsyncPool.connect(fake.dsn, size=2, on_connect=on_connect) as pool:
        await until(lambda: pool.alive_count == 2, "both")
        assert pool.stats().connect_failures == 1 and len(attempts) == 3


@ends_clean()
async def test_an_expired_connection_is_replaced_before_it_ends() -> None:
    """max_lifetime: every request is answered, by the old connection or by its successor."""
    async with LivelyPG() as fake:
        async with await AsyncPool.connect(fake.dsn, size=2, max_lifetime=0.1, _runtime=chosen(lambda: 0.5)) as pool:
            answered: set[int] = set()
            while len(answered) < 6:
                assert pool.alive_count == 2
                answered |= {
                    pid(rows) for rows in await asyncio.gather(*[pool.exec_query("select 1") for _ in range(9)])
                }
        assert pool.stats().connect_failures == pool.stats().moved == 0 and fake.most <= 4


@ends_clean()
async def test_an_expired_connection_answers_all_its_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    """However long the answers take: the timeout for closing starts only after them."""
    monkeypatch.setattr("pg_wired.pool.connections.CLOSE_TIMEOUT_SECONDS", 0.01)
    monkeypatch.setattr("pg_wired.pool.connections.DRAIN_CHECK_SECONDS", 0.01)
    async with LivelyPG() as fake, await AsyncPool.connect(fake.dsn, size=1, max_lifetime=0.05) as pool:
        fake.mute.add(1)
        replies = [pool.exec_query("select 1") for _ in range(3)]
        window = pool.get().exclusive()
        entering = asyncio.ensure_future(window.__aenter__())
        await until(lambda: pool.stats().connects >= 2, "a successor")
        assert pid(await pool.exec_query("select 1")) > 1
        await asyncio.sleep(0.05)
        fake.mute.clear()
        assert [pid(await reply) for reply in replies] == [1, 1, 1]
        mine = await entering
        await asyncio.sleep(0.05)
        assert pid(await mine.exec_query("select 1")) == 1
        await mine.__aexit__()
        await until(lambda: 1 not in fake.sessions, "the old one to go")


@ends_clean()
async def test_a_shared_connection_marked_broken_is_replaced() -> None:
    async with LivelyPG() as fake, await AsyncPool.connect(fake.dsn, size=1) as pool:
        reply = pool.exec_query("select 1")
        pool.get().mark_broken()
        assert not pool.alive_count
        assert pid(await pool.exec_query("select 1")) == 2 and pid(await reply) == 1
        await until(lambda: list(fake.sessions) == [2], "the other one to go")


@ends_clean()
async def test_a_shared_connection_that_the_caller_closes_is_replaced() -> None:
    async with LivelyPG() as fake, await AsyncPool.connect(fake.dsn, size=1) as pool:
        reply = pool.exec_query("select 1")
        closing = asyncio.ensure_future(pool.get().close())
        await asyncio.sleep(0)
        assert not pool.alive_count  # at once, although its answer is still outstanding
        assert pid(await pool.exec_query("select 1")) == 2 and pid(await reply) == 1
        await closing


@ends_clean()
async def test_the_log_names_losses_and_failures_and_no_secret(caplog: pytest.LogCaptureFixture) -> None:
    """Losses and failures are warnings that name the cause; regular ends are below warning level."""
    caplog.set_level("DEBUG", "pg_wired.pool")
    settings: dict[str, Any] = {"max_idle": 0.01, "max_lifetime": 0.2, "password": "hush"}
    settings["_runtime"] = chosen(lambda: 0.5)
    async with LivelyPG() as fake:
        async with await AsyncPool.connect(fake.dsn, size=1, **settings) as pool:
            async with pool.exclusive():
                pass
            await until(lambda: pool.stats().idle == 0 and pool.stats().connects > 3, "some to come and go")
        assert {record.levelname for record in caplog.records} == {"INFO"}
        async with await AsyncPool.connect(fake.dsn, size=1, password="hush") as pool:
            fake.refuses = True
            fake.kill(max(fake.sessions))
            await until(lambda: pool.stats().connect_failures > 0, "an attempt to fail")
            fake.refuses = False
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert "is gone: the connection was closed" in warnings[0] and warnings[1] == "cannot connect: FATAL:  not now"
    assert "hush" not in caplog.text


@ends_clean()
async def test_probes_find_silent_connections_without_any_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pg_wired.pool.connections.PROBE_TIMEOUT_SECONDS", 0.1)
    async with LivelyPG() as fake, await AsyncPool.connect(fake.dsn, size=2, probe_interval=0.05) as pool:
        async with pool.exclusive():
            pass
        await until(lambda: len(fake.heard) == 3 and all(fake.heard.values()), "each to be asked")
        fake.mute |= {1, 3}
        await until(lambda: pool.stats().connects == 4 and pool.alive_count == 2, "the silent ones to go")
        assert pool.stats().idle == 0 and pool.get().is_alive
        fake.mute.clear()


@ends_clean()
async def test_resize_adds_connections_and_retires_them_after_their_answers(postgres: Server) -> None:
    async with await AsyncPool.connect(postgres.dsn, size=1) as pool:
        pool.resize(3)
        await until(lambda: pool.alive_count == 3, "more")
        replies = [pool.exec_query("select pg_sleep(0.01)") for _ in range(9)]
        pool.resize(1)
        assert pool.size == pool.alive_count == 1
        await asyncio.gather(*replies)
        for size in (0, -1):
            with pytest.raises(ConfigError):
                pool.resize(size)
        assert await column(pool.get(), "select 1") == [1]


@ends_clean()
async def test_the_pool_reconnects_after_its_connecting_tasks_were_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pg_wired.pool.shared.RETRY_PAUSE_SECONDS", 0.01)
    async with LivelyPG() as fake, await AsyncPool.connect(fake.dsn, size=1) as pool:
        fake.refuses = True
        fake.kill(1)
        await until(lambda: pool.stats().connect_failures > 0, "an attempt to fail")
        for task in list(pool._connections.tasks):
            task.cancel()
        fake.refuses = False
        assert pid(await pool.exec_query("select 1")) > 1


@ends_clean()
async def test_begin_on_the_pool_is_refused(postgres: Server) -> None:
    async with await AsyncPool.connect(postgres.dsn, size=1) as pool:
        with pytest.raises(TransactionError, match=r"exclusive\(\)"):
            await pool.exec_query("begin")
        assert pool.alive_count == 1
