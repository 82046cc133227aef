"""AsyncPool's main tasks: it shares connections among requests, lends exclusive ones, and replaces lost ones."""

from __future__ import annotations

import asyncio

import pytest

from pg_wired import AsyncConn, AsyncPool
from rig.checks import ends_clean, until
from rig.postgres import Server

pytestmark = pytest.mark.both_loops


async def pids(pool: AsyncPool) -> set[int]:
    replies = [pool.exec_query("select pg_backend_pid(), pg_sleep(0.01)") for _ in range(pool.size)]
    return {int(rows[0][0] or b"") for rows in await asyncio.gather(*replies)}


@ends_clean()
async def test_every_kind_of_request_works_on_one_pool(postgres: Server) -> None:
    async with await AsyncPool.connect(postgres.dsn, size=3) as pool:
        rows = await asyncio.gather(*[pool.exec_query("select $1::int4", [str(n)]) for n in range(500)])
        assert [int(each[0][0] or b"") for each in rows] == list(range(500))
        [one] = await pool.simple_query("select 1")
        assert list(one) == [(b"1",)]
        assert list(await pool.exec_transaction("set local work_mem='1MB'", "show work_mem")) == [(b"1MB",)]
        assert (await pool.describe("select 1::int4")).fields[0].type_oid == 23
        async with pool.stream("select generate_series(1, 1000)") as stream:
            assert len([row async for row in stream]) == 1000
        async with pool.exclusive() as mine:
            await mine.simple_query("begin; create temp table t(a int4)")
            assert await mine.copy_in("copy t from stdin", b"1\n2\n") == 2
            async with mine.stream("select * from t") as stream:
                assert [row async for row in stream] == [(b"1",), (b"2",)]
            await mine.simple_query("commit; set work_mem = '1MB'")
        async with pool.copy_out("copy (select 1) to stdout") as data:
            assert [part async for part in data] == [b"1\n"]
        async with pool.pipeline() as pipeline:
            item = pipeline.query("select 7")
            assert list(await item) == [(b"7",)]
        async with pool.exclusive() as mine:
            assert list(await mine.exec_query("select to_regclass('t'), current_setting('work_mem')")) == [
                (None, b"4MB")
            ]
        stats = pool.stats()
        assert stats.size == stats.alive == 3 and stats.lent == 0 and stats.requests > 500 > stats.writes


@ends_clean()
async def test_lost_connections_are_replaced(postgres: Server) -> None:
    async with await AsyncPool.connect(postgres.dsn, size=3) as pool:
        before = await pids(pool)
        assert len(before) == 3
        async with await AsyncConn.connect(postgres.dsn) as admin:
            await admin.exec_query(
                "select pg_terminate_backend(pid) from unnest($1::int[]) pid", [str(before).replace(" ", "")]
            )
            await until(lambda: pool.stats().connects == 6 and pool.alive_count == 3, "the lanes to come back")
            assert not await pids(pool) & before
