"""One connection to a server with a synchronous standby: results when either of them stops or is promoted."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from pg_wired import AsyncConn, ConnectionClosed, Outcome, PgError
from rig.checks import answers, ends_clean, outcome_of, until, until_sql
from rig.cluster import Cluster
from tests.outcomes import column

pytestmark = pytest.mark.servers

WAITS = "select count(*) = 1 from pg_stat_activity where wait_event = 'SyncRep' and pid = {}"


@pytest.fixture(autouse=True)
def written(cluster: Cluster) -> None:
    cluster.primary.sql("drop table if exists written; create table written(a int)")


def write(conn: AsyncConn, verb: str, number: int) -> Any:
    sql = f"insert into written values ({number})"
    return conn.simple_query(sql) if verb == "simple" else conn.exec_query(sql)


@pytest.mark.parametrize("verb", ["simple", "extended"])
@pytest.mark.parametrize("how", ["cancel", "terminate"])
@ends_clean(60)
async def test_a_commit_that_waits_for_the_standby_can_be_cancelled_or_terminated(
    cluster: Cluster, verb: str, how: str
) -> None:
    """It has already committed locally: cancelled it succeeds with a warning, terminated its outcome is UNKNOWN."""
    notices: list[PgError] = []
    number = 1 + 2 * (verb == "simple") + (how == "cancel")
    async with await AsyncConn.connect(cluster.primary.dsn) as admin:
        conn = await AsyncConn.connect(cluster.primary.dsn)
        conn.set_notice_handler(notices.append)
        cluster.standby.stop("immediate")
        asked = asyncio.ensure_future(write(conn, verb, number))
        await until_sql(admin, WAITS.format(conn.backend_pid))
        if how == "cancel":
            await conn.cancel_token().cancel()
            await asked
            await until(lambda: bool(notices), "the notice")
            assert [notice.code for notice in notices] == ["01000"]
            assert "canceling wait for synchronous replication" in notices[0].message
            await answers(conn)
        else:
            await admin.exec_query(f"select pg_terminate_backend({conn.backend_pid})")
            error = await outcome_of(asked)
            assert isinstance(error, ConnectionClosed) and error.outcome is Outcome.UNKNOWN
            assert isinstance(error.__cause__, PgError) and error.__cause__.code == "57P01"
            assert "canceling the wait for synchronous replication" in error.__cause__.message
        await conn.close()
        assert number in await column(admin, "select a from written")
        await asyncio.to_thread(cluster.standby.start)


@ends_clean(60)
async def test_only_the_write_with_a_warning_is_lost_with_the_primary(cluster: Cluster) -> None:
    """A write whose wait for the standby was cancelled may be lost; confirmed writes may not."""
    warned: list[PgError] = []
    dsn = cluster.primary.dsn
    async with await AsyncConn.connect(dsn) as conn, await AsyncConn.connect(dsn) as admin:
        conn.set_notice_handler(warned.append)
        for number in range(20):
            await write(conn, "extended", number)
        assert not warned
        await asyncio.to_thread(cluster.standby.stop, "immediate")
        asked = asyncio.ensure_future(write(conn, "extended", 99))
        await until_sql(admin, WAITS.format(conn.backend_pid))
        await conn.cancel_token().cancel()
        await asked
        await until(lambda: bool(warned), "the warning")
        assert 99 in await column(admin, "select a from written")
        await asyncio.to_thread(cluster.primary.stop, "immediate")
    await asyncio.to_thread(cluster.standby.start)
    await asyncio.to_thread(cluster.promote)
    async with await AsyncConn.connect(cluster.primary.dsn) as after:
        assert sorted(await column(after, "select a from written")) == list(range(20))
    await asyncio.to_thread(cluster.rejoin)


@ends_clean(60)
async def test_a_connection_ends_after_its_standby_is_promoted(cluster: Cluster) -> None:
    """The session survives and may write, which is a change for those that share it; so the connection ends."""
    conn = await AsyncConn.connect(cluster.standby.dsn)
    assert conn.parameters["in_hot_standby"] == "on"
    refused = await outcome_of(write(conn, "extended", 100))
    assert isinstance(refused, PgError) and (refused.code, refused.outcome) == ("25006", Outcome.REJECTED)
    await asyncio.to_thread(cluster.fail_over)
    # The server reports the change along with an answer; requests up to then are answered.
    assert await conn.exec_query("select pg_is_in_recovery()") == [(b"f",)]
    assert conn.parameters["in_hot_standby"] == "off" and conn.is_broken
    late = await outcome_of(asyncio.wait_for(refusing(conn), 5))
    assert late.outcome is Outcome.NOT_SENT
    await until(lambda: not conn.is_alive, "the end of the connection")
    await conn.close()
    async with await AsyncConn.connect(cluster.primary.dsn) as again:
        await write(again, "extended", 101)
        assert 101 in await column(again, "select a from written")
    await asyncio.to_thread(cluster.rejoin)


async def refusing(conn: AsyncConn) -> None:
    await conn.exec_query("select 1")
