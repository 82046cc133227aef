"""asyncpg, used as its documentation shows, and in the fastest ways that were found."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import asyncpg  # type: ignore[import-untyped]

from .work import CHANNEL, CONNECTIONS, COPIED, SCAN, SELECT, SETUP, TEXT, Connect, Fetch, Move, Query, Receive, Task

QUERY = SELECT.format("$1")
PREFETCH = 1000  # rows for each round trip of a cursor; the default of 50 takes a third longer, 10,000 no less


@asynccontextmanager
async def one() -> AsyncIterator[Task]:
    """One connection and a prepared statement."""
    conn = await asyncpg.connect()
    statement = await conn.prepare(QUERY)

    async def task(keys: Iterable[int]) -> str:
        value = ""
        for key in keys:
            value = await statement.fetchval(key)
        return value

    yield task
    await conn.close()


def _pool(size: int = CONNECTIONS, **options: Any) -> Any:
    return asyncpg.create_pool(min_size=size, max_size=size, **options)


@asynccontextmanager
async def pool(size: int = CONNECTIONS) -> AsyncIterator[Task]:
    """A pool with default options, which sends a query to reset a connection after each use."""
    async with _pool(size) as pool:
        yield _through(pool)


@asynccontextmanager
async def pool_without_reset() -> AsyncIterator[Task]:
    """A pool whose documented option `reset` is set to do nothing, like a shared connection of pg_wired."""
    async with _pool(reset=_leave) as pool:
        yield _through(pool)


def _through(pool: Any) -> Task:
    async def task(keys: Iterable[int]) -> str:
        value = ""
        for key in keys:
            value = await pool.fetchval(QUERY, key)
        return value

    return task


async def _leave(conn: object) -> None:
    pass


@asynccontextmanager
async def transactions() -> AsyncIterator[Task]:
    """Transactions in the fewest round trips: three, and the pool's reset."""
    async with _pool() as pool:
        yield _transacting(pool)


@asynccontextmanager
async def transactions_without_reset() -> AsyncIterator[Task]:
    """Transactions in three round trips, without the pool's reset."""
    async with _pool(reset=_leave) as pool:
        yield _transacting(pool)


def _transacting(pool: Any) -> Task:
    async def task(keys: Iterable[int]) -> str:
        value = ""
        for key in keys:
            async with pool.acquire() as conn:
                await conn.execute(f"BEGIN; {SETUP}")
                value = await conn.fetchval(QUERY, key)
                await conn.execute("COMMIT")
        return value

    return task


@asynccontextmanager
async def documented_transactions() -> AsyncIterator[Task]:
    """Transactions as the documentation shows them, with a rollback after errors: four round trips and the reset."""
    async with _pool() as pool:

        async def task(keys: Iterable[int]) -> str:
            value = ""
            for key in keys:
                async with pool.acquire() as conn, conn.transaction():
                    await conn.execute(SETUP)
                    value = await conn.fetchval(QUERY, key)
            return value

        yield task


@asynccontextmanager
async def ask() -> AsyncIterator[Query]:
    """Any query."""
    conn = await asyncpg.connect()
    yield conn.fetch
    await conn.close()


@asynccontextmanager
async def connects() -> AsyncIterator[Connect]:
    """Connect and close."""

    async def connect() -> None:
        await (await asyncpg.connect()).close()

    yield connect


@asynccontextmanager
async def fetch() -> AsyncIterator[Fetch]:
    """Fetch all rows as records of Python objects."""
    conn = await asyncpg.connect()

    async def take() -> Sequence[Any]:
        rows: Sequence[Any] = await conn.fetch(SCAN)
        return rows

    yield take
    await conn.close()


@asynccontextmanager
async def stream() -> AsyncIterator[Move]:
    """Read the rows through a cursor, which needs a transaction."""
    conn = await asyncpg.connect()

    async def move() -> int:
        count = 0
        async with conn.transaction():
            async for _id, _amount, _name, _moment in conn.cursor(SCAN, prefetch=PREFETCH):
                count += 1
        return count

    yield move
    await conn.close()


@asynccontextmanager
async def copy_out() -> AsyncIterator[Move]:
    """COPY out to a coroutine that discards the data."""
    conn = await asyncpg.connect()

    async def throw_away(data: bytes) -> None:
        pass

    async def move() -> int:
        return _count(await conn.copy_from_query(SCAN, output=throw_away))

    yield move
    await conn.close()


@asynccontextmanager
async def copy_in() -> AsyncIterator[Move]:
    """COPY in from a file in memory."""
    conn = await asyncpg.connect()
    await conn.execute(f"TRUNCATE {COPIED}")
    text = TEXT.read_bytes()

    async def move() -> int:
        return _count(await conn.copy_to_table(COPIED, source=io.BytesIO(text), format="text"))

    yield move
    await conn.close()


def _count(tag: str) -> int:
    return int(tag.removeprefix("COPY "))


@asynccontextmanager
async def receive() -> AsyncIterator[Receive]:
    """Count notifications in a listener."""
    conn = await asyncpg.connect()
    received, wanted = 0, -1
    last = asyncio.get_running_loop().create_future()

    def listener(*notification: object) -> None:
        nonlocal received
        received += 1
        if received == wanted:
            last.set_result(None)

    await conn.add_listener(CHANNEL, listener)
    await conn.execute("BEGIN")

    async def take(count: int) -> None:
        nonlocal wanted
        wanted = count
        await conn.execute("COMMIT")
        await last

    yield take
    await conn.close()
