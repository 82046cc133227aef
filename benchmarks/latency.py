"""Latencies under a given load: requests become due at a fixed rate, whether or not earlier ones are answered.

Each request is timed from its due time, not from when it was sent, so that a client that falls behind shows it.
"""

from __future__ import annotations

import asyncio
import heapq
import time
from itertools import count

from .work import POINTS, Metrics, Task

SHARE = 0.8  # the load, as a share of the client's maximum rate
FACTOR = 0.5  # the time to measure that maximum, as a share of the sample's time


class Pace:
    """Wakes tasks at their due times. It checks the clock in each iteration of the loop: timers are too coarse."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._waiting: list[tuple[float, int, asyncio.Future[None]]] = []
        self._numbers = count()

    def until(self, due: float) -> asyncio.Future[None]:
        """Return a future that is done at the time `due`, but not before the next iteration of the loop.

        The cost is therefore the same whether or not the time has already come.
        """
        future = self._loop.create_future()
        heapq.heappush(self._waiting, (due, next(self._numbers), future))
        return future

    async def keep(self) -> None:
        """Wake tasks until cancelled."""
        while True:
            now = time.perf_counter()
            while self._waiting and self._waiting[0][0] <= now:
                future = heapq.heappop(self._waiting)[2]
                if not future.done():
                    future.set_result(None)
            await asyncio.sleep(0)


async def _paced(task: Task, tasks: int, seconds: float, interval: float) -> list[float]:
    """Run `tasks` tasks that together send a request every `interval` seconds, for `seconds` seconds.

    Returns the seconds from due time to answer for each request.
    """
    pace, taken = Pace(), list[float]()
    keeper = asyncio.ensure_future(pace.keep())
    begin = time.perf_counter()

    async def worker(number: int) -> None:
        due, key, is_over = begin + number * interval, number, False
        while not is_over:  # each task asks at least once, however busy the machine is
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
    """Return the median and the 99th percentile of the latency in microseconds, at SHARE of the maximum rate."""
    begin = time.perf_counter()
    possible = await _paced(task, tasks, seconds * FACTOR, 0.0)
    interval = (time.perf_counter() - begin) / len(possible) / SHARE
    taken = sorted(await _paced(task, tasks, seconds, interval))
    half, most = (taken[int(share * (len(taken) - 1))] * 1e6 for share in (0.5, 0.99))
    return {"p50_us": half, "p99_us": most, "load": 1 / interval / 1000}
