"""asyncpg, in the ways that its documentation shows, and in the fastest that was found."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import asyncpg  # type: ignore[import-untyped]

from .work import CONNECTIONS, SCAN, SELECT, Clock, Fetch, Task

QUERY = SELECT.format("$1")


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
