"""Latencies under a given load: requests fall due at a fixed rate, whether or not those before are answered.

Each is timed from when it was due, not from when somebody got around to it: a client that falls behind shows it.
"""

from __future__ import annotations

import asyncio
import heapq
import time
from itertools import count

from .work import POINTS, Metrics, Task

SHARE = 0.8  # of what the client gets through
FACTOR = 0.5  # of the time, to find out how much that is


class Pace:
    """Wakes those whose time has come. It looks at the clock at each turn of the loop: timers are too coarse."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._waiting: list[tuple[float, int, asyncio.Future[None]]] = []
        self._numbers = count()

    def until(self, due: float) -> asyncio.Future[None]:
        """Done in the next turn at the earliest: that costs the same whether or not the time has come already."""
        future = self._loop.create_future()
        heapq.heappush(self._waiting, (due, next(self._numbers), future))
        return future

    async def keep(self) -> None:
        """Until it is cancelled."""
        while True:
            now = time.perf_counter()
            while self._waiting and self._waiting[0][0] <= now:
                future = heapq.heappop(self._waiting)[2]
                if not future.done():
                    future.set_result(None)
            await asyncio.sleep(0)


async def _paced(task: Task, tasks: int, seconds: float, interval: float) -> list[float]:
    """Let so many tasks ask, one request each `interval` seconds between them; how long each took from its due time."""
    pace, taken = Pace(), list[float]()
    keeper = asyncio.ensure_future(pace.keep())
    begin = time.perf_counter()

    async def worker(number: int) -> None:
        due, key, is_over = begin + number * interval, number, False
        while not is_over:  # each asks once at least, however busy the machine
            await pace.until(due)
            await task((key % POINTS + 1,))
            taken.append(time.perf_counter() - due)
            due, key = due + tasks * interval, key + tasks
            is_over = time.perf_counter() - begin >= seconds

    try:
        await asyncio.gather(*map(worker, range(tasks)))
    finally:
        keeper.cancel()
    return taken


async def latencies(task: Task, tasks: int, seconds: float) -> Metrics:
    """Microseconds that half, and 99 of 100, of the requests need at most, at SHARE of the possible rate."""
    begin = time.perf_counter()
    possible = await _paced(task, tasks, seconds * FACTOR, 0.0)
    interval = (time.perf_counter() - begin) / len(possible) / SHARE
    taken = sorted(await _paced(task, tasks, seconds, interval))
    half, most = (taken[int(share * (len(taken) - 1))] * 1e6 for share in (0.5, 0.99))
    return {"p50_us": half, "p99_us": most, "load": 1 / interval / 1000}
