"""A pool that connects through PgBouncer: under load, with listeners, and while the pooler restarts."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from pg_wired import AsyncConn, AsyncPool, Notification, UsageError
from rig.checks import ends_clean, outcome_of, repeatable, until
from rig.pgbouncer import PoolMode
from rig.postgres import Postgres
from tests.pool_load import Crowd, ledger, new_ledger, whole
from tests.servers.poolers import NEW, OLD, console, own_answer, pooler

pytestmark = pytest.mark.servers

# The options that each version needs in transaction mode.
VERSIONS: list[tuple[str, dict[str, Any]]] = [(OLD, {"statement_cache_size": 0}), (NEW, {})]
BOTH = pytest.mark.parametrize(("version", "options"), VERSIONS, ids=[OLD, NEW])


@BOTH
@pytest.mark.parametrize("mode", ["session", "transaction"])
@ends_clean(60)
async def test_a_pool_under_load_gets_every_answer_right(
    launched: Postgres, version: str, options: dict[str, Any], mode: PoolMode
) -> None:
    """In session mode each of the pool's connections has its own backend; in transaction mode two serve them all."""
    await new_ledger(launched.dsn, is_unique=False)
    with pooler(version, launched, mode, default_pool_size=8 if mode == "session" else 2) as bouncer:
        async with await AsyncPool.connect(bouncer.dsn, size=4, **options) as pool:
            async with Crowd(pool, repeatable(), 50, writes=0.5) as crowd:
                await crowd.done(2_000)
            assert not any(end.startswith("call") for end in crowd.book.ends), crowd.book.ends
            async with pool.stream("select generate_series(1, 1000)") as rows:
                assert len([row async for row in rows]) == 1000
            assert await pool.copy_in("copy ledger from stdin", b"-1\n-2\n") == 2
    crowd.book.check_once(await ledger(launched.dsn))


@BOTH
@ends_clean(60)
async def test_a_pool_recovers_after_pgbouncer_restarts_kills_or_pauses(
    launched: Postgres, version: str, options: dict[str, Any]
) -> None:
    await new_ledger(launched.dsn, is_unique=False)
    with pooler(version, launched) as bouncer:
        async with await AsyncPool.connect(bouncer.dsn, size=4, **options) as pool:
            async with Crowd(pool, repeatable(), 50, writes=0.5) as crowd:
                for how in ["restart", "KILL", "RECONNECT", "PAUSE"]:
                    await crowd.done(300)
                    if how == "restart":
                        await asyncio.to_thread(bouncer.stop)
                        await asyncio.to_thread(bouncer.start)
                    else:
                        await console(bouncer, how if how != "KILL" else "KILL postgres")
                    if how in ("PAUSE", "KILL"):
                        await console(bouncer, "RESUME" if how == "PAUSE" else "RESUME postgres")
                    print(f"whole {await whole(pool):.3f} s after {how}")
                await crowd.done(300)
            print(crowd.book.ends)
    crowd.book.check_once(await ledger(launched.dsn))


@BOTH
@ends_clean(60)
async def test_a_listener_gets_notifications_in_session_mode(
    launched: Postgres, version: str, options: dict[str, Any]
) -> None:
    with pooler(version, launched, "session", default_pool_size=8) as bouncer:
        async with (
            await AsyncPool.connect(bouncer.dsn, size=2, **options) as pool,
            pool.listener(["news"]) as events,
        ):
            await pool.exec_query("select pg_notify('news', 'come')")
            event = await anext(aiter(events))
            assert isinstance(event, Notification) and event.payload == "come"


@ends_clean(60)
async def test_a_listener_in_transaction_mode_raises_usage_error(launched: Postgres) -> None:
    """LISTEN succeeds without effect; the pool detects that. The cases run concurrently, as each takes 5 s."""

    async def find_out(version: str, options: dict[str, Any], backends: int) -> None:
        with pooler(version, launched, default_pool_size=backends) as bouncer:
            async with await AsyncPool.connect(bouncer.dsn, size=2, **options) as pool:
                error = await outcome_of(pool.listener(["news"]).__aenter__())
                assert isinstance(error, UsageError) and "transaction mode" in str(error)
                await own_answer(pool)
                await until(lambda: pool.stats().lent == 0, "what it had borrowed")

    await asyncio.gather(*[find_out(*each, backends) for each in VERSIONS for backends in (1, 2)])


@ends_clean(60)
async def test_a_pool_with_max_in_flight_1_gets_every_answer_right(launched: Postgres) -> None:
    with pooler(NEW, launched) as bouncer:
        async with await AsyncPool.connect(bouncer.dsn, size=4, max_in_flight=1) as pool:
            pids = await asyncio.gather(*[own_answer(pool) for _ in range(500)])
            assert len(set(pids)) == 2


@ends_clean(60)
async def test_requests_keep_their_deadlines_while_no_backend_is_free(launched: Postgres) -> None:
    """Another client has the only backend. Once it is free, requests that timed out have left no trace."""
    with pooler(NEW, launched, default_pool_size=1) as bouncer:
        async with (
            await AsyncConn.connect(bouncer.dsn) as other,
            await AsyncPool.connect(bouncer.dsn, size=2) as pool,
            other.exclusive() as own,
        ):
            await own.simple_query("begin")
            asked = [pool.exec_query("select $1::int", (str(n),), timeout=0.2) for n in range(20)]
            ends = await asyncio.gather(*asked, return_exceptions=True)
            assert all(isinstance(end, TimeoutError) for end in ends)
            await own.simple_query("commit")
            await asyncio.gather(*[own_answer(pool) for _ in range(100)])
