"""Windows inside exclusive(), and what the end of a block waits for: no effect of it may reach another owner."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from pg_wired import (
    AsyncConn,
    AsyncPool,
    ExclusiveConn,
    Outcome,
    PgPipeline,
    RequestTimeout,
    TransactionStatus,
    WireConn,
)
from pg_wired.protocol import messages as m
from pg_wired.testing import FakePG, Peer, until_terminate
from rig.checks import LATE, SOON, Cancelled, answers, ends_clean, outcome_of
from rig.postgres import Server
from tests.outcomes import GATE, gate, until_asleep

pytestmark = pytest.mark.both_loops


@pytest.fixture
async def conn(postgres: Server) -> AsyncIterator[AsyncConn]:
    async with await AsyncConn.connect(postgres.dsn) as conn:
        yield conn


# ---- windows inside


@ends_clean()
async def test_a_window_inside_waits_for_earlier_requests(postgres: Server, conn: AsyncConn) -> None:
    """Otherwise its timeout, its cancellation or its exception would stop those requests as well."""
    async with conn.exclusive() as mine:
        await mine.simple_query("begin")
        async with gate(postgres.dsn):
            first = mine.exec_query(f"select 'mine' from {GATE}")
            for leave in (times_out, is_cancelled):
                await leave(mine)
        assert await first == [(b"mine",)]
        first = mine.exec_query("select 'mine' from pg_sleep(0.1)")
        await raises(mine)
        assert await first == [(b"mine",)]
        assert mine.transaction_status is TransactionStatus.IN_TRANSACTION
        async with mine.stream("select 1") as rows:
            assert [row async for row in rows] == [(b"1",)]
    await answers(conn)


async def times_out(mine: ExclusiveConn) -> None:
    with pytest.raises(RequestTimeout) as caught:
        async with mine.stream("select 2", timeout=0.05):
            pass
    assert caught.value.outcome is Outcome.NOT_SENT


async def is_cancelled(mine: ExclusiveConn) -> None:
    async def stream() -> None:
        async with mine.stream("select 2"):
            pass

    assert isinstance(await outcome_of(Cancelled(stream(), at=1).run()), asyncio.CancelledError)


async def raises(mine: ExclusiveConn) -> None:
    with pytest.raises(KeyError):
        async with mine.pipeline():
            raise KeyError


@ends_clean(60)
async def test_a_request_that_is_held_back_keeps_its_deadline(postgres: Server) -> None:
    """It waits for a stream that is being stopped, on a server that is slow to accept the cancel request."""

    async def script(peer: Peer) -> None:
        await peer.startup()
        await peer.expect(m.Parse, m.Describe, m.Bind, m.Execute, m.Sync)
        await peer.asks_for_cancel()
        await peer.eof()

    async with FakePG(script, hold_cancels=True) as fake:
        conn = await AsyncConn.connect(fake.dsn)
        block = conn.exclusive()
        mine = await block.__aenter__()
        with pytest.raises(RequestTimeout):
            async with mine.stream("select 1", timeout=0.05):
                pass
        begin = time.monotonic()
        held = await outcome_of(mine.exec_query("select 2", timeout=0.1))
        assert type(held) is RequestTimeout and held.outcome is Outcome.NOT_SENT
        assert time.monotonic() - begin < 0.1 + LATE / 2
        conn.abort()
        fake.release_cancels()
        await block.__aexit__(None, None, None)


# ---- the end


@ends_clean()
async def test_a_cancel_request_under_way_does_not_hit_the_next_owner() -> None:
    """Its connection is slow: the end of the block waits for it, and so does the next owner."""

    async with FakePG(until_terminate, hold_cancels=True) as fake, await AsyncConn.connect(fake.dsn) as conn:
        block = conn.exclusive()
        mine = await block.__aenter__()
        cancelling = asyncio.ensure_future(mine.cancel_token().cancel())
        assert (await fake.cancels.get()).pid == mine.backend_pid
        leaving = asyncio.ensure_future(block.__aexit__(None, None, None))
        following = asyncio.ensure_future(conn.exclusive().__aenter__())
        await asyncio.wait([leaving, following], timeout=0.1)
        assert not leaving.done() and not following.done()
        fake.release_cancels()
        await asyncio.gather(cancelling, leaving)
        await (await following).__aexit__(None, None, None)


@ends_clean()
async def test_settings_made_by_on_connect_survive_a_reset(postgres: Server) -> None:
    """Also on a shared connection: the pool replaces a connection whose settings were reset."""

    async def on_connect(conn: AsyncConn) -> None:
        await conn.simple_query("set application_name = 'set up'")

    async with await AsyncPool.connect(postgres.dsn, size=1, on_connect=on_connect) as pool:
        async with pool.get().exclusive() as mine:
            await mine.simple_query("set work_mem = '1MB'")
        for _ in range(3):
            assert await pool.exec_query("show application_name") == [(b"set up",)]


@ends_clean()
async def test_a_temporary_table_created_by_encoded_messages_is_dropped(conn: AsyncConn) -> None:
    sql = "create temp table leak as select 1"
    encoded = m.encode(m.Parse("", sql), m.Bind(), m.Execute(), m.Sync())
    async with conn.exclusive() as mine:
        await mine.submit(encoded)
    assert await conn.exec_query("select to_regclass('leak')") == [(None,)]


# ---- left by an exception


@pytest.mark.parametrize("kind", ["connection", "pool"])
@ends_clean()
async def test_an_exception_stops_the_running_request_on_the_server(
    postgres: Server, conn: AsyncConn, kind: str
) -> None:
    """A caller that gets a timeout does not expect a later write."""
    await conn.simple_query("drop table if exists late; create table late(a int)")
    begin, dsn = time.monotonic(), postgres.dsn
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(SOON - 1):  # close() would wait for ten seconds
            connecting = AsyncConn.connect(dsn) if kind == "connection" else AsyncPool.connect(dsn, size=1)
            async with await connecting as mine:
                running = mine.exec_query("insert into late select 1 from pg_sleep(30)")
                pid = (mine.get() if isinstance(mine, AsyncPool) else mine).backend_pid
                await until_asleep(conn, pid)
                raise TimeoutError
    assert time.monotonic() - begin < SOON - 1
    await outcome_of(running)
    async with asyncio.timeout(SOON):
        while await conn.exec_query("select 1 from pg_stat_activity where query like 'insert into late%'"):
            await asyncio.sleep(0.01)
    assert await conn.exec_query("select * from late") == []


# ---- PgPipeline on a WireConn


@ends_clean()
async def test_a_partial_message_is_handed_back_to_the_wire_conn() -> None:
    note = m.encode(m.NotificationResponse(7, "news", "hello"))

    async def script(peer: Peer) -> None:
        await peer.startup()
        await peer.expect(m.Parse, m.Describe, m.Bind, m.Execute, m.Sync)
        answer = (m.ParseComplete(), m.ParameterDescription(()), m.NoData(), m.BindComplete())
        await peer.write(m.encode(*answer, m.CommandComplete("INSERT 0 1"), m.ReadyForQuery("I")) + note[:7])
        await peer.expect(m.Query)
        await peer.write(note[7:] + m.encode(m.CommandComplete("DO"), m.ReadyForQuery("I")))
        await peer.expect(m.Terminate)
        peer.close()

    async with FakePG(script) as fake:
        wire = await WireConn.connect(fake.dsn)
        async with PgPipeline(wire) as pipeline:
            item = pipeline.query("insert into x values (1)")
        assert (await item).rows_affected == 1
        await wire.send(m.Query("do"))
        assert await wire.recv_msg() == m.NotificationResponse(7, "news", "hello")
        await wire.drain_until_ready()
        await wire.close()
