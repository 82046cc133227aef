"""Many tasks that use a pool continuously, whatever happens to it, and a record of how each call ended."""

from __future__ import annotations

import asyncio
import itertools
import random
import time

from pg_wired import AsyncConn, AsyncPool, PgWireError
from rig.checks import until
from tests.ledger import Book
from tests.servers.poolers import own_answer

TIMEOUT = 15.0  # seconds: the timeout of each call
LATE = 10.0  # seconds past its timeout before a call counts as hung; an idle machine keeps deadlines to milliseconds


class Crowd:
    """`async with Crowd(pool, rng) as crowd`: `size` tasks until the block ends. Each call has to end in time.

    `writes` is the share of calls that insert a new number; each other call checks an answer that is known.
    """

    def __init__(self, pool: AsyncPool, rng: random.Random, size: int = 100, writes: float = 1.0) -> None:
        self.pool = pool
        self.rng = rng
        self.size = size
        self.writes = writes
        self.book = Book()
        self.answers = 0
        self.late = 0.0
        self._numbers = itertools.count(1)
        self._is_over = False
        self._begun: dict[int, float] = {}

    async def __aenter__(self) -> Crowd:
        self._tasks = [asyncio.create_task(self._work(number)) for number in range(self.size)]
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._is_over = True
        _, hung = await asyncio.wait(self._tasks, timeout=TIMEOUT + LATE)
        for task in hung:
            task.cancel()
        ends = await asyncio.gather(*self._tasks, return_exceptions=True)
        assert not hung, f"{len(hung)} calls hang: {[task.get_stack() for task in hung][:3]}"
        assert self.late < LATE, f"a call ended {self.late} s after its deadline"
        if failures := [end for end in ends if isinstance(end, BaseException)]:
            raise failures[0]

    async def done(self, more: int, seconds: float = 30.0) -> None:
        """Wait until that many more calls have succeeded."""
        goal = self.answers + more
        await until(lambda: self.answers >= goal, f"{more} more answers; so far {self.book.ends}", seconds)

    async def _work(self, number: int) -> None:
        while not self._is_over:
            call = self._write if self.rng.random() < self.writes else self._ask
            begin = time.monotonic()
            try:
                await call()
                self.answers += 1
            except PgWireError as error:
                self.book.ends[f"call: {type(error).__name__} {error.outcome.name}"] += 1
                await asyncio.sleep(0.01)  # a pool that is down refuses some calls at once
            self.late = max(self.late, time.monotonic() - begin - TIMEOUT)

    async def _write(self) -> None:
        number = next(self._numbers)
        insert = "insert into ledger values ($1)"
        way = self.rng.random()
        try:
            if way < 0.8:
                await self.pool.exec_query(insert, (str(number),), timeout=TIMEOUT)
            elif way < 0.9:
                await self.pool.simple_query(f"insert into ledger values ({number})", timeout=TIMEOUT)
            else:
                await self.pool.exec_transaction("set local work_mem = '1MB'", insert, (str(number),), timeout=TIMEOUT)
        except PgWireError as error:
            self.book.note(number, error)
            raise
        self.book.note(number, None)

    async def _ask(self) -> None:
        if self.rng.random() < 0.9:
            await own_answer(self.pool)
            return
        async with self.pool.exclusive(acquire_timeout=TIMEOUT) as mine:
            await mine.simple_query("begin", timeout=TIMEOUT)
            await own_answer(mine)


async def new_ledger(dsn: str, is_unique: bool) -> None:
    """Create the table. With a key, writing a number twice is refused; without one, the number is found twice."""
    async with await AsyncConn.connect(dsn) as admin:
        key = "primary key" if is_unique else ""
        await admin.simple_query(f"drop table if exists ledger; create table ledger(n int {key})")


async def ledger(dsn: str) -> list[int]:
    async with await AsyncConn.connect(dsn) as admin:
        [rows] = await admin.simple_query("select n from ledger")
        return [int(row[0] or b"") for row in rows]


async def whole(pool: AsyncPool, seconds: float = 30.0) -> float:
    """Wait until all its connections are up; return how many seconds that took."""
    return await until(lambda: pool.alive_count == pool.size, f"a whole pool: {pool.stats()}", seconds)


async def well(pool: AsyncPool, seconds: float = 30.0) -> float:
    """Wait until the pool is whole and answers a hundred queries without a failure; return the seconds it took."""
    begin = time.monotonic()
    while True:
        await whole(pool, seconds)
        asked = [own_answer(pool) for _ in range(100)]
        failures = [end for end in await asyncio.gather(*asked, return_exceptions=True) if not isinstance(end, int)]
        if not failures:
            return time.monotonic() - begin
        assert isinstance(failures[0], PgWireError) and time.monotonic() - begin < seconds, failures[0]
