"""One sample of one driver against the server, in this process alone; prints it as a line of JSON.

Where the server is, libpq's environment variables say: all three drivers read them.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import importlib
import json
import subprocess
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, TypeAlias

from .work import CHANNEL, VALUE_LENGTH, Clock, Metrics, Task

Opened: TypeAlias = Callable[[], AbstractAsyncContextManager[Any]]  # of a Task, Fetch, Move or Receive

WARM_UP = 0.25  # of a sample's time: statements get prepared, caches fill; not measured


def loop_factory(name: str) -> Callable[[], asyncio.AbstractEventLoop]:
    """Imported when asked for: a driver shares its process with nothing it does not use."""
    if name == "asyncio":
        return asyncio.new_event_loop
    factory: Callable[[], asyncio.AbstractEventLoop] = importlib.import_module(name).new_event_loop
    return factory


async def _ask(task: Task, tasks: int, seconds: float) -> int:
    """Let so many tasks ask; returns the number of requests, all of them answered."""
    clock = Clock(seconds)
    values = await asyncio.gather(*[task(clock) for _ in range(tasks)])
    assert all(isinstance(value, str) and len(value) == VALUE_LENGTH for value in values), values[0]
    return clock.requests


async def select(opened: Opened, tasks: int, seconds: float) -> Metrics:
    """Point selects; wall time and this process's CPU time per request."""
    async with opened() as task:
        await _ask(task, tasks, seconds * WARM_UP)
        gc.collect()
        wall, cpu = time.perf_counter(), time.process_time()
        requests = await _ask(task, tasks, seconds)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return {"wall_us": wall / requests * 1e6, "cpu_us": cpu / requests * 1e6, "rate": requests / wall / 1000}


async def scan(opened: Opened, rows: int) -> Metrics:
    """All rows of a table: wall time until each was touched, CPU time until they are there, peak memory."""
    async with opened() as fetch:
        before = _memory("VmRSS")
        wall, cpu = time.perf_counter(), time.process_time()
        result = await fetch()
        cpu = time.process_time() - cpu
        held = _memory("VmRSS") - before
        for _id, _amount, _name, _moment in result:
            pass
        wall = time.perf_counter() - wall
        assert len(result) == rows, len(result)
    return {"wall_s": wall, "cpu_s": cpu, "peak_mb": _memory("VmHWM"), "held_mb": held}


async def move(opened: Opened, rows: int) -> Metrics:
    """All rows of a table, one way or the other."""
    async with opened() as moved:
        gc.collect()
        wall, cpu = time.perf_counter(), time.process_time()
        count = await moved()
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        assert count == rows, count
    return {"wall_s": wall, "cpu_s": cpu, "peak_mb": _memory("VmHWM")}


async def notifications(opened: Opened, count: int) -> Metrics:
    """So many that another process has sent; from the COMMIT that lets the server deliver them to the last."""
    send = f"SELECT count(pg_notify('{CHANNEL}', i::text)) FROM generate_series(1, {count}) AS i"
    async with opened() as receive:
        subprocess.run(["psql", "-Xqc", send], stdout=subprocess.DEVNULL, check=True)
        gc.collect()
        wall, cpu = time.perf_counter(), time.process_time()
        await receive(count)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return {"wall_us": wall / count * 1e6, "cpu_us": cpu / count * 1e6, "rate": count / wall / 1000}


def _memory(field: str) -> float:
    """Of this process, in MB. Not getrusage(2): its peak survives exec(), so that it is at least our parent's."""
    lines = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines[field].split()[0]) * 1024 / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.wire", description=__doc__)
    parser.add_argument("client", help="what opens it: with_asyncpg.pool")
    parser.add_argument("--loop", choices=("asyncio", "uvloop"), default="asyncio")
    parser.add_argument("--tasks", type=int, default=1, metavar="N")
    parser.add_argument("--seconds", type=float, default=1.0, metavar="S", help="how long they ask")
    parser.add_argument("--rows", type=int, metavar="N", help="fetch a table of so many rows instead")
    parser.add_argument("--moved", type=int, metavar="N", help="stream or copy one instead")
    parser.add_argument("--notifications", type=int, metavar="N", help="receive so many notifications instead")
    options = parser.parse_args()
    module, _, name = options.client.rpartition(".")
    opened = getattr(importlib.import_module(f"benchmarks.{module}"), name)
    counted = {scan: options.rows, move: options.moved, notifications: options.notifications}
    works = [work(opened, count) for work, count in counted.items() if count]
    with asyncio.Runner(loop_factory=loop_factory(options.loop)) as runner:
        print(json.dumps(runner.run(works[0] if works else select(opened, options.tasks, options.seconds))))


if __name__ == "__main__":
    main()
