"""Every acknowledged insert is in the table, and none that was refused or never sent, whatever else happens."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Iterator
from typing import Any

import pytest

from pg_wired import AsyncConn, PgWireError, TransactionError
from pg_wired.protocol import messages as m
from rig.checks import ends_clean, repeatable
from rig.postgres import Postgres
from tests.ledger import Book

pytestmark = pytest.mark.both_loops

SCHEMA = """
drop table if exists ledger, mirror;
create table ledger(n int);
create table mirror(n int unique deferrable initially deferred);
insert into mirror values (0);
"""


@pytest.fixture(scope="module")
def server(pytestconfig: pytest.Config) -> Iterator[Postgres]:
    with Postgres.launch(source=pytestconfig.getoption("--postgres")) as server:
        yield server


# Ways to insert a number into the ledger; each that fails affects only itself.
SIMPLE = [
    "insert into ledger values ({n})",
    "insert into ledger values (-1); delete from ledger where n = -1; insert into ledger values ({n})",
    "begin; insert into ledger values ({n}); commit",
    "begin; insert into ledger values ({n}); rollback; insert into ledger values ({n})",
    "insert into ledger values ({n}); select 1/0",
    "begin; insert into ledger values ({n}); commit; select 1/0",
    "insert into mirror values (0); insert into ledger values ({n})",
    "begin; insert into ledger values ({n})",
    "insert into ledger values ({n}); begin",
    "insert into ledger values ({n}); copy ledger from stdin",
    "copy ledger to stdout; insert into ledger values ({n})",
]
EXTENDED = [
    "insert into ledger values ($1)",
    "insert into ledger select $1 from pg_sleep(0.002)",
    "with x as (insert into ledger values ($1) returning n) insert into mirror select n from x",
    "with x as (insert into ledger values ($1) returning n) insert into mirror select 0 from x",
    "insert into ledger values ($1::int / 0)",
    "insert into ledgr values ($1)",
]
BESIDE = ["begin", "commit", "rollback", "select 1", "discard all", "deallocate all", "nonsense"]


def insert(conn: AsyncConn, number: int, rng: random.Random) -> asyncio.Future[Any]:
    """Insert one number in a random way."""
    timeout = rng.choice([None, None, None, 5, rng.random() * 0.03, 0])
    way = rng.random()
    if way < 0.3:
        return conn.simple_query(rng.choice(SIMPLE).format(n=number), timeout=timeout)
    if way < 0.9:
        return conn.exec_query(rng.choice(EXTENDED), (str(number),), timeout=timeout)
    params = (str(number).encode(),)
    group = [m.Parse("", EXTENDED[0]), m.Bind(params=params), m.Execute()] * rng.choice([1, 1, 2])
    return conn.submit(m.encode(*group, m.Sync()), timeout=timeout)


async def caller(conn: AsyncConn, book: Book, numbers: Iterator[int], rng: random.Random) -> None:
    """Insert numbers until the connection has ended."""
    while conn.is_alive:
        number = next(numbers)
        try:
            if rng.random() < 0.03:
                conn.exec_query(rng.choice(BESIDE)).add_done_callback(lambda done: done.cancelled() or done.exception())
            reply = insert(conn, number, rng)
            if rng.random() < 0.1:
                asyncio.get_running_loop().call_later(rng.random() * 0.005, reply.cancel)
            book.note(number, await reply)
        except asyncio.CancelledError as end:
            if not reply.cancelled():
                raise
            book.note(number, end)
        except PgWireError as end:
            book.note(number, end)
        await asyncio.sleep(rng.random() * 0.002)


async def session(server: Postgres, admin: AsyncConn, book: Book, numbers: Iterator[int], rng: random.Random) -> None:
    """Run many callers on one connection for a while, then end it in a random way."""
    conn = await AsyncConn.connect(
        server.dsn, max_in_flight=rng.choice([1, 3, 256]), statement_cache_size=rng.choice([0, 2, 256])
    )
    callers = [asyncio.ensure_future(caller(conn, book, numbers, rng)) for _ in range(20)]
    await asyncio.wait(callers, timeout=0.1 + rng.random() * 0.1, return_when=asyncio.FIRST_COMPLETED)
    end = rng.choice(["close", "abort", "terminate", "terminate"])
    if end == "close":
        await conn.close()
    elif end == "abort":
        conn.abort()
    else:
        await admin.exec_query(f"select pg_terminate_backend({conn.backend_pid}, 5000)")
    await asyncio.gather(*callers)
    await conn.close()


@ends_clean(60)
async def test_the_table_holds_what_was_acknowledged_and_nothing_that_was_refused(server: Postgres) -> None:
    rng = repeatable()
    book, numbers = Book(), itertools.count(1)
    async with await AsyncConn.connect(server.dsn) as admin:
        await admin.simple_query(SCHEMA)
        for _ in range(10):
            await session(server, admin, book, numbers, rng)
        found = {int(n or b"") for (n,) in await admin.exec_query("select n from ledger")}
    print(book.ends)
    book.check(found)
    assert len(book.there) > 100 and len(book.absent) > 100
    assert any(TransactionError.__name__ in end for end in book.ends)
