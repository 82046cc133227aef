"""A COPY sent as a query: refused without harm if no request follows it, with the right outcome if one does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from pg_wired import AsyncConn, ConnectionClosed, Outcome, PgError, PgWireError, UsageError
from pg_wired.protocol import messages as m
from rig.checks import answers, ends_clean, outcome_of, until
from rig.postgres import Server

pytestmark = pytest.mark.both_loops

Ask = Callable[[AsyncConn, str], asyncio.Future[Any]]
ASKS: dict[str, Ask] = {
    "exec_query": lambda conn, sql: conn.exec_query(sql),
    "simple_query": lambda conn, sql: conn.simple_query(sql),
    "submit Query": lambda conn, sql: conn.submit(m.encode(m.Query(sql))),
    "submit extended": lambda conn, sql: conn.submit(
        m.encode(m.Parse("", sql), m.Bind(), m.Describe("P"), m.Execute(), m.Sync())
    ),
}


@pytest.fixture
async def conn(postgres: Server) -> AsyncIterator[AsyncConn]:
    async with await AsyncConn.connect(postgres.dsn) as conn:
        await conn.simple_query("drop table if exists copied; create table copied(a int)")
        yield conn


async def copied(postgres: Server) -> list[int]:
    async with await AsyncConn.connect(postgres.dsn) as other:
        return [int(row[0] or b"") for row in await other.exec_query("select a from copied order by a")]


async def refused(reply: asyncio.Future[Any], outcome: Outcome) -> UsageError:
    error = await outcome_of(reply)
    assert isinstance(error, UsageError) and error.outcome is outcome, error
    return error


@pytest.mark.parametrize("ask", ASKS.values(), ids=ASKS)
@ends_clean()
async def test_a_sole_copy_in_is_refused_without_harm(conn: AsyncConn, ask: Ask) -> None:
    for _ in range(2):
        error = await refused(ask(conn, "copy copied from stdin"), Outcome.REJECTED)
        assert "copy_in()" in str(error)
        assert isinstance(error.__cause__, PgError) and error.__cause__.code == "57014"
        await answers(conn)


# The server sends CopyInResponse, and then fails without reading any data.
UNREADABLE = {
    "view": ("create or replace view seen as select 1 as a", "copy seen from stdin"),
    "frozen": ("select 1", "copy copied from stdin (freeze)"),
    "trigger": (
        "create or replace function refuse() returns trigger language plpgsql as $$begin raise 'no'; end$$; "
        "create or replace trigger refuse before insert on copied execute function refuse()",
        "copy copied from stdin",
    ),
}


async def in_stream(conn: AsyncConn, sql: str) -> None:
    async with conn.stream(sql) as rows:
        async for _ in rows:
            pass


async def in_portal(conn: AsyncConn, sql: str) -> None:
    async with conn.exclusive() as mine:
        await mine.simple_query("begin")
        async with mine.portal(sql) as portal:
            await portal.fetch(1)


async def in_exclusive(conn: AsyncConn, sql: str) -> None:
    async with conn.exclusive() as mine:
        await mine.simple_query("begin")
        await outcome_of(mine.exec_query(sql))
        await mine.simple_query("rollback")
        assert await mine.exec_query("select 'inside'") == [(b"inside",)]


BLOCKS = [in_stream, in_portal, in_exclusive]


@pytest.mark.parametrize("ask", [*ASKS.values(), *BLOCKS], ids=[*ASKS, *[block.__name__ for block in BLOCKS]])
@pytest.mark.parametrize(("setup", "sql"), UNREADABLE.values(), ids=UNREADABLE)
@ends_clean()
async def test_a_copy_in_that_fails_before_it_reads_leaves_the_connection_usable(
    conn: AsyncConn, ask: Callable[[AsyncConn, str], Awaitable[Any]], setup: str, sql: str
) -> None:
    await conn.simple_query(setup)
    for _ in range(3):
        error = await outcome_of(ask(conn, sql))
        assert ask is in_exclusive or isinstance(error, UsageError)
        assert await conn.exec_query("select 'innocent'") == [(b"innocent",)]
        await answers(conn)


@pytest.mark.parametrize("ask", ASKS.values(), ids=ASKS)
@ends_clean()
async def test_a_copy_in_after_other_requests_is_refused_without_harm(
    conn: AsyncConn, postgres: Server, ask: Ask
) -> None:
    before = [conn.exec_query("insert into copied values ($1)", (str(n),)) for n in range(5)]
    await refused(ask(conn, "copy copied from stdin"), Outcome.REJECTED)
    await asyncio.gather(*before)
    await answers(conn)
    assert await copied(postgres) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("ask", ASKS.values(), ids=ASKS)
@ends_clean()
async def test_a_copy_in_before_other_requests_ends_the_connection(conn: AsyncConn, postgres: Server, ask: Ask) -> None:
    before = [conn.exec_query("insert into copied values ($1)", (str(n),)) for n in range(5)]
    slipped = ask(conn, "copy copied from stdin")
    behind: list[asyncio.Future[Any]] = [conn.exec_query("insert into copied values (99)")]
    behind.append(conn.simple_query("select 1"))
    await asyncio.gather(*before)
    error = await refused(slipped, Outcome.UNKNOWN)
    assert "copy_in()" in str(error)
    for reply in behind:
        lost = await outcome_of(reply)
        assert isinstance(lost, ConnectionClosed) and lost.outcome is Outcome.UNKNOWN
    assert not conn.is_alive
    await until(lambda: conn._core.transport.is_closed, "the end")
    assert await copied(postgres) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("ask", ASKS.values(), ids=ASKS)
@ends_clean()
async def test_a_copy_out_is_refused_and_later_requests_are_answered(
    conn: AsyncConn, postgres: Server, ask: Ask
) -> None:
    await conn.exec_query("insert into copied values (1)")
    for sql in (
        "copy copied to stdout",
        "copy (select repeat('x', 1000) from generate_series(1, 20000)) to stdout",
        "copy (insert into copied values (2) returning a) to stdout (format binary)",
    ):
        slipped = ask(conn, sql)
        behind = [conn.exec_query("select $1::int4", (str(n),)) for n in range(3)]
        error = await refused(slipped, Outcome.UNKNOWN)
        assert "copy_out()" in str(error)
        assert [list(rows) for rows in await asyncio.gather(*behind)] == [[(b"0",)], [(b"1",)], [(b"2",)]]
    assert await copied(postgres) == [1, 2]
    await answers(conn)


@ends_clean()
async def test_a_copy_among_other_statements_is_refused_with_the_right_outcome(
    conn: AsyncConn, postgres: Server
) -> None:
    for sql, outcome in (
        ("select 1; copy copied from stdin; select 2", Outcome.REJECTED),
        ("copy copied to stdout; insert into copied values (1); copy copied to stdout", Outcome.UNKNOWN),
        ("insert into copied values (2); copy copied from stdin", Outcome.REJECTED),
        ("copy copied to stdout; copy copied from stdin", Outcome.REJECTED),
        ("begin; insert into copied values (3); commit; copy copied from stdin", Outcome.UNKNOWN),
    ):
        await refused(conn.simple_query(sql), outcome)
        await answers(conn)
    assert await copied(postgres) == [1, 3]


@ends_clean()
async def test_a_copy_that_the_server_rejects_raises_its_error(conn: AsyncConn) -> None:
    for ask in ASKS.values():
        error = await outcome_of(ask(conn, "copy no_such_table from stdin"))
        assert isinstance(error, PgError) and error.code == "42P01"
        error = await outcome_of(ask(conn, "copy (select 1/(g - 500) from generate_series(1, 1000) g) to stdout"))
        assert isinstance(error, PgWireError)
        assert "22012" in (getattr(error, "code", ""), getattr(error.__cause__, "code", ""))
        await answers(conn)


@ends_clean()
async def test_a_cancelled_copy_leaves_the_connection_usable(conn: AsyncConn) -> None:
    for ask in ASKS.values():
        for sql in ("copy copied from stdin", "copy copied to stdout"):
            ask(conn, sql).cancel()
            await until(lambda: conn.in_flight == 0, "the end of the COPY")
            await answers(conn)
