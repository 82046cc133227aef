"""The lines of the benchmark: the names of the tables, and the metrics that each one shows. It knows no clients."""

from __future__ import annotations

from typing import NamedTuple

from .work import DEPTH


class Metric(NamedTuple):
    """A value that a sample reports under `key`, and how it is shown. In `compared` metrics, less is better."""

    key: str
    title: str
    digits: int
    compared: bool = True


class Line(NamedTuple):
    """One table. The other clients are compared with `reference`, and with `limit`, which no driver can beat."""

    name: str
    title: str
    metrics: tuple[Metric, ...]
    limit: str = ""
    reference: str = "asyncpg"


WALL = Metric("wall_us", "wall µs", 1)
CPU = Metric("cpu_us", "CPU µs", 1)
RATE = Metric("rate", "1000/s", 1, compared=False)
WHOLE = Metric("wall_s", "wall s", 3)
WHOLE_CPU = Metric("cpu_s", "CPU s", 3)
TOUCH = Metric("touch_s", "touching s", 3)
WALL_MS = Metric("wall_ms", "wall ms", 2)
CPU_MS = Metric("cpu_ms", "CPU ms", 2)
P50 = Metric("p50_us", "p50 µs", 0)
P99 = Metric("p99_us", "p99 µs", 0)
LOAD = Metric("load", "1000/s asked", 1, compared=False)
BUSY = Metric("busy", "server busy %", 0, compared=False)  # of one core
HELD = Metric("held_mb", "MB held", 1)
PEAK = Metric("peak_mb", "peak MB", 1)
HELD_EACH = Metric("held_bytes", "bytes a row", 0)
CPU_EACH = Metric("cpu_row_ns", "CPU ns a row", 0)

ONE_TASK = "1-task"
TASKS = {f"{n}-tasks": n for n in (64, 512)}
POOL = "asyncpg pool"  # of ten connections, with default options

LINES = (
    Line(ONE_TASK, "Point select, one task, one connection", (WALL, CPU, BUSY), "pgbench"),
    *(
        Line(name, f"Point selects, {n} tasks; per request", (WALL, CPU, RATE, BUSY), "pgbench pipelined", POOL)
        for name, n in TASKS.items()
    ),
    Line(
        "latency",
        "Latency of point selects, 64 tasks, at 80 % of what the same client gets through",
        (P50, P99, LOAD),
        reference=POOL,
    ),
    Line(
        "transactions",
        "BEGIN, SET LOCAL, point select, COMMIT, 64 tasks; per transaction",
        (WALL, CPU, RATE, BUSY),
        "pgbench pipelined",
        POOL,
    ),
    Line(
        "pipelines",
        f"Pipelines of {DEPTH} point selects, one task; per select",
        (WALL, CPU, RATE, BUSY),
        "pgbench one Sync",
    ),
    Line(
        "rows",
        "A table of {rows:,} rows x 4 columns: wall until each is touched, of which touching; CPU until they are there",
        (WHOLE, TOUCH, WHOLE_CPU, CPU_EACH, BUSY),
        "bare drain",
    ),
    Line(
        "rows",
        "The same: what the process's memory has grown by until the rows are there, and its peak",
        (HELD, HELD_EACH, PEAK),
        "bare drain",
    ),
    Line("streamed", "The same rows one after the other, none kept", (WHOLE, WHOLE_CPU, PEAK, BUSY), "bare drain"),
    Line("copy-out", "COPY of the same table out, text", (WHOLE, WHOLE_CPU, BUSY), "psql"),
    Line("copy-in", "COPY of the same table in, text, into an empty one", (WHOLE, WHOLE_CPU, BUSY), "psql"),
    Line("connect", "Connect with SCRAM and close, one after the other; for each", (WALL_MS, CPU_MS, BUSY)),
    Line("notifications", "Notifications, {notifications:,} of one transaction; for each", (WALL, CPU, RATE, BUSY)),
    Line(
        "import",
        "Import, a process from start to end; more: than `import asyncio, ssl`",
        (WALL_MS._replace(compared=False), Metric("more_ms", "more ms", 1)),
    ),
    Line(
        "memory",
        "The protocol floor, fed from memory",
        (
            Metric("encode_ns", "ns to encode", 0, compared=False),
            Metric("answer_ns", "ns per answer", 0, compared=False),
            Metric("row_ns", "ns per row", 0, compared=False),
        ),
    ),
)
