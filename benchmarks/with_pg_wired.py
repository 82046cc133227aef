"""pg_wired: one connection, whatever the number of tasks; two where it says so."""

from __future__ import annotations

import io
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import cycle, islice

from pg_wired import AsyncConn, FormatCode, Notification, Rows

from .work import CHANNEL, COPIED, DEPTH, SCAN, SELECT, SETUP, TEXT, Clock, Fetch, Move, Receive, Task

QUERY = SELECT.format("$1")


@asynccontextmanager
async def one() -> AsyncIterator[Task]:
    """Values are bytes here; what the others convert by themselves, the task converts."""
    async with await AsyncConn.connect() as conn:

        async def task(clock: Clock) -> str:
            value = ""
            for key in clock:
                rows = await conn.exec_query(QUERY, (str(key),))
                value = _text(rows)
            return value

        yield task


def _text(rows: Rows) -> str:
    raw = rows[0][0]
    assert raw is not None
    return raw.decode()


@asynccontextmanager
async def transactions() -> AsyncIterator[Task]:
    """exec_transaction, on one connection."""
    async with await AsyncConn.connect() as conn:
        yield _transacting(conn)


@asynccontextmanager
async def transactions_on_two() -> AsyncIterator[Task]:
    """The same on two: every other task has the second one."""
    async with await AsyncConn.connect() as conn, await AsyncConn.connect() as second:
        tasks = cycle([_transacting(conn), _transacting(second)])
        yield lambda clock: next(tasks)(clock)


def _transacting(conn: AsyncConn) -> Task:
    async def task(clock: Clock) -> str:
        value = ""
        for key in clock:
            value = _text(await conn.exec_transaction(SETUP, QUERY, (str(key),)))
        return value

    return task


@asynccontextmanager
async def pipelines() -> AsyncIterator[Task]:
    """One group after the other."""
    async with await AsyncConn.connect() as conn:

        async def task(clock: Clock) -> str:
            value, keys = "", iter(clock)
            while some := list(islice(keys, DEPTH)):
                async with conn.pipeline() as pipeline:
                    items = [pipeline.query(QUERY, (str(key),)) for key in some]
                value = [_text(await item) for item in items][-1]
            return value

        yield task


@asynccontextmanager
async def fetch() -> AsyncIterator[Fetch]:
    """All rows in binary; the values stay bytes."""
    async with await AsyncConn.connect() as conn:

        async def take() -> Rows:
            return await conn.exec_query(SCAN, result_formats=FormatCode.BINARY)

        yield take


@asynccontextmanager
async def stream() -> AsyncIterator[Move]:
    """Row by row, in binary."""
    async with await AsyncConn.connect() as conn:

        async def move() -> int:
            count = 0
            async with conn.stream(SCAN, result_formats=FormatCode.BINARY) as rows:
                async for _id, _amount, _name, _moment in rows:
                    count += 1
            return count

        yield move


@asynccontextmanager
async def stream_batches() -> AsyncIterator[Move]:
    """The same in lists, as they come."""
    async with await AsyncConn.connect() as conn:

        async def move() -> int:
            count = 0
            async with conn.stream(SCAN, result_formats=FormatCode.BINARY) as rows:
                async for batch in rows.batches():
                    for _id, _amount, _name, _moment in batch:
                        count += 1
            return count

        yield move


@asynccontextmanager
async def copy_out() -> AsyncIterator[Move]:
    """Buffers as they come."""
    async with await AsyncConn.connect() as conn:

        async def move() -> int:
            async with conn.copy_out(f"COPY ({SCAN}) TO STDOUT") as data:
                async for _ in data:
                    pass
            return data.row_count

        yield move


@asynccontextmanager
async def copy_in() -> AsyncIterator[Move]:
    """From a file in memory."""
    async with await AsyncConn.connect() as conn:
        await conn.simple_query(f"TRUNCATE {COPIED}")
        text = TEXT.read_bytes()
        yield lambda: conn.copy_in(f"COPY {COPIED} FROM STDIN", io.BytesIO(text))


@asynccontextmanager
async def receive() -> AsyncIterator[Receive]:
    """The one receiver, with room for all."""
    async with await AsyncConn.connect() as conn:
        receiver = conn.take_notification_receiver(capacity=sys.maxsize)
        await conn.listen(CHANNEL)
        async with conn.exclusive() as mine:
            await mine.simple_query("BEGIN")

            async def take(count: int) -> None:
                await mine.simple_query("COMMIT")
                for _ in range(count):
                    assert isinstance(await anext(receiver), Notification)

            yield take
