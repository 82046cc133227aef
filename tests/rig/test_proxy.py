"""The test proxy, and connections through it: slow, held and cut ones may lose requests, but never mix up answers."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest

from pg_wired import AsyncConn, ConnectionClosed, IoError, Outcome, PgWireError, RequestTimeout
from rig.checks import answers, ends_clean, outcome_of, repeatable, until
from rig.postgres import Postgres
from rig.proxy import Direction, End, Proxy
from tests.ledger import Book

pytestmark = [pytest.mark.servers, pytest.mark.both_loops]

WAYS = pytest.mark.parametrize("way", ["up", "down"])
ENDS = pytest.mark.parametrize("end", ["fin", "rst"])


@asynccontextmanager
async def line(launched: Postgres) -> AsyncIterator[tuple[Proxy, AsyncConn]]:
    """A proxy and a connection through it."""
    async with (
        Proxy(launched.host, launched.port) as proxy,
        await AsyncConn.connect(f"{launched.dsn} {proxy.address}") as conn,
    ):
        yield proxy, conn


def direction(proxy: Proxy, way: str) -> Direction:
    return proxy.up if way == "up" else proxy.down


async def there_and_back(conn: AsyncConn, size: int) -> None:
    value = bytes(range(1, 128)) * (size // 127)
    assert await conn.exec_query("select $1::text", (value,)) == [(value,)]


# ---- slow lines


@WAYS
@ends_clean(60)
async def test_answers_are_right_with_small_segments_and_delays(launched: Postgres, way: str) -> None:
    async with line(launched) as (proxy, conn):
        slow = direction(proxy, way)
        before = slow.passed
        slow.segment = 1
        await asyncio.gather(*[conn.exec_query("select $1::int", (str(n),)) for n in range(20)])
        await there_and_back(conn, 1_000)
        assert slow.passed - before > 1_000
        slow.segment = 1_000
        slow.delay = 0.0005
        await there_and_back(conn, 100_000)
        await answers(conn)


@WAYS
@ends_clean(60)
async def test_deadlines_hold_on_a_held_connection_and_late_answers_are_dropped(launched: Postgres, way: str) -> None:
    """An answer that arrives after its deadline is discarded, and the next answer is correct."""
    async with line(launched) as (proxy, conn):
        await answers(conn)
        held = direction(proxy, way)
        held.hold()
        asked = [conn.exec_query("select 'late'", timeout=0.05) for _ in range(20)]
        last = conn.exec_query("select 'patient'")
        ends = await asyncio.gather(*asked, return_exceptions=True)
        assert all(isinstance(end, RequestTimeout) and end.outcome is Outcome.UNKNOWN for end in ends)
        assert held.is_held and not last.done()
        held.release()
        assert await last == [(b"patient",)]
        await answers(conn)


@ends_clean(60)
async def test_large_requests_in_both_directions_survive_a_held_connection(launched: Postgres) -> None:
    """The server and the client wait for each other to read; nothing is lost once data flows again."""
    async with line(launched) as (proxy, conn):
        proxy.hold()
        asked = [asyncio.ensure_future(there_and_back(conn, 500_000)) for _ in range(20)]
        await until(lambda: conn.in_flight > 0, "the first of them to be written")
        assert not any(each.done() for each in asked)
        proxy.release()
        await asyncio.gather(*asked)


# ---- cut lines


@ENDS
@ends_clean(60)
async def test_a_cut_ends_idle_and_busy_connections(launched: Postgres, end: End) -> None:
    async with Proxy(launched.host, launched.port) as proxy:
        idle, busy = [await AsyncConn.connect(f"{launched.dsn} {proxy.address}") for _ in range(2)]
        asked = busy.exec_query("select pg_sleep(0.2)")
        assert proxy.connections == 2
        proxy.cut(end)
        error = await outcome_of(asked)
        assert isinstance(error, ConnectionClosed | IoError) and error.outcome is Outcome.UNKNOWN
        await until(lambda: not idle.is_alive, "the idle one to notice")
        await until(lambda: proxy.connections == 0, "the proxy to be done with them")
        await asyncio.gather(idle.close(), busy.close())


@ends_clean(60)
async def test_a_connect_through_a_proxy_without_a_server_fails_not_sent(launched: Postgres) -> None:
    async with Proxy(launched.host, 1) as proxy:
        error = await outcome_of(AsyncConn.connect(f"{launched.dsn} {proxy.address}"))
        assert isinstance(error, PgWireError) and error.outcome is Outcome.NOT_SENT


async def writer(dsn: str, book: Book, numbers: Iterator[int]) -> None:
    """Connect, and insert numbers in a pipeline until something fails."""
    try:
        conn = await AsyncConn.connect(dsn, connect_timeout=10)
    except PgWireError as error:
        assert error.outcome is Outcome.NOT_SENT
        return
    try:
        while conn.is_alive:
            mine = list(itertools.islice(numbers, 5))
            asked = [asyncio.ensure_future(insert(conn, number)) for number in mine]
            for number, end in zip(mine, await asyncio.gather(*asked, return_exceptions=True), strict=True):
                book.note(number, end)
    finally:
        await conn.close()


async def insert(conn: AsyncConn, number: int) -> None:
    await conn.exec_query("insert into ledger values ($1)", (str(number),))


@WAYS
@ends_clean(60)
async def test_a_cut_at_any_byte_loses_no_acknowledged_write(launched: Postgres, way: str) -> None:
    """Cut a login or later traffic: acknowledged numbers are there once, and those not sent or refused are absent."""
    rng, book, numbers = repeatable(), Book(), itertools.count()
    async with await AsyncConn.connect(launched.dsn) as admin:
        await admin.simple_query("drop table if exists ledger; create table ledger(n int)")
        async with Proxy(launched.host, launched.port) as proxy:
            cut = direction(proxy, way)
            for end in ("fin", "rst"):
                cut.end = end
                for at in rng.sample(range(1, 1_500), 25):
                    cut.cut_at = at
                    await writer(f"{launched.dsn} {proxy.address}", book, numbers)
        [rows] = await admin.simple_query("select n from ledger")
        book.check_once(int(row[0] or b"") for row in rows)
    print(book.ends)
    assert len(book.there) > 20 and sum(book.ends.values()) > len(book.there)
