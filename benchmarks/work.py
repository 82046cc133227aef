"""What every driver is asked to do, and the clock that ends it. Knows no driver."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any, TypeAlias

ROOT = Path(__file__).parents[1]
OUTPUT = ROOT / "build/bench"

POINTS = 10_000  # rows to pick from: small enough to stay in the server's memory, too many for one page
VALUE_LENGTH = 32  # of md5(): a short text, as keys and names are
CONNECTIONS = 10  # of those who need several: asyncpg's own default for a pool

# The parameter is written in each driver's own way.
SELECT = "SELECT value FROM points WHERE id = {}"
SCAN = "SELECT id, amount, name, moment FROM events"
SETUP = "SET LOCAL statement_timeout = '10s'"  # of a transaction: the kind of thing that is set for one request alone
DEPTH = 50  # requests of a pipeline, in flight on one connection

# What is copied: a table in COPY's text format, out of `events` and into `copied`.
TEXT = OUTPUT / "events.txt"
COPIED = "copied"
CHANNEL = "bench"


class Clock:
    """Gives tasks keys to ask for, until `seconds` after the first, and counts them: one for each request."""

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


# What a driver's module opens. A task that asks for one key after the other, and returns the last value.
Task: TypeAlias = Callable[[Iterable[int]], Awaitable[str]]
# A fetch of all rows of a table, or of those of any query.
Fetch: TypeAlias = Callable[[], Awaitable[Sequence[Any]]]
Query: TypeAlias = Callable[[str], Awaitable[Sequence[Any]]]
# Or moves a table's rows and returns how many; or logs in and out; or, having listened in a transaction, ends it and
# takes so many notifications.
Move: TypeAlias = Callable[[], Awaitable[int]]
Connect: TypeAlias = Callable[[], Awaitable[None]]
Receive: TypeAlias = Callable[[int], Awaitable[None]]
# What a sample reports, under the keys that the lines list.
Metrics: TypeAlias = dict[str, float]


async def ask(task: Task, tasks: int, clock: Clock) -> None:
    """Let so many tasks ask until the clock ends it; all of their requests are answered then."""
    values = await asyncio.gather(*[task(clock) for _ in range(tasks)])
    asked = [value for value in values if value]  # the clock may end before the last of many tasks has begun
    assert asked and all(len(value) == VALUE_LENGTH for value in asked), values[0]
