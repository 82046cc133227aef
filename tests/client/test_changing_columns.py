"""Statements whose columns change between uses (DDL, cursors, EXECUTE): right rows and fields, no cache errors."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from typing import Any

import pytest

from pg_wired import AsyncConn, PgError, Rows
from rig.checks import cache_in_step, ends_clean, outcome_of, repeatable
from rig.postgres import Server

pytestmark = pytest.mark.both_loops

CACHE_ERRORS = {"26000", "0A000", "42P05"}


@pytest.fixture
async def conn(postgres: Server) -> AsyncIterator[AsyncConn]:
    async with await AsyncConn.connect(postgres.dsn) as conn:
        await conn.simple_query("create temp table shaped as select 1 as a, 2 as b")
        yield conn


def whole(rows: Rows) -> None:
    """Assert that the rows fit the fields."""
    assert {len(row) for row in rows} <= {len(rows.fields)}


@ends_clean()
async def test_rows_follow_ddl_that_changes_the_columns(conn: AsyncConn) -> None:
    former = ["a", "b"]
    for ddl, names in (
        ("alter table shaped add c text", ["a", "b", "c"]),
        ("alter table shaped drop b", ["a", "c"]),
        ("alter table shaped alter a type text", ["a", "c"]),
        ("alter table shaped rename a to z", ["z", "c"]),
        ("drop table shaped; create temp table shaped as select 1 as only", ["only"]),
        ("drop table shaped; create temp table shaped as select 1 as only", ["only"]),
        ("drop table shaped; create temp table shaped()", []),
    ):
        before = conn.exec_query("select * from shaped", result_formats=1)
        many = [conn.exec_query("select * from shaped") for _ in range(20)]
        change = conn.simple_query(ddl)
        many += [conn.exec_query("select * from shaped") for _ in range(20)]
        single = conn.exec_query("select * from shaped", result_formats=[0] * len(names))
        await before
        await change
        for number, rows in enumerate(await asyncio.gather(*many)):
            whole(rows)
            assert [field.name for field in rows.fields] == (former if number < 20 else names)
        assert [field.name for field in (await single).fields] == names
        again = await conn.exec_query("select * from shaped", result_formats=[1] * len(names))
        assert [(field.name, field.format) for field in again.fields] == [(name, 1) for name in names]
        former = names
        await cache_in_step(conn)


@ends_clean()
async def test_field_types_follow_an_altered_column_type(conn: AsyncConn) -> None:
    first = await conn.exec_query("select * from shaped")
    await conn.simple_query("alter table shaped alter b type text")
    second = await conn.exec_query("select * from shaped")
    assert [field.type_oid for field in (*first.fields, *second.fields)] == [23, 23, 23, 25]
    assert first.fields[0].table_oid == second.fields[0].table_oid


@ends_clean()
async def test_rows_follow_ddl_of_another_connection(conn: AsyncConn, postgres: Server) -> None:
    async with await AsyncConn.connect(postgres.dsn) as other:
        await other.simple_query("drop table if exists common; create table common as select 0 as n")
        for columns in range(1, 15):
            replies = [conn.exec_query("select * from common") for _ in range(10)]
            change = other.simple_query(f"alter table common add c{columns} int")
            replies += [conn.exec_query("select * from common") for _ in range(10)]
            for rows in await asyncio.gather(*replies):
                whole(rows)
                assert len(rows.fields) in (columns, columns + 1)
            await change
            assert len((await conn.exec_query("select * from common")).fields) == columns + 1
        await other.simple_query("drop table common")
        await cache_in_step(conn)


@ends_clean()
async def test_rows_follow_a_change_of_the_search_path(conn: AsyncConn) -> None:
    await conn.simple_query(
        "drop schema if exists one, two cascade; create schema one; create schema two;"
        "create table one.meant as select 'one' as a; create table two.meant as select 'two' as a, 2 as b"
    )
    for _ in range(3):
        for schema, row in (("one", (b"one",)), ("two", (b"two", b"2"))):
            await conn.exec_query(f"set search_path = {schema}")
            replies = [conn.exec_query("select * from meant") for _ in range(3)]
            assert [list(rows) for rows in await asyncio.gather(*replies)] == [[row]] * 3
    await conn.simple_query("reset search_path; drop schema one, two cascade")
    await cache_in_step(conn)


@ends_clean()
async def test_fetch_returns_the_columns_of_the_current_cursor(conn: AsyncConn) -> None:
    for width in (1, 3, 2, 0, 5):
        columns = ", ".join(f"g * 10 + {n} as c{n}" for n in range(width))
        await conn.exec_query(f"declare held cursor with hold for select {columns} from generate_series(1, 9) g")
        # comments and case do not make it another statement
        replies = [conn.exec_query(sql) for sql in ["fetch 2 from held", "/* x */ FETCH 1 in held"] * 3]
        whole_rows = [row for rows in await asyncio.gather(*replies) for row in rows]
        assert whole_rows == [tuple(b"%d" % (g * 10 + n) for n in range(width)) for g in range(1, 10)]
        for rows in await asyncio.gather(*replies):
            assert [field.name for field in rows.fields] == [f"c{n}" for n in range(width)]
        await conn.exec_query("close held")
    await cache_in_step(conn)


@ends_clean()
async def test_pipelined_fetches_follow_a_cursor_that_is_declared_again(conn: AsyncConn) -> None:
    await conn.exec_query("declare held cursor with hold for select 1 as a from generate_series(1, 50)")
    await conn.exec_query("fetch 2 from held")
    replies: list[asyncio.Future[Any]] = [conn.exec_query("fetch 2 from held") for _ in range(5)]
    replies.append(conn.simple_query("close held; declare held cursor with hold for select 1, 2, 3"))
    replies += [conn.exec_query("fetch 1 from held") for _ in range(2)]
    replies += [conn.exec_query("fetch 2 from held") for _ in range(2)]
    results = await asyncio.gather(*replies)
    assert [list(rows) for rows in results[:5]] == [[(b"1",), (b"1",)]] * 5
    assert [list(rows) for rows in results[6:]] == [[(b"1", b"2", b"3")], [], [], []]
    assert [len(rows.fields) for rows in results[6:]] == [3] * 4
    await conn.exec_query("close held")


@ends_clean()
async def test_execute_returns_the_columns_of_the_current_prepared_statement(conn: AsyncConn) -> None:
    for body, row in (("select 1", (b"1",)), ("select 1, 2, 3", (b"1", b"2", b"3")), ("select from shaped", ())):
        await conn.exec_query(f"prepare inner_one as {body}")
        replies = [conn.exec_query("execute inner_one") for _ in range(5)]
        assert [list(rows) for rows in await asyncio.gather(*replies)] == [[row]] * 5
        await conn.exec_query("deallocate inner_one")
    await conn.exec_query("prepare inner_one as insert into shaped values (3, 4)")
    rows = await conn.exec_query("execute inner_one")
    assert (list(rows), rows.command_tag) == ([], "INSERT 0 1")


@ends_clean()
async def test_other_statements_with_results_can_be_repeated(conn: AsyncConn) -> None:
    await conn.simple_query(
        "create or replace procedure pg_temp.two(inout a int, inout b int) language sql as 'select 1, 2'"
    )
    for _ in range(3):
        assert len(await conn.exec_query("explain select * from shaped")) >= 1
        assert list(await conn.exec_query("show timezone")) == [(conn.parameters["TimeZone"].encode(),)]
        assert list(await conn.exec_query("call pg_temp.two(7, 8)")) == [(b"1", b"2")]
        assert list(await conn.exec_query("(values (1, 2))")) == [(b"1", b"2")]
        assert list(await conn.exec_query("table shaped")) == [(b"1", b"2")]
        assert list(await conn.exec_query("with x as (select 5) select * from x")) == [(b"5",)]
        assert list(await conn.exec_query("-- first\nselect 6")) == [(b"6",)]
        assert [len(rows) for rows in await conn.simple_query("show all")] != [0]


@ends_clean()
async def test_functions_with_a_new_result_type_cause_no_cache_errors(conn: AsyncConn) -> None:
    for columns in ("a int", "a int, b text", "a text"):
        await conn.simple_query("drop function if exists pg_temp.shape()")
        names = ", ".join(f"null::{column.split()[1]}" for column in columns.split(", "))
        await conn.simple_query(
            f"create function pg_temp.shape() returns table({columns}) language sql as 'select {names}'"
        )
        for result in await asyncio.gather(
            *[conn.exec_query("select * from pg_temp.shape()") for _ in range(3)], return_exceptions=True
        ):
            if isinstance(result, BaseException):  # the server may still use the dropped function
                assert isinstance(result, PgError) and result.code not in CACHE_ERRORS, result
            else:
                whole(result)
    await cache_in_step(conn)


class Workload:
    """A mix of requests that may invalidate the cache, by many concurrent tasks on one connection and a second one."""

    def __init__(self, conn: AsyncConn, other: AsyncConn, rng: random.Random) -> None:
        self.conn = conn
        self.other = other
        self.rng = rng

    async def one(self) -> None:
        await asyncio.sleep(self.rng.random() * 0.1)
        kind = self.rng.choices(
            ["select", "echo", "bad", "ddl", "forget", "new", "cancelled"], [20, 20, 5, 2, 1, 10, 5]
        )[0]
        await getattr(self, kind)()

    async def select(self) -> None:
        formats = self.rng.choice([0, 1])
        rows = await self.conn.exec_query("select * from worked", result_formats=formats)
        whole(rows)
        assert {field.format for field in rows.fields} == {formats}
        assert len(rows) == 1

    async def echo(self) -> None:
        nonce = str(self.rng.random())
        oids = self.rng.choice([(), (25,), (1043,)])
        sql = f"select $1::text, {self.rng.randrange(6)}"
        assert (await self.conn.exec_query(sql, (nonce,), oids))[0][0] == nonce.encode()

    async def bad(self) -> None:
        sql, code = self.rng.choice([("selec", "42601"), ("select 1/0", "22012"), ("select * from no_table", "42P01")])
        error = await outcome_of(self.conn.exec_query(sql))
        assert isinstance(error, PgError) and error.code == code, error

    async def ddl(self) -> None:
        name = f"c{self.rng.getrandbits(60)}"
        ddl = self.rng.choice(
            [
                f"alter table worked add {name} int",
                "begin; drop table worked; create table worked as select 1 as a, 2 as b; commit",
                "alter table worked alter a type text using a::text",
            ]
        )
        if ddl.startswith("begin"):
            await self.other.simple_query(ddl)
        else:
            await self.rng.choice([self.conn, self.other]).exec_query(ddl)

    async def forget(self) -> None:
        await self.conn.exec_query(self.rng.choice(["discard all", "deallocate all", "discard plans"]))

    async def new(self) -> None:
        number = self.rng.getrandbits(30)
        assert list(await self.conn.exec_query(f"select {number}")) == [(b"%d" % number,)]

    async def cancelled(self) -> None:
        reply = self.conn.exec_query(f"select {self.rng.getrandbits(4)}, pg_sleep(0.001)")
        for _ in range(self.rng.randrange(3)):
            await asyncio.sleep(0)
        reply.cancel()


@pytest.mark.parametrize("capacity", [1, 2, 3, 8, 256])
@ends_clean(60)
async def test_a_random_workload_sees_no_cache_errors(postgres: Server, capacity: int) -> None:
    rng = repeatable()
    async with (
        await AsyncConn.connect(postgres.dsn, statement_cache_size=capacity) as conn,
        await AsyncConn.connect(postgres.dsn) as other,
    ):
        await other.simple_query("drop table if exists worked; create table worked as select 1 as a, 2 as b")
        work = Workload(conn, other, rng)
        await asyncio.gather(*[work.one() for _ in range(1000)])
        await cache_in_step(conn)
        await other.simple_query("drop table worked")
