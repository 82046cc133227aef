"""pg_wired: one connection for any number of tasks, or a pool of a given size."""

from __future__ import annotations

import io
import sys
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from itertools import islice
from typing import Any

from pg_wired import AsyncConn, AsyncPool, ConnConfig, FormatCode, Notification, Rows
from pg_wired.connect import wire_conn

from .work import CHANNEL, COPIED, DEPTH, SCAN, SELECT, SETUP, TEXT, Connect, Fetch, Move, Query, Receive, Task

QUERY = SELECT.format("$1")


@asynccontextmanager
async def one() -> AsyncIterator[Task]:
    """One connection."""
    async with await AsyncConn.connect() as conn:
        yield _asking(conn)


@asynccontextmanager
async def pool(size: int) -> AsyncIterator[Task]:
    """A pool of `size` connections."""
    async with await AsyncPool.connect(size=size) as pool:
        yield _asking(pool)


def _asking(conn: AsyncConn | AsyncPool) -> Task:
    """Return a task that converts the value itself: pg_wired returns bytes, where the other drivers convert."""

    async def task(keys: Iterable[int]) -> str:
        value = ""
        for key in keys:
            rows = await conn.exec_query(QUERY, (str(key),))
            value = _text(rows)
        return value

    return task


def _text(rows: Rows) -> str:
    raw = rows[0][0]
    assert raw is not None
    return raw.decode()


@asynccontextmanager
async def transactions(size: int) -> AsyncIterator[Task]:
    """Transactions by `exec_transaction`, on one connection, or on a pool if `size` is greater than 1."""
    async with await (AsyncConn.connect() if size == 1 else AsyncPool.connect(size=size)) as conn:

        async def task(keys: Iterable[int]) -> str:
            value = ""
            for key in keys:
                value = _text(await conn.exec_transaction(SETUP, QUERY, (str(key),)))
            return value

        yield task


@asynccontextmanager
async def pipelines(depth: int = DEPTH) -> AsyncIterator[Task]:
    """Pipelines of `depth` queries, one after the other."""
    async with await AsyncConn.connect() as conn:

        async def task(clock: Iterable[int]) -> str:
            value, keys = "", iter(clock)
            while some := list(islice(keys, depth)):
                async with conn.pipeline() as pipeline:
                    items = [pipeline.query(QUERY, (str(key),)) for key in some]
                value = [_text(await item) for item in items][-1]
            return value

        yield task


@asynccontextmanager
async def ask() -> AsyncIterator[Query]:
    """Any query, with its result in binary."""
    async with await AsyncConn.connect() as conn:

        async def take(sql: str) -> Rows:
            return await conn.exec_query(sql, result_formats=FormatCode.BINARY)

        yield take


@asynccontextmanager
async def connects() -> AsyncIterator[Connect]:
    """Connect and close as a pool does, through one connector, which keeps the salted password."""
    connector = wire_conn.connector(ConnConfig.parse(""))

    async def connect() -> None:
        await AsyncConn(await connector.connect()).close()

    yield connect


@asynccontextmanager
async def lone_connects() -> AsyncIterator[Connect]:
    """Connect and close without a common connector, as a program that connects once does."""

    async def connect() -> None:
        await (await AsyncConn.connect()).close()

    yield connect


def columns() -> AbstractAsyncContextManager[Fetch]:
    """Fetch all rows in binary, as columns: each has a body, offsets, and the positions of nulls."""
    return _fetching(Columns)


def kept() -> AbstractAsyncContextManager[Fetch]:
    """Fetch all rows in binary, as a list of tuples that exist at the same time, as the columns do."""
    return _fetching(Kept)


def fetch() -> AbstractAsyncContextManager[Fetch]:
    """Fetch all rows in binary; the values stay bytes."""
    return _fetching(lambda rows: rows)


@asynccontextmanager
async def _fetching(shown: Callable[[Rows], Sequence[Any]]) -> AsyncIterator[Fetch]:
    async with await AsyncConn.connect() as conn:

        async def take() -> Sequence[Any]:
            return shown(await conn.exec_query(SCAN, result_formats=FormatCode.BINARY))

        yield take


class Kept(Sequence[Any]):
    """A sequence of rows. Iterating over it makes a list of them first."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: Any) -> Any:
        return self._rows[index]

    def __iter__(self) -> Iterator[Any]:
        return iter(list(self._rows))


class Columns(Kept):
    """The same rows as columns. Iterating over it makes the four columns, and yields them once."""

    def __iter__(self) -> Iterator[Any]:
        yield self._rows.columns()


@asynccontextmanager
async def stream() -> AsyncIterator[Move]:
    """Stream the rows one by one, in binary."""
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
    """Stream the rows in batches as they arrive, in binary."""
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
    """COPY out; the buffers are discarded as they arrive."""
    async with await AsyncConn.connect() as conn:

        async def move() -> int:
            async with conn.copy_out(f"COPY ({SCAN}) TO STDOUT") as data:
                async for _ in data:
                    pass
            return data.row_count

        yield move


@asynccontextmanager
async def copy_in() -> AsyncIterator[Move]:
    """COPY in from a file in memory."""
    async with await AsyncConn.connect() as conn:
        await conn.simple_query(f"TRUNCATE {COPIED}")
        text = TEXT.read_bytes()
        yield lambda: conn.copy_in(f"COPY {COPIED} FROM STDIN", io.BytesIO(text))


@asynccontextmanager
async def receive() -> AsyncIterator[Receive]:
    """Receive notifications through a receiver with room for all of them."""
    async with await AsyncConn.connect() as conn:
        receiver = conn.take_notification_receiver(capacity=sys.maxsize)
        await conn.listen(CHANNEL)
        async with conn.exclusive() as mine:
            await mine.simple_query("BEGIN")

            async def take(count: int) -> None:
                await mine.simple_query("COMMIT")
                async for event in receiver:
                    assert isinstance(event, Notification)
                    count -= 1
                    if not count:
                        break

            yield take
