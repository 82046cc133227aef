"""pg_wired: one connection, whatever the number of tasks."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from pg_wired import AsyncConn, FormatCode, Rows

from .work import SCAN, SELECT, Clock, Fetch, Task

QUERY = SELECT.format("$1")


@asynccontextmanager
async def one() -> AsyncIterator[Task]:
    """Values are bytes here; what the others convert by themselves, the task converts."""
    async with await AsyncConn.connect() as conn:

        async def task(clock: Clock) -> str:
            value = ""
            for key in clock:
                rows = await conn.exec_query(QUERY, (str(key),))
                raw = rows[0][0]
                assert raw is not None
                value = raw.decode()
            return value

        yield task


@asynccontextmanager
async def fetch() -> AsyncIterator[Fetch]:
    """All rows in binary; the values stay bytes."""
    async with await AsyncConn.connect() as conn:

        async def take() -> Rows:
            return await conn.exec_query(SCAN, result_formats=FormatCode.BINARY)

        yield take
