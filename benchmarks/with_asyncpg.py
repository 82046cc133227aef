"""asyncpg, in the ways that its documentation shows, and in the fastest that was found."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import asyncpg  # type: ignore[import-untyped]

from .work import CHANNEL, CONNECTIONS, COPIED, SCAN, SELECT, SETUP, TEXT, Clock, Fetch, Move, Receive, Task

QUERY = SELECT.format("$1")
PREFETCH = 1000  # rows for each round trip of a cursor; its default of 50 takes a third longer, 10,000 no less


@asynccontextmanager
async def one() -> AsyncIterator[Task]:
    """One connection and a prepared statement."""
    conn = await asyncpg.connect()
    statement = await conn.prepare(QUERY)

    async def task(clock: Clock) -> str:
        value = ""
        for key in clock:
            value = await statement.fetchval(key)
        return value

    yield task
    await conn.close()


@asynccontextmanager
async def pool_as_it_comes() -> AsyncIterator[Task]:
    """A pool that resets a connection after each use, by a query of its own: the default."""
    async with asyncpg.create_pool(min_size=CONNECTIONS, max_size=CONNECTIONS) as pool:
        yield _through(pool)


@asynccontextmanager
async def pool() -> AsyncIterator[Task]:
    """A pool with its documented option `reset` in use, to do nothing: as little as a shared connection does."""
    async with asyncpg.create_pool(min_size=CONNECTIONS, max_size=CONNECTIONS, reset=_leave) as pool:
        yield _through(pool)


def _through(pool: Any) -> Task:
    async def task(clock: Clock) -> str:
        value = ""
        for key in clock:
            value = await pool.fetchval(QUERY, key)
        return value

    return task


async def _leave(conn: object) -> None:
    pass


@asynccontextmanager
async def transactions() -> AsyncIterator[Task]:
    """The fewest round trips: three."""
    async with asyncpg.create_pool(min_size=CONNECTIONS, max_size=CONNECTIONS, reset=_leave) as pool:

        async def task(clock: Clock) -> str:
            value = ""
            for key in clock:
                async with pool.acquire() as conn:
                    await conn.execute(f"BEGIN; {SETUP}")
                    value = await conn.fetchval(QUERY, key)
                    await conn.execute("COMMIT")
            return value

        yield task


@asynccontextmanager
async def documented_transactions() -> AsyncIterator[Task]:
    """As the documentation has it, which also rolls back where something fails; four round trips."""
    async with asyncpg.create_pool(min_size=CONNECTIONS, max_size=CONNECTIONS, reset=_leave) as pool:

        async def task(clock: Clock) -> str:
            value = ""
            for key in clock:
                async with pool.acquire() as conn, conn.transaction():
                    await conn.execute(SETUP)
                    value = await conn.fetchval(QUERY, key)
            return value

        yield task


@asynccontextmanager
async def queue() -> AsyncIterator[Task]:
    """Prepared statements of as many connections in a bare queue, without what a pool looks after."""
    conns = [await asyncpg.connect() for _ in range(CONNECTIONS)]
    statements: asyncio.Queue[Any] = asyncio.Queue()
    for conn in conns:
        statements.put_nowait(await conn.prepare(QUERY))

    async def task(clock: Clock) -> str:
        value = ""
        for key in clock:
            statement = await statements.get()
            value = await statement.fetchval(key)
            statements.put_nowait(statement)
        return value

    yield task
    for conn in conns:
        await conn.close()


@asynccontextmanager
async def fetch() -> AsyncIterator[Fetch]:
    """All rows as records of Python objects."""
    conn = await asyncpg.connect()

    async def take() -> Sequence[Any]:
        rows: Sequence[Any] = await conn.fetch(SCAN)
        return rows

    yield take
    await conn.close()


@asynccontextmanager
async def stream() -> AsyncIterator[Move]:
    """A cursor, which needs a transaction."""
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
    """Into a coroutine that throws it away."""
    conn = await asyncpg.connect()

    async def throw_away(data: bytes) -> None:
        pass

    async def move() -> int:
        return _count(await conn.copy_from_query(SCAN, output=throw_away))

    yield move
    await conn.close()


@asynccontextmanager
async def copy_in() -> AsyncIterator[Move]:
    """From a file in memory."""
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
    """A listener that counts."""
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
