"""Slots: filled one attempt at a time, again whenever a connection is lost, old or silent; and what the log says."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from pg_wired import AsyncConn, AsyncPool, ConfigError, Outcome, PgError, RequestTimeout, TransactionError
from rig.checks import SOON, ends_clean, outcome_of, until
from rig.lively_pg import LivelyPG
from rig.postgres import Server
from tests.outcomes import column
from tests.pool.pools import pid

pytestmark = pytest.mark.both_loops


@ends_clean()
async def test_one_attempt_at_a_time() -> None:
    """Also while connections are lent, and when all come back together."""
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
async def test_the_first_has_to_succeed(postgres: Server) -> None:
    async def on_connect(conn: AsyncConn) -> None:
        raise ValueError("not this one")

    with pytest.raises(ValueError, match="not this one"):
        await AsyncPool.connect(postgres.dsn, size=3, on_connect=on_connect)
    with pytest.raises(PgError, match="no_such_database"):
        await AsyncPool.connect(postgres.dsn, dbname="no_such_database")


@ends_clean()
async def test_the_others_may_come_later() -> None:
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
async def test_what_is_up_need_not_wait_behind_a_failure() -> None:
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
async def test_connecting_takes_no_longer_than_its_timeout() -> None:
    attempts = 0

    async def on_connect(conn: AsyncConn) -> None:
        nonlocal attempts
        attempts += 1
        if attempts > 1:
            await asyncio.sleep(60)

    async with LivelyPG() as fake:
        async with await AsyncPool.connect(fake.dsn, size=3, on_connect=on_connect, timeout=2.0) as pool:
            assert (pool.alive_count, attempts) == (1, 2)
            assert pool.stats().connect_failures == 0  # it was not the end of on_connect that it waited for
        refused = await outcome_of(AsyncPool.connect(fake.dsn, on_connect=on_connect, timeout=0.1))
        assert type(refused) is RequestTimeout and refused.outcome is Outcome.NOT_SENT
        assert str(refused) == "no connection within 0.1 s"
        for wrong, kind in (("1", TypeError), (-1, ConfigError)):
            settings: Any = {"timeout": wrong}
            assert type(await outcome_of(AsyncPool.connect(fake.dsn, **settings))) is kind


@ends_clean()
async def test_what_comes_in_the_turn_of_its_timeout_has_come() -> None:
    """A loop that stood still beyond it finds both, a connection or why there is none."""

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
async def test_a_connection_that_ends_while_it_is_set_up_is_none() -> None:
    async def on_connect(conn: AsyncConn) -> None:
        attempts.append(conn)
        if len(attempts) == 2:
            conn.abort()

    attempts: list[AsyncConn] = []
    async with LivelyPG() as fake, await AsyncPool.connect(fake.dsn, size=2, on_connect=on_connect) as pool:
        await until(lambda: pool.alive_count == 2, "both")
        assert pool.stats().connect_failures == 1 and len(attempts) == 3


@ends_clean()
async def test_a_successor_is_there_before_a_lane_ends() -> None:
    """max_lifetime: no request sees it, and every request is answered by somebody."""
    async with LivelyPG() as fake:
        async with await AsyncPool.connect(fake.dsn, size=2, max_lifetime=0.1, random=lambda: 0.5) as pool:
            answered: set[int] = set()
            while len(answered) < 6:
                assert pool.alive_count == 2
                answered |= {
                    pid(rows) for rows in await asyncio.gather(*[pool.exec_query("select 1") for _ in range(9)])
                }
        assert pool.stats().connect_failures == pool.stats().moved == 0 and fake.most <= 4


@ends_clean()
async def test_an_old_lane_gives_all_its_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """However long they take: the time that a farewell may take begins behind them."""
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
async def test_a_lane_that_somebody_marks_is_replaced() -> None:
    async with LivelyPG() as fake, await AsyncPool.connect(fake.dsn, size=1) as pool:
        reply = pool.exec_query("select 1")
        pool.get().mark_broken()
        assert not pool.alive_count
        assert pid(await pool.exec_query("select 1")) == 2 and pid(await reply) == 1
        await until(lambda: list(fake.sessions) == [2], "the other one to go")


@ends_clean()
async def test_so_is_one_that_somebody_closes() -> None:
    async with LivelyPG() as fake, await AsyncPool.connect(fake.dsn, size=1) as pool:
        reply = pool.exec_query("select 1")
        closing = asyncio.ensure_future(pool.get().close())
        await asyncio.sleep(0)
        assert not pool.alive_count  # at once, although its answer is still to come
        assert pid(await pool.exec_query("select 1")) == 2 and pid(await reply) == 1
        await closing


@ends_clean()
async def test_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """What is lost and what fails, with the cause; what ends as it should is no news; and nothing secret."""
    caplog.set_level("DEBUG", "pg_wired.pool")
    settings: dict[str, Any] = {"max_idle": 0.01, "max_lifetime": 0.2, "password": "hush", "random": lambda: 0.5}
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
async def test_a_silent_server_is_found_while_nothing_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pg_wired.pool.probe.PROBE_TIMEOUT_SECONDS", 0.1)
    async with LivelyPG() as fake, await AsyncPool.connect(fake.dsn, size=2, probe_interval=0.05) as pool:
        async with pool.exclusive():
            pass
        await until(lambda: len(fake.heard) == 3 and all(fake.heard.values()), "each to be asked")
        fake.mute |= {1, 3}
        await until(lambda: pool.stats().connects == 4 and pool.alive_count == 2, "the silent ones to go")
        assert pool.stats().idle == 0 and pool.get().is_alive
        fake.mute.clear()


@ends_clean()
async def test_resize(postgres: Server) -> None:
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
async def test_a_task_that_cancels_everything_does_not_end_the_pool(monkeypatch: pytest.MonkeyPatch) -> None:
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
async def test_a_pool_has_no_transaction_either(postgres: Server) -> None:
    async with await AsyncPool.connect(postgres.dsn, size=1) as pool:
        with pytest.raises(TransactionError, match=r"exclusive\(\)"):
            await pool.exec_query("begin")
        assert pool.alive_count == 1
