"""A pool over a primary and its standby: acknowledged writes are kept, and the pool finds the new primary."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from pg_wired import AsyncConn, AsyncPool, Outcome, PgError
from rig.checks import SOAK, ends_clean, outcome_of, repeatable, until
from rig.cluster import Cluster, Node
from tests.pool_load import Crowd, ledger, new_ledger, whole
from tests.servers.poolers import own_answer

pytestmark = pytest.mark.servers

FAILOVERS = 20 if SOAK else 2
LANES = 4
NAME = "pooled"


@asynccontextmanager
async def pooled(dsn: str, attrs: str = "read-write", size: int = LANES, **options: Any) -> AsyncIterator[AsyncPool]:
    options |= {"target_session_attrs": attrs, "application_name": NAME}
    async with await AsyncPool.connect(dsn, size=size, **options) as pool:
        yield pool


async def sessions(*nodes: Node) -> list[int]:
    """The number of the pool's connections on each server."""
    count = f"select count(*) from pg_stat_activity where application_name = '{NAME}'"
    return [int(said) for said in await asyncio.gather(*[asyncio.to_thread(node.sql, count) for node in nodes])]


async def until_sessions(*expected: int, nodes: tuple[Node, ...]) -> None:
    """Wait until each server has the expected number of connections."""
    end = time.monotonic() + 20
    while (found := await sessions(*nodes)) != list(expected):
        assert time.monotonic() < end, f"connections: {found}, expected {expected}"


async def write(pool: AsyncPool, number: int) -> None:
    await pool.exec_query("insert into ledger values ($1)", (str(number),), timeout=15)


# ---- the primary dies


@pytest.mark.soak
@pytest.mark.timeout(300)
@pytest.mark.parametrize("number", range(FAILOVERS))
@ends_clean(240)
async def test_nothing_acknowledged_is_lost_or_written_twice(cluster: Cluster, number: int) -> None:
    """With a hundred writers, stop the primary (immediate) and promote the standby; every second time without a key."""
    rng = repeatable()
    await new_ledger(cluster.primary.dsn, is_unique=number % 2 == 0)
    async with pooled(cluster.dsn) as pool:
        async with Crowd(pool, rng) as crowd:
            await crowd.done(500)
            await asyncio.sleep(rng.random() * 0.05)  # stop at any point of their work
            await asyncio.to_thread(cluster.primary.stop, "immediate")
            await asyncio.to_thread(cluster.promote)
            accepting = time.monotonic()
            await whole(pool)
            print(f"whole {time.monotonic() - accepting:.3f} s after the new primary took writes")
            await crowd.done(500)
        print(crowd.book.ends, pool.stats())
        assert await sessions(cluster.primary) == [LANES]
    crowd.book.check_once(await ledger(cluster.primary.dsn))
    assert len(crowd.book.there) >= 1_000


# ---- the primary is demoted


@ends_clean(60)
async def test_the_first_refused_write_moves_the_pool_to_the_new_primary(cluster: Cluster) -> None:
    """The old primary becomes read-only in place; after one refused write the pool uses the new primary."""
    await new_ledger(cluster.primary.dsn, is_unique=True)
    async with pooled(cluster.dsn) as pool:
        old = cluster.primary
        assert await sessions(old, cluster.standby) == [LANES, 0]
        await asyncio.to_thread(old.sql, "alter system set default_transaction_read_only = on")
        await asyncio.to_thread(old.sql, "select pg_reload_conf()")
        await asyncio.to_thread(old.until_sql, "select current_setting('default_transaction_read_only') = 'on'")
        await asyncio.to_thread(cluster.promote)
        refused = 0
        for number in range(50):
            end = await outcome_of(write(pool, number))
            if not isinstance(end, PgError):
                break
            assert (end.code, end.outcome) == ("25006", Outcome.REJECTED)
            refused += 1
            await asyncio.sleep(0.05)
        print(f"{refused} writes were refused")
        assert refused == 1
        await asyncio.gather(*[outcome_of(write(pool, 100 + number)) for number in range(20)])
        await until_sessions(LANES, 0, nodes=(cluster.primary, old))
        await write(pool, 1000)


@ends_clean(60)
async def test_an_old_primary_that_returns_as_standby_is_skipped(cluster: Cluster) -> None:
    """It is first in the list of hosts, and is skipped when the pool connects and whenever it reconnects."""
    dsn = cluster.dsn
    await new_ledger(cluster.primary.dsn, is_unique=True)
    await asyncio.to_thread(cluster.fail_over)
    await asyncio.to_thread(cluster.rejoin)
    async with pooled(dsn) as pool, await AsyncConn.connect(cluster.primary.dsn) as admin:
        assert await sessions(cluster.primary, cluster.standby) == [LANES, 0]
        for number in range(5):
            await admin.exec_query(f"select pg_terminate_backend({pool.get().backend_pid}, 5000)")
            await write(pool, number)
        await until_sessions(LANES, 0, nodes=(cluster.primary, cluster.standby))


# ---- a pool that reads


@ends_clean(60)
async def test_readers_do_not_notice_that_their_standby_is_promoted(cluster: Cluster) -> None:
    """Its connections can write after the promotion, so each of them is replaced; no read fails."""
    async with await AsyncPool.connect(cluster.standby.dsn, size=LANES) as pool:
        async with Crowd(pool, repeatable(), writes=0.0) as crowd:
            await crowd.done(200)
            before = pool.stats().connects
            await asyncio.to_thread(cluster.fail_over)
            await until(lambda: pool.stats().connects >= before + LANES, "new connections", 20)
            await crowd.done(500)
        assert not crowd.book.ends, crowd.book.ends
        assert pool.get().parameters["in_hot_standby"] == "off"


@ends_clean(60)
async def test_random_load_balancing_spreads_connections_over_both_servers(cluster: Cluster) -> None:
    """All thirty connections go to one server by chance once in 500 million runs."""
    async with pooled(cluster.dsn, "any", 30, load_balance_hosts="random") as pool:
        await whole(pool)
        spread = await sessions(cluster.primary, cluster.standby)
        print(f"{spread} connections at the two servers")
        assert sum(spread) == 30 and all(spread)
        await asyncio.gather(*[own_answer(pool) for _ in range(300)])


@pytest.mark.parametrize("attrs", ["any", "read-write", "primary", "standby", "read-only", "prefer-standby"])
@ends_clean(60)
async def test_target_session_attrs_chooses_primary_or_standby(cluster: Cluster, attrs: str) -> None:
    async with pooled(cluster.dsn, attrs, 2):
        is_primary = attrs in ("any", "read-write", "primary")  # the first of the list will do for "any"
        expected = [2, 0] if is_primary else [0, 2]
        assert await sessions(cluster.primary, cluster.standby) == expected
