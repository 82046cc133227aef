"""pg_wired: one connection, whatever the number of tasks; or a pool of as many as it says."""

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
    """So many connections in a pool."""
    async with await AsyncPool.connect(size=size) as pool:
        yield _asking(pool)


def _asking(conn: AsyncConn | AsyncPool) -> Task:
    """Values are bytes here; what the others convert by themselves, the task converts."""

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
    """exec_transaction, on one connection or on a pool of more."""
    async with await (AsyncConn.connect() if size == 1 else AsyncPool.connect(size=size)) as conn:

        async def task(keys: Iterable[int]) -> str:
            value = ""
            for key in keys:
                value = _text(await conn.exec_transaction(SETUP, QUERY, (str(key),)))
            return value

        yield task


@asynccontextmanager
async def pipelines(depth: int = DEPTH) -> AsyncIterator[Task]:
    """One group of so many after the other."""
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
    """Any query, its result in binary."""
    async with await AsyncConn.connect() as conn:

        async def take(sql: str) -> Rows:
            return await conn.exec_query(sql, result_formats=FormatCode.BINARY)

        yield take


@asynccontextmanager
async def connects() -> AsyncIterator[Connect]:
    """As a pool does it: one connector, which keeps the salted password."""
    connector = wire_conn.connector(ConnConfig.parse(""))

    async def connect() -> None:
        await AsyncConn(await connector.connect()).close()

    yield connect


@asynccontextmanager
async def lone_connects() -> AsyncIterator[Connect]:
    """Each on its own, as a program does that connects once."""

    async def connect() -> None:
        await (await AsyncConn.connect()).close()

    yield connect


def columns() -> AbstractAsyncContextManager[Fetch]:
    """All rows in binary, as columns: each a body, offsets, and what is null."""
    return _fetching(Columns)


def kept() -> AbstractAsyncContextManager[Fetch]:
    """All rows in binary, as a list of tuples that are all there at the same time, as the columns are."""
    return _fetching(Kept)


def fetch() -> AbstractAsyncContextManager[Fetch]:
    """All rows in binary; the values stay bytes."""
    return _fetching(lambda rows: rows)


@asynccontextmanager
async def _fetching(shown: Callable[[Rows], Sequence[Any]]) -> AsyncIterator[Fetch]:
    async with await AsyncConn.connect() as conn:

        async def take() -> Sequence[Any]:
            return shown(await conn.exec_query(SCAN, result_formats=FormatCode.BINARY))

        yield take


class Kept(Sequence[Any]):
    """As long as its rows. To touch it is to make a list of them, and to go through that."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: Any) -> Any:
        return self._rows[index]

    def __iter__(self) -> Iterator[Any]:
        return iter(list(self._rows))


class Columns(Kept):
    """To touch it is to make the columns, and to take each of them once: four."""

    def __iter__(self) -> Iterator[Any]:
        yield self._rows.columns()


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
                async for event in receiver:
                    assert isinstance(event, Notification)
                    count -= 1
                    if not count:
                        break

            yield take
