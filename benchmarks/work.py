"""What every driver is asked to do, and the clock that ends it. Knows no driver."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
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
    """Gives tasks keys to ask for until `seconds` have passed, and counts them: one for each request."""

    def __init__(self, seconds: float) -> None:
        self.requests = 0
        self._is_over = False
        asyncio.get_running_loop().call_later(seconds, self._end)

    def _end(self) -> None:
        self._is_over = True

    def __iter__(self) -> Iterator[int]:
        for key in cycle(range(1, POINTS + 1)):
            if self._is_over:
                return
            self.requests += 1
            yield key


# What a driver's module opens: a task that asks until the clock ends it and returns the last value; a fetch of all.
Task: TypeAlias = Callable[[Clock], Awaitable[str]]
Fetch: TypeAlias = Callable[[], Awaitable[Sequence[Any]]]
# Or moves a table's rows and returns how many; or, having listened in a transaction, ends it and takes so many
# notifications.
Move: TypeAlias = Callable[[], Awaitable[int]]
Receive: TypeAlias = Callable[[int], Awaitable[None]]
# What a sample reports, under the keys that the plan lists.
Metrics: TypeAlias = dict[str, float]
