"""psycopg: its asyncio connection, prepared statements, binary results."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from psycopg import AsyncConnection, AsyncCursor

from .work import CONNECTIONS, SCAN, SELECT, Clock, Fetch, Task

QUERY = SELECT.format("%s").encode()


async def _ask(cursor: AsyncCursor[Any], key: int) -> str:
    await cursor.execute(QUERY, (key,), prepare=True)
    row = await cursor.fetchone()
    assert row is not None
    value: str = row[0]
    return value


@asynccontextmanager
async def one() -> AsyncIterator[Task]:
    """One connection and one cursor, which is cheaper than a new one each time."""
    async with await AsyncConnection.connect(autocommit=True) as conn:
        cursor = conn.cursor(binary=True)

        async def task(clock: Clock) -> str:
            value = ""
            for key in clock:
                value = await _ask(cursor, key)
            return value

        yield task


@asynccontextmanager
async def queue() -> AsyncIterator[Task]:
    """Cursors of several connections in a bare queue, without what a pool looks after."""
    cursors: asyncio.Queue[AsyncCursor[Any]] = asyncio.Queue()
    async with AsyncExitStack() as stack:
        for _ in range(CONNECTIONS):
            conn = await stack.enter_async_context(await AsyncConnection.connect(autocommit=True))
            cursors.put_nowait(conn.cursor(binary=True))

        async def task(clock: Clock) -> str:
            value = ""
            for key in clock:
                cursor = await cursors.get()
                value = await _ask(cursor, key)
                cursors.put_nowait(cursor)
            return value

        yield task


@asynccontextmanager
async def fetch() -> AsyncIterator[Fetch]:
    """All rows as tuples of Python objects."""
    async with await AsyncConnection.connect(autocommit=True) as conn:

        async def take() -> Sequence[Any]:
            cursor = conn.cursor(binary=True)
            await cursor.execute(SCAN.encode())
            return await cursor.fetchall()

        yield take
