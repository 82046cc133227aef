"""One sample of one driver against the server, measured in this process, which prints it as a line of JSON.

libpq's environment variables say where the server is. The drivers read them, or get their values.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import gc
import importlib
import json
import os
import subprocess
import time
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, TypeAlias

from .latency import latencies
from .stopwatch import Stopwatch
from .work import CHANNEL, Clock, Metrics, ask

Opened: TypeAlias = Callable[..., AbstractAsyncContextManager[Any]]  # of a Task, Fetch, Move, Receive, Connect or Query

WARM_UP = 0.25  # unmeasured time before a sample, as a share of the sample's time: prepares statements, fills caches


def loop_factory(name: str) -> Callable[[], asyncio.AbstractEventLoop]:
    """Return the function that makes the loop. The loop's module is imported only if it is used."""
    if name == "asyncio":
        return asyncio.new_event_loop
    factory: Callable[[], asyncio.AbstractEventLoop] = importlib.import_module(name).new_event_loop
    return factory


def opened(client: str) -> Opened:
    """Return the function that opens the client, by its name: "with_asyncpg.pool", or "with_asyncpg.pool:4".

    The number after the colon is passed to the function.
    """
    name, _, number = client.partition(":")
    module, _, function = name.rpartition(".")
    found: Opened = getattr(importlib.import_module(f"benchmarks.{module}"), function)
    return functools.partial(found, int(number)) if number else found


async def select(client: Opened, tasks: int, seconds: float) -> Metrics:
    """Measure point selects: wall time and this process's CPU time per request."""
    async with client() as task:
        await ask(task, tasks, Clock(seconds * WARM_UP))
        watchdog, clock = Stopwatch(), Clock(seconds)
        await ask(task, tasks, clock)
        return watchdog.each(clock.requests)


async def latency(client: Opened, tasks: int, seconds: float) -> Metrics:
    """Measure the latency of point selects at 80 % of the maximum rate."""
    async with client() as task:
        await ask(task, tasks, Clock(seconds * WARM_UP))
        gc.collect()
        return await latencies(task, tasks, seconds)


async def query(client: Opened, sql: str, seconds: float) -> Metrics:
    """Measure one query, repeated for `seconds` seconds, with each row touched. The first run is a warm-up."""
    async with client() as take:
        count, end = -1, float("inf")
        while count < 1 or time.perf_counter() < end:
            if count == 0:
                watchdog, end = Stopwatch(), time.perf_counter() + seconds
            for _row in await take(sql):
                pass
            count += 1
        return watchdog.each(count)


async def scan(client: Opened, rows: int) -> Metrics:
    """Measure a fetch of all rows of a table.

    Reports the wall time until each row was touched, that of the touching alone, the CPU time until the rows are there,
    and the memory.
    """
    async with client() as fetch:
        before = _memory("VmRSS")
        watchdog = Stopwatch()
        result = await fetch()
        _, cpu = watchdog.times()
        busy = watchdog.busy()
        held = _memory("VmRSS") - before
        there, _ = watchdog.times()
        for _id, _amount, _name, _moment in result:
            pass
        wall, _ = watchdog.times()
        assert len(result) == rows, len(result)
    each = {"touch_s": wall - there, "cpu_row_ns": cpu / rows * 1e9, "held_bytes": held * 1e6 / rows, "busy": busy}
    return {"wall_s": wall, "cpu_s": cpu, "peak_mb": _memory("VmHWM"), "held_mb": held} | each


async def move(client: Opened, rows: int) -> Metrics:
    """Measure streaming or copying all rows of a table, in or out."""
    async with client() as moved:
        watchdog = Stopwatch()
        count = await moved()
        wall, cpu = watchdog.times()
        busy = watchdog.busy()
        assert count == rows, count
    return {"wall_s": wall, "cpu_s": cpu, "peak_mb": _memory("VmHWM"), "busy": busy}


async def connects(client: Opened, count: int) -> Metrics:
    """Measure logging in and closing, one connection after the other.

    The first connection is not measured, because it also imports modules and fills caches.
    """
    async with client() as connect:
        await connect()
        watchdog = Stopwatch()
        for _ in range(count):
            await connect()
        each = watchdog.each(count)
    return {"wall_ms": each["wall_us"] / 1000, "cpu_ms": each["cpu_us"] / 1000, "busy": each["busy"]}


async def notifications(client: Opened, count: int) -> Metrics:
    """Measure `count` notifications from another process, from the COMMIT that lets the server deliver them."""
    send = f"SELECT count(pg_notify('{CHANNEL}', i::text)) FROM generate_series(1, {count}) AS i"
    async with client() as receive:
        subprocess.run(["psql", "-Xqc", send], stdout=subprocess.DEVNULL, check=True)
        watchdog = Stopwatch()
        await receive(count)
        return watchdog.each(count)


def _memory(field: str) -> float:
    """Return a memory figure of this process in MB.

    getrusage(2) does not serve here: its peak survives exec(), so it would be at least that of the parent.
    """
    lines = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines[field].split()[0]) * 1024 / 1e6


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.wire", description=__doc__)
    parser.add_argument("client", help="what opens it: with_asyncpg.pool, or with_asyncpg.pool:4")
    parser.add_argument("--loop", choices=("asyncio", "uvloop"), default="asyncio")
    parser.add_argument("--tasks", type=int, default=1, metavar="N")
    parser.add_argument("--seconds", type=float, default=1.0, metavar="S", help="how long they ask")
    parser.add_argument("--latency", action="store_true", help="measure latencies instead")
    parser.add_argument("--sql", help="ask this one query again and again instead")
    parser.add_argument("--rows", type=int, metavar="N", help="fetch a table of so many rows instead")
    parser.add_argument("--moved", type=int, metavar="N", help="stream or copy one instead")
    parser.add_argument("--connects", type=int, metavar="N", help="log in so often instead")
    parser.add_argument("--notifications", type=int, metavar="N", help="receive so many notifications instead")
    return parser


def chosen(options: argparse.Namespace) -> Coroutine[Any, Any, Metrics]:
    """Return the measurement that these options select."""
    client = opened(options.client)
    if options.sql:
        return query(client, options.sql, options.seconds)
    counted = {
        scan: options.rows,
        move: options.moved,
        connects: options.connects,
        notifications: options.notifications,
    }
    for work, count in counted.items():
        if count:
            return work(client, count)
    return (latency if options.latency else select)(client, options.tasks, options.seconds)


def main() -> None:
    options = arguments().parse_args()
    with asyncio.Runner(loop_factory=loop_factory(options.loop)) as runner:
        print(json.dumps(runner.run(chosen(options))), flush=True)
        os._exit(0)  # psqlpy's threads may crash the interpreter during its cleanup


if __name__ == "__main__":
    main()
