"""Failover with asynchronous replication: acknowledged writes may be lost, as the positions in the WAL show."""

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
# The position up to which the WAL is flushed: at or after the COMMIT that was acknowledged before this query.
WRITTEN = "select pg_current_wal_flush_lsn() - '0/0'::pg_lsn"
# The position where the recovery of a promoted server ended.
REPLAYED = "select pg_last_wal_replay_lsn() - '0/0'::pg_lsn"


@pytest.fixture
def nodes(pytestconfig: pytest.Config) -> Iterator[Cluster]:
    with Cluster.launch(source=pytestconfig.getoption("--postgres"), synchronous=False) as cluster:
        yield cluster


@ends_clean(60)
async def test_only_writes_that_the_standby_never_received_are_lost(nodes: Cluster) -> None:
    """Every write acknowledged before the position where the new primary begins is there; all lost ones are later."""
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
    """The WAL position at each acknowledged write. The standby is stopped halfway, the primary at the end."""
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
