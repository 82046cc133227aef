"""Failover where nobody waits for the standby: what was acknowledged may be lost, and the server's own log says why."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from pg_wired import AsyncPool, PgWireError
from rig.checks import SOON, ends_clean, until
from rig.cluster import Cluster
from tests.pool_load import ledger, new_ledger

pytestmark = pytest.mark.servers

WRITERS = 8
# How far the log is written out: at or behind the COMMIT that was acknowledged before it is asked.
WRITTEN = "select pg_current_wal_flush_lsn() - '0/0'::pg_lsn"
# Where the recovery of a server that was promoted has ended.
REPLAYED = "select pg_last_wal_replay_lsn() - '0/0'::pg_lsn"


@pytest.fixture
def nodes(pytestconfig: pytest.Config) -> Iterator[Cluster]:
    with Cluster.launch(source=pytestconfig.getoption("--postgres"), synchronous=False) as cluster:
        yield cluster


@ends_clean(60)
async def test_only_what_the_standby_never_had_is_lost(nodes: Cluster) -> None:
    """All that was acknowledged up to where the new primary begins is there; what is missing came behind that."""
    acknowledged = await written(nodes)
    await asyncio.to_thread(nodes.standby.start)
    await asyncio.to_thread(nodes.promote)
    begins = int(await asyncio.to_thread(nodes.primary.sql, REPLAYED))
    found = await ledger(nodes.primary.dsn)
    lost = acknowledged.keys() - set(found)
    print(f"{len(lost)} of {len(acknowledged)} are lost; the new primary begins at {begins}")
    assert len(lost) >= 500 and len(acknowledged) - len(lost) > 500 and len(found) == len(set(found))
    assert all(acknowledged[number] > begins for number in lost)


async def written(nodes: Cluster) -> dict[int, int]:
    """Where the log was when each write was acknowledged. Halfway the standby stops, at the end the primary."""
    acknowledged: dict[int, int] = {}

    async def write(first: int) -> None:
        for number in range(first, 1_000_000, WRITERS):
            try:
                await pool.exec_query("insert into ledger values ($1)", (str(number),), timeout=SOON)
                [[lsn]] = await pool.exec_query(WRITTEN, timeout=SOON)
            except PgWireError:
                return
            acknowledged[number] = int(lsn or b"")

    await new_ledger(nodes.primary.dsn, is_unique=False)
    await asyncio.to_thread(
        nodes.primary.until_sql, "select pg_current_wal_lsn() = replay_lsn from pg_stat_replication"
    )
    async with await AsyncPool.connect(nodes.primary.dsn, size=2, when_down="fail") as pool:
        writers = [asyncio.ensure_future(write(first)) for first in range(WRITERS)]
        await until(lambda: len(acknowledged) > 500, "the first writes")
        there = f"select flush_lsn - '0/0' >= {max(acknowledged.values())} from pg_stat_replication"
        await asyncio.to_thread(nodes.primary.until_sql, there)
        await asyncio.to_thread(nodes.standby.stop, "immediate")
        so_far = len(acknowledged)
        await until(lambda: len(acknowledged) > so_far + 500, "writes that the standby never has")
        await asyncio.to_thread(nodes.primary.stop, "immediate")
        await asyncio.gather(*writers)
    return acknowledged
