"""The work that every driver does, and the clock that ends it. It knows no driver."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any, TypeAlias

ROOT = Path(__file__).parents[1]
OUTPUT = ROOT / "build/bench"

POINTS = 10_000  # rows to select from: few enough to stay in the server's memory, too many for one page
VALUE_LENGTH = 32  # characters of an md5() result: a short text, like keys and names
CONNECTIONS = 10  # for drivers that need several; the default of asyncpg's pool

# Each driver writes the parameter in its own way.
SELECT = "SELECT value FROM points WHERE id = {}"
SCAN = "SELECT id, amount, name, moment FROM events"
SETUP = "SET LOCAL statement_timeout = '10s'"  # in a transaction: typical of a setting for one request only
DEPTH = 50  # requests of a pipeline, in flight on one connection

# The data for COPY: rows of `events` in text format, and the table that they are copied into.
TEXT = OUTPUT / "events.txt"
COPIED = "copied"
CHANNEL = "bench"


class Clock:
    """Gives keys to tasks, one for each request, and counts them. It stops `seconds` seconds after the first key."""

    def __init__(self, seconds: float) -> None:
        self.requests = 0
        self._seconds = seconds
        self._is_over = False

    def _end(self) -> None:
        self._is_over = True

    def __iter__(self) -> Iterator[int]:
        for key in cycle(range(1, POINTS + 1)):
            if self._is_over:
                return
            if not self.requests:
                asyncio.get_running_loop().call_later(self._seconds, self._end)
            self.requests += 1
            yield key


# The functions that a driver's module opens. A Task selects one key after the other, and returns the last value.
Task: TypeAlias = Callable[[Iterable[int]], Awaitable[str]]
# A Fetch returns all rows of a table, a Query those of any SQL query.
Fetch: TypeAlias = Callable[[], Awaitable[Sequence[Any]]]
Query: TypeAlias = Callable[[str], Awaitable[Sequence[Any]]]
# A Move moves a table's rows and returns their number. A Connect logs in and closes. A Receive ends the transaction in
# which its connection listens, and waits for the given number of notifications.
Move: TypeAlias = Callable[[], Awaitable[int]]
Connect: TypeAlias = Callable[[], Awaitable[None]]
Receive: TypeAlias = Callable[[int], Awaitable[None]]
# The values that a sample reports, under the keys that lines.py lists.
Metrics: TypeAlias = dict[str, float]


async def ask(task: Task, tasks: int, clock: Clock) -> None:
    """Run `tasks` tasks until the clock stops. When it returns, all of their requests are answered."""
    values = await asyncio.gather(*[task(clock) for _ in range(tasks)])
    asked = [value for value in values if value]  # the clock may stop before the last of many tasks has begun
    assert asked and all(len(value) == VALUE_LENGTH for value in asked), values[0]
