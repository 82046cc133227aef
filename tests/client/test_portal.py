"""Portals inside `exclusive()`: the rows of a query in portions, on a real server."""

from __future__ import annotations

import pytest

from pg_wired import AsyncConn, ConfigError, FormatCode, PgError, UsageError
from rig.checks import answers, ends_clean
from rig.postgres import Server

pytestmark = pytest.mark.both_loops
NUMBERS = "select i from generate_series(1, $1::int4) i"


@ends_clean()
async def test_a_portal_fetches_rows_in_portions(postgres: Server) -> None:
    async with await AsyncConn.connect(postgres.dsn) as conn:
        async with conn.exclusive() as mine:
            await mine.simple_query("begin")
            async with mine.portal(NUMBERS, ["25"], result_formats=FormatCode.BINARY) as portal:
                assert [(field.name, field.format) for field in portal.fields] == [("i", 1)]
                sizes, last = [], None
                while portal.is_suspended:
                    rows = await portal.fetch(10)
                    sizes.append(len(rows))
                    last = rows[-1]
                assert (sizes, last) == ([10, 10, 5], ((25).to_bytes(4, "big"),))
                assert rows.fields == portal.fields
                with pytest.raises(UsageError, match="all its rows"):
                    await portal.fetch(1)
            assert list(await mine.exec_query("select count(*) from pg_cursors where name like 'pg_wired%'")) == [
                (b"0",)
            ]
            await mine.simple_query("commit")
        await answers(conn)


@ends_clean()
async def test_two_portals_can_be_read_alternately(postgres: Server) -> None:
    async with await AsyncConn.connect(postgres.dsn) as conn, conn.exclusive() as mine:
        await mine.simple_query("begin")
        async with mine.portal(NUMBERS, ["4"]) as first, mine.portal(NUMBERS, ["3"]) as second:
            taken = [list(await portal.fetch(2)) for portal in (first, second, first, second)]
        assert taken == [[(b"1",), (b"2",)], [(b"1",), (b"2",)], [(b"3",), (b"4",)], [(b"3",)]]
        await mine.simple_query("rollback")


@ends_clean()
async def test_a_portal_needs_its_transaction(postgres: Server) -> None:
    async with await AsyncConn.connect(postgres.dsn) as conn, conn.exclusive() as mine:
        with pytest.raises(UsageError, match="BEGIN"):
            async with mine.portal(NUMBERS, ["1"]):
                pass
        await mine.simple_query("begin")
        async with mine.portal(NUMBERS, ["9"]) as portal:
            await portal.fetch(1)
            await mine.simple_query("commit; begin")
            with pytest.raises(PgError) as caught:
                await portal.fetch(1)
            assert caught.value.code == "34000"
        await mine.simple_query("rollback")


@ends_clean()
async def test_invalid_arguments_and_sql_are_refused(postgres: Server) -> None:
    async with await AsyncConn.connect(postgres.dsn) as conn, conn.exclusive() as mine:
        await mine.simple_query("begin")
        for wrong in (0, -1, True, "1", 1 << 31):
            async with mine.portal(NUMBERS, ["1"]) as portal:
                with pytest.raises(ConfigError, match="count"):
                    await portal.fetch(wrong)  # type: ignore[arg-type]
        with pytest.raises(TypeError):
            mine.portal(NUMBERS, [1])  # type: ignore[list-item]
        with pytest.raises(PgError) as caught:
            async with mine.portal("selec"):
                pass
        assert caught.value.code == "42601"
        await mine.simple_query("rollback")
