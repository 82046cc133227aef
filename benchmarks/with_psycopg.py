"""psycopg: its asyncio connection, with prepared statements and binary results."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import islice
from typing import Any

from psycopg import AsyncConnection, AsyncCursor

from .work import CONNECTIONS, DEPTH, SCAN, SELECT, Connect, Fetch, Move, Task

QUERY = SELECT.format("%s").encode()
CHUNK = 1000  # rows that libpq returns at a time; one by one takes more than twice as long


async def _ask(cursor: AsyncCursor[Any], key: int) -> str:
    await cursor.execute(QUERY, (key,), prepare=True)
    row = await cursor.fetchone()
    assert row is not None
    value: str = row[0]
    return value


@asynccontextmanager
async def one() -> AsyncIterator[Task]:
    """One connection and one cursor, which is cheaper than a new cursor for each request."""
    async with await AsyncConnection.connect(autocommit=True) as conn:
        cursor = conn.cursor(binary=True)

        async def task(keys: Iterable[int]) -> str:
            value = ""
            for key in keys:
                value = await _ask(cursor, key)
            return value

        yield task


@asynccontextmanager
async def queue() -> AsyncIterator[Task]:
    """Cursors of several connections in a plain queue, without the safeguards of a pool."""
    cursors: asyncio.Queue[AsyncCursor[Any]] = asyncio.Queue()
    async with AsyncExitStack() as stack:
        for _ in range(CONNECTIONS):
            conn = await stack.enter_async_context(await AsyncConnection.connect(autocommit=True))
            cursors.put_nowait(conn.cursor(binary=True))

        async def task(keys: Iterable[int]) -> str:
            value = ""
            for key in keys:
                cursor = await cursors.get()
                value = await _ask(cursor, key)
                cursors.put_nowait(cursor)
            return value

        yield task


@asynccontextmanager
async def fetch() -> AsyncIterator[Fetch]:
    """Fetch all rows as tuples of Python objects."""
    async with await AsyncConnection.connect(autocommit=True) as conn:

        async def take() -> Sequence[Any]:
            cursor = conn.cursor(binary=True)
            await cursor.execute(SCAN.encode())
            return await cursor.fetchall()

        yield take


@asynccontextmanager
async def pipelines() -> AsyncIterator[Task]:
    """Pipelines with a cursor for each request, because each request has its own result."""
    async with await AsyncConnection.connect(autocommit=True) as conn:

        async def task(clock: Iterable[int]) -> str:
            value, keys = "", iter(clock)
            while some := list(islice(keys, DEPTH)):
                cursors = [conn.cursor(binary=True) for _ in some]
                async with conn.pipeline():
                    for cursor, key in zip(cursors, some, strict=True):
                        await cursor.execute(QUERY, (key,), prepare=True)
                value = [row[0] for cursor in cursors if (row := await cursor.fetchone())][-1]
            return value

        yield task


@asynccontextmanager
async def stream() -> AsyncIterator[Move]:
    """Stream the rows as they arrive, in libpq's chunks."""
    async with await AsyncConnection.connect(autocommit=True) as conn:

        async def move() -> int:
            count = 0
            async for _id, _amount, _name, _moment in conn.cursor(binary=True).stream(SCAN.encode(), size=CHUNK):
                count += 1
            return count

        yield move


@asynccontextmanager
async def connects() -> AsyncIterator[Connect]:
    """Connect and close."""

    async def connect() -> None:
        await (await AsyncConnection.connect(autocommit=True)).close()

    yield connect
