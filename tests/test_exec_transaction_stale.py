"""exec_transaction with a statement that the server knows no more, or otherwise: repaired once, and one effect."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from pg_wired import AsyncConn, Outcome, PgError
from rig.checks import cache_in_step, ends_clean, outcome_of, prepared
from rig.postgres import Server
from tests.done import INSERT, TABLES, done, usable
from tests.outcomes import column

pytestmark = pytest.mark.both_loops


@pytest.fixture
async def conn(postgres: Server) -> AsyncIterator[AsyncConn]:
    async with await AsyncConn.connect(postgres.dsn) as conn:
        await conn.simple_query(TABLES)
        yield conn


@pytest.fixture
async def admin(postgres: Server) -> AsyncIterator[AsyncConn]:
    async with await AsyncConn.connect(postgres.dsn) as conn:
        yield conn


@ends_clean()
async def test_a_stale_statement_is_repeated_once_and_its_effect_is_one(conn: AsyncConn, admin: AsyncConn) -> None:
    await admin.simple_query("alter table done add b int")
    sql = "insert into done values ($1) returning *"
    for number in range(3):
        assert len(await conn.exec_transaction("insert into setups values (1)", sql, (str(number),))) == 1
    for number, ddl in ((10, "add c int"), (11, "drop b"), (12, "alter c type bigint")):
        await admin.simple_query(f"alter table done {ddl}")
        replies = [
            conn.exec_transaction("insert into setups values (2)", sql, (str(number * 10 + n),)) for n in range(3)
        ]
        for rows in await asyncio.gather(*replies):
            assert len(rows) == 1 and len(rows[0]) == len(rows.fields)
    assert await done(admin) == [0, 1, 2, *(n * 10 + k for n in (10, 11, 12) for k in range(3))]
    assert await column(admin, "select a from setups order by a") == [1] * 3 + [2] * 9
    await cache_in_step(conn)


@ends_clean()
async def test_what_the_server_forgot_is_parsed_again(conn: AsyncConn, admin: AsyncConn) -> None:
    await conn.exec_transaction("", INSERT, ("1",))
    name = (await conn.exec_query(f"select name from pg_prepared_statements where statement = '{INSERT}'"))[0][0]
    await conn.simple_query(f"deallocate {(name or b'').decode()}")
    await asyncio.gather(*[conn.exec_transaction("insert into setups values (1)", INSERT, (str(n),)) for n in (2, 3)])
    assert await done(admin) == [1, 2, 3] and await column(admin, "select a from setups") == [1, 1]
    await cache_in_step(conn)


@ends_clean()
async def test_what_it_evicts_is_closed(postgres: Server) -> None:
    async with await AsyncConn.connect(postgres.dsn, statement_cache_size=2) as shared:
        for number in range(20):
            assert list(await shared.exec_transaction("", f"select {number}")) == [(str(number).encode(),)]
        assert len(await prepared(shared)) <= 3
        await cache_in_step(shared)


@ends_clean()
async def test_a_setup_that_commits_cannot_be_repeated(conn: AsyncConn, admin: AsyncConn) -> None:
    """The query is stale, and what the setup wrote is committed already: an error, and one effect."""
    await conn.exec_query("select * from done")
    await admin.simple_query("alter table done add b int")
    setup = "insert into setups values (1); commit; begin; set local pg_wired.setup = 'open'"
    failure = await outcome_of(conn.exec_transaction(setup, "select * from done"))
    assert isinstance(failure, PgError) and (failure.code, failure.outcome) == ("0A000", Outcome.UNKNOWN)
    assert await column(admin, "select a from setups") == [1]
    await usable(conn)


@ends_clean()
async def test_a_setup_that_fails_leaves_the_statement_to_be_prepared_later(conn: AsyncConn) -> None:
    """The server skipped its Parse: the cache must not believe in it, nor give it up."""
    await outcome_of(conn.exec_transaction("select 1/0", "select 'skipped'"))
    for _ in range(2):
        assert list(await conn.exec_transaction("", "select 'skipped'")) == [(b"skipped",)]
    rows = await conn.exec_query("select count(*) from pg_prepared_statements where statement = 'select ''skipped'''")
    assert list(rows) == [(b"1",)]
    await cache_in_step(conn)
