"""A released connection is reset or closed; only a task that needs that connection waits for the reset."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import pytest

from pg_wired import AsyncConn, AsyncPool, ConnectionClosed, PgError, UsageError
from rig.checks import SOON, ends_clean, outcome_of, until, until_sql
from rig.lively_pg import LivelyPG
from rig.postgres import Server
from rig.randomness import chosen
from tests.outcomes import until_asleep
from tests.pool.pools import conserved, pid_of

pytestmark = pytest.mark.both_loops


@ends_clean()
@pytest.mark.parametrize(
    ("work", "left"),
    [
        ("begin; insert into kept values (1)", "select count(*) from kept"),
        ("begin; select 1/0", "select txid_current_if_assigned()"),
        ("set search_path = nowhere", "select nullif(current_setting('search_path'), '\"$user\", public')"),
        ("create temp table t(a int4)", "select to_regclass('pg_temp.t')"),
        ("listen ours", "select nullif(count(*), 0) from pg_listening_channels()"),
        ("prepare p as select 1", "select nullif(count(*), 0) from pg_prepared_statements where from_sql"),
        ("declare c cursor with hold for select 1", "select nullif(count(*), 0) from pg_cursors where name = 'c'"),
    ],
)
async def test_a_released_connection_keeps_no_session_state(postgres: Server, work: str, left: str) -> None:
    async with await AsyncPool.connect(postgres.dsn, size=1, max_exclusive=1) as pool:
        await pool.simple_query("drop table if exists kept; create table kept(a int4)")
        async with pool.exclusive() as mine:
            first = await pid_of(mine)
            assert isinstance(await outcome_of(mine.simple_query(work)), list | PgError)
        async with pool.exclusive() as mine:
            assert await pid_of(mine) == first
            assert (await mine.exec_query(left))[0][0] in (None, b"0")


@ends_clean()
async def test_settings_changed_in_a_pipeline_are_reset_too(postgres: Server) -> None:
    async with await AsyncPool.connect(postgres.dsn, size=1, max_exclusive=1) as pool:
        async with pool.pipeline() as pipeline:
            pipeline.query("set search_path = nowhere")
        async with pool.exclusive() as mine:
            assert list(await mine.exec_query("show search_path")) == [(b'"$user", public',)]


@ends_clean()
async def test_the_owner_can_ask_for_a_reset_or_mark_the_connection_broken(postgres: Server) -> None:
    async with await AsyncPool.connect(postgres.dsn, size=1, max_exclusive=1) as pool:
        async with pool.exclusive() as mine:
            await mine.exec_query("select pg_advisory_lock(4711)")
            mine.mark_state_mutated()
        async with pool.exclusive() as mine:
            assert list(await mine.exec_query("select count(*) from pg_locks where locktype = 'advisory'")) == [(b"0",)]
            first = await pid_of(mine)
            mine.mark_broken()
        async with pool.exclusive() as mine:
            assert await pid_of(mine) != first


@ends_clean()
async def test_a_clean_connection_is_not_reset_and_a_reset_runs_in_the_background() -> None:
    async with LivelyPG() as fake, await AsyncPool.connect(fake.dsn, size=1, max_exclusive=1) as pool:
        async with pool.exclusive() as mine:
            await mine.exec_query("select 1")
        assert fake.said == [] and pool.stats().idle == 1
        async with pool.exclusive() as mine:
            await mine.simple_query("set a = 1")
            fake.may_answer.clear()
        await until(lambda: len(fake.said) == 1 and pool.stats().lent == 1, "the block to be left")
        with pytest.raises(UsageError, match="not open"):
            await mine.simple_query("select 'too late'")
        fake.may_answer.set()
        async with pool.exclusive() as mine:
            await mine.exec_query("select 1")
        assert fake.said[1].startswith("CLOSE ALL") and len(fake.said) == 2


@ends_clean()
async def test_a_connection_whose_reset_fails_is_replaced(postgres: Server) -> None:
    async with await AsyncPool.connect(postgres.dsn, size=1, max_exclusive=1) as pool:
        async with AsyncExitStack() as stack:
            mine = await stack.enter_async_context(pool.exclusive())
            first = await pid_of(mine)
            await mine.simple_query("set work_mem = '1MB'")
            pool._lending.out.copy().pop().core.session.window.tags.add("LISTEN")  # type: ignore[union-attr]
            pool._lending.out.copy().pop().core.channels.add("no channel's name")
        async with pool.exclusive() as mine:
            assert await pid_of(mine) != first


@ends_clean()
async def test_a_connection_whose_reset_hangs_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pg_wired.client.lease.CANCEL_GRACE_SECONDS", 0.05)
    async with LivelyPG() as fake, await AsyncPool.connect(fake.dsn, size=1, max_exclusive=1) as pool:
        async with pool.exclusive() as mine:
            await mine.simple_query("set a = 1")
            fake.mute.add(2)
        async with pool.exclusive(acquire_timeout=5) as mine:
            assert (await mine.exec_query("select 1"))[0][0] == b"3"
        fake.mute.clear()


@ends_clean()
async def test_on_connect_runs_again_after_a_reset(postgres: Server) -> None:
    async def on_connect(conn: AsyncConn) -> None:
        calls.append(conn)
        await conn.simple_query("set search_path = ours")

    calls: list[AsyncConn] = []
    async with await AsyncPool.connect(postgres.dsn, size=1, max_exclusive=1, on_connect=on_connect) as pool:
        assert list(await pool.exec_query("show search_path")) == [(b"ours",)]
        for _ in range(2):
            async with pool.exclusive() as mine:
                assert list(await mine.exec_query("show search_path")) == [(b"ours",)]
        assert len(calls) == 2
        async with pool.exclusive() as mine:
            await mine.simple_query("set search_path = theirs")
        async with pool.exclusive() as mine:
            assert list(await mine.exec_query("show search_path")) == [(b"ours",)]
        assert len(calls) == 3


@ends_clean()
async def test_a_connection_whose_on_connect_fails_after_a_reset_is_replaced() -> None:
    async def on_connect(conn: AsyncConn) -> None:
        calls.append(conn)
        if len(calls) == 3:
            raise ValueError("not again")

    calls: list[AsyncConn] = []
    async with (
        LivelyPG() as fake,
        await AsyncPool.connect(fake.dsn, size=1, max_exclusive=1, on_connect=on_connect) as pool,
    ):
        async with pool.exclusive() as mine:
            await mine.simple_query("set a = 1")
        async with pool.exclusive(acquire_timeout=5):
            pass
        assert len(calls) == 4 and len(fake.heard) == 3


@ends_clean()
async def test_a_connection_lost_in_use_or_while_idle_is_replaced(postgres: Server) -> None:
    """The first is lost while a task holds it, the second while it is idle."""
    async with (
        await AsyncConn.connect(postgres.dsn) as admin,
        await AsyncPool.connect(postgres.dsn, size=1, max_exclusive=1) as pool,
    ):
        async with pool.exclusive() as mine:
            first = await pid_of(mine)
            await admin.exec_query("select pg_terminate_backend($1::int4, 5000)", [str(first)])
            with pytest.raises(ConnectionClosed):
                await mine.exec_query("select 1")
        async with pool.exclusive() as mine:
            second = await pid_of(mine)
        await admin.exec_query("select pg_terminate_backend($1::int4, 5000)", [str(second)])
        await until(lambda: pool.stats().idle == 0, "the loss to be seen")
        async with pool.exclusive() as mine:
            assert await pid_of(mine) not in (first, second)


@ends_clean()
async def test_an_abandoned_stream_releases_its_connection(postgres: Server) -> None:
    async with (
        await AsyncConn.connect(postgres.dsn) as admin,
        await AsyncPool.connect(postgres.dsn, size=1, max_exclusive=1) as pool,
    ):
        async for _ in pool.copy_out("copy (select generate_series(1, 50000)) to stdout"):
            break  # without `async with`: the reader is dropped
        async with pool.stream("select generate_series(1, 50000)") as rows:
            async for _ in rows:
                break
        task = asyncio.ensure_future(pool.stream("select pg_sleep(60)").__aenter__())
        await until(lambda: pool.stats().lent == 1, "it to run")
        async with asyncio.timeout(SOON):
            lent = next(iter(pool._lending.out))
            await until_asleep(admin, lent.core.pid)
        task.cancel()
        assert isinstance(await outcome_of(task), asyncio.CancelledError)
        await conserved(pool, 1)
        await until_sql(
            admin,
            "select count(*) = 0 from pg_stat_activity where query like '%pg_sleep(60)%' "
            f"and state = 'active' and pid = {lent.core.pid}",
        )


@ends_clean()
async def test_idle_and_expired_connections_are_closed() -> None:
    settings: dict[str, Any] = {"size": 1, "max_exclusive": 2, "_runtime": chosen(lambda: 0.0)}
    async with LivelyPG() as fake:
        async with await AsyncPool.connect(fake.dsn, max_idle=0.05, **settings) as pool:
            async with pool.exclusive(), pool.exclusive():
                pass
            assert pool.stats().idle == 2
            await until(lambda: pool.stats().idle == 0 and len(fake.sessions) == 1, "them to go")
        async with await AsyncPool.connect(fake.dsn, max_lifetime=0.05, **settings) as pool:
            async with pool.exclusive() as mine:
                lent = next(iter(pool._lending.out))
                await until(lambda: lent.expires < asyncio.get_running_loop().time(), "it to be old")
                await mine.exec_query("select 1")  # never while a task holds it
            assert pool.stats().idle == 0


@ends_clean()
async def test_a_block_refuses_use_before_and_after_it_is_open() -> None:
    async with LivelyPG() as fake, await AsyncPool.connect(fake.dsn, size=1, max_exclusive=1) as pool:
        exclusive = pool.exclusive()
        with pytest.raises(UsageError, match="not open"):
            exclusive.exec_query("select 1")
        async with exclusive as mine:
            await mine.exec_query("select 1")
        for use in (
            lambda: mine.exec_query("select 1"),
            lambda: mine.stream("select 1"),
            lambda: mine.transaction_status,
        ):
            with pytest.raises(UsageError, match="not open"):
                use()
        with pytest.raises(UsageError, match="not open"):
            await mine.__aexit__()
        async with exclusive:  # the block can be entered again
            pass
        await conserved(pool, 1)
