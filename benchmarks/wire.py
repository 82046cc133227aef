"""One sample of one driver against the server, in this process alone; prints it as a line of JSON.

Where the server is, libpq's environment variables say: all drivers read them, or are told what they say.
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

WARM_UP = 0.25  # of a sample's time: statements get prepared, caches fill; not measured


def loop_factory(name: str) -> Callable[[], asyncio.AbstractEventLoop]:
    """Imported when asked for: a driver shares its process with nothing it does not use."""
    if name == "asyncio":
        return asyncio.new_event_loop
    factory: Callable[[], asyncio.AbstractEventLoop] = importlib.import_module(name).new_event_loop
    return factory


def opened(client: str) -> Opened:
    """What opens it: "with_asyncpg.pool", or with a number to pass, "with_asyncpg.pool:4"."""
    name, _, number = client.partition(":")
    module, _, function = name.rpartition(".")
    found: Opened = getattr(importlib.import_module(f"benchmarks.{module}"), function)
    return functools.partial(found, int(number)) if number else found


async def select(client: Opened, tasks: int, seconds: float) -> Metrics:
    """Point selects; wall time and this process's CPU time per request."""
    async with client() as task:
        await ask(task, tasks, Clock(seconds * WARM_UP))
        watchdog, clock = Stopwatch(), Clock(seconds)
        await ask(task, tasks, clock)
        return watchdog.each(clock.requests)


async def latency(client: Opened, tasks: int, seconds: float) -> Metrics:
    """The same, asked at 80 % of the rate that is possible."""
    async with client() as task:
        await ask(task, tasks, Clock(seconds * WARM_UP))
        gc.collect()
        return await latencies(task, tasks, seconds)


async def query(client: Opened, sql: str, seconds: float) -> Metrics:
    """One query again and again, each row touched; at least twice, the first time to warm up."""
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
    """All rows of a table: wall time until each was touched, and of touching; CPU time until they are there; memory."""
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
    """All rows of a table, one way or the other."""
    async with client() as moved:
        watchdog = Stopwatch()
        count = await moved()
        wall, cpu = watchdog.times()
        busy = watchdog.busy()
        assert count == rows, count
    return {"wall_s": wall, "cpu_s": cpu, "peak_mb": _memory("VmHWM"), "busy": busy}


async def connects(client: Opened, count: int) -> Metrics:
    """Log in and close, one after the other. The first is not measured: imports and caches are its own."""
    async with client() as connect:
        await connect()
        watchdog = Stopwatch()
        for _ in range(count):
            await connect()
        each = watchdog.each(count)
    return {"wall_ms": each["wall_us"] / 1000, "cpu_ms": each["cpu_us"] / 1000, "busy": each["busy"]}


async def notifications(client: Opened, count: int) -> Metrics:
    """So many that another process has sent; from the COMMIT that lets the server deliver them to the last."""
    send = f"SELECT count(pg_notify('{CHANNEL}', i::text)) FROM generate_series(1, {count}) AS i"
    async with client() as receive:
        subprocess.run(["psql", "-Xqc", send], stdout=subprocess.DEVNULL, check=True)
        watchdog = Stopwatch()
        await receive(count)
        return watchdog.each(count)


def _memory(field: str) -> float:
    """Of this process, in MB. Not getrusage(2): its peak survives exec(), so that it is at least our parent's."""
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
    """What these options ask for."""
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
        os._exit(0)  # psqlpy's threads may crash an interpreter that cleans up


if __name__ == "__main__":
    main()
