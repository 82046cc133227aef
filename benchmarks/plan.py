"""The table of benchmarks: its lines, who is measured in each, by which command, at which size."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple


class Scale(NamedTuple):
    """How much is done. Every sample is taken `rounds` times, an import `imports` times as often."""

    rounds: int
    seconds: float  # that each sample of point selects lasts, after its warm-up
    rows: int
    notifications: int
    imports: int
    repeats: int  # within one sample of the protocol floor


FULL = Scale(rounds=5, seconds=0.6, rows=1_000_000, notifications=100_000, imports=3, repeats=15)
QUICK = Scale(rounds=1, seconds=0.15, rows=100_000, notifications=20_000, imports=1, repeats=3)


class Metric(NamedTuple):
    """What a sample reports under `key`, and how it is shown. Less is better in all that are compared."""

    key: str
    title: str
    digits: int
    compared: bool = True


class Line(NamedTuple):
    """One part of the table. `limit` is the client that the others are compared with, beside asyncpg."""

    name: str
    title: str
    metrics: tuple[Metric, ...]
    limit: str = ""


WALL = Metric("wall_us", "wall µs", 1)
CPU = Metric("cpu_us", "CPU µs", 1)
RATE = Metric("rate", "1000/s", 1, compared=False)
WHOLE = Metric("wall_s", "wall s", 3)
WHOLE_CPU = Metric("cpu_s", "CPU s", 3)
REFERENCE = "asyncpg"

ONE_TASK = "1-task"
TASKS = {f"{n}-tasks": n for n in (64, 512)}

LINES = (
    Line(ONE_TASK, "Point select, one task, one connection", (WALL, CPU), "pgbench"),
    *(
        Line(name, f"Point selects, {n} tasks; per request", (WALL, CPU, RATE), "pgbench pipelined")
        for name, n in TASKS.items()
    ),
    Line(
        "transactions",
        "BEGIN, SET LOCAL, point select, COMMIT, 64 tasks; per transaction",
        (WALL, CPU, RATE),
        "pgbench pipelined",
    ),
    Line("pipelines", "Pipelines of 50 point selects, one task; per select", (WALL, CPU, RATE), "pgbench one Sync"),
    Line(
        "rows",
        "A table of {rows:,} rows x 4 columns: wall until each was touched, CPU until they are there",
        (WHOLE, WHOLE_CPU),
        "bare drain",
    ),
    Line(
        "rows",
        "The same: what the process's memory has grown by until the rows are there, and its peak",
        (Metric("held_mb", "MB held", 1), Metric("peak_mb", "peak MB", 1)),
        "bare drain",
    ),
    Line(
        "streamed",
        "The same rows one after the other, none kept",
        (WHOLE, WHOLE_CPU, Metric("peak_mb", "peak MB", 1)),
        "bare drain",
    ),
    Line("copy-out", "COPY of the same table out, text", (WHOLE, WHOLE_CPU), "psql"),
    Line("copy-in", "COPY of the same table in, text, into an empty one", (WHOLE, WHOLE_CPU), "psql"),
    Line("notifications", "Notifications, {notifications:,} of one transaction; for each", (WALL, CPU, RATE)),
    Line(
        "import",
        "Import, a process from start to end; more: than `import asyncio, ssl`",
        (Metric("wall_ms", "wall ms", 1, compared=False), Metric("more_ms", "more ms", 1)),
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

LOOPS = ("asyncio", "uvloop")
ANY_LOOP = "-"

# Who is measured, and what opens it in the modules with_*.
ALONE = {"pg_wired": "with_pg_wired.one", "asyncpg": "with_asyncpg.one", "psycopg": "with_psycopg.one"}
TOGETHER = {
    "pg_wired": "with_pg_wired.one",
    "asyncpg": "with_asyncpg.pool",
    "asyncpg as it comes": "with_asyncpg.pool_as_it_comes",
    "asyncpg queue": "with_asyncpg.queue",
    "psycopg queue": "with_psycopg.queue",
}
FETCHING = {"pg_wired": "with_pg_wired.fetch", "asyncpg": "with_asyncpg.fetch", "psycopg": "with_psycopg.fetch"}
TRANSACTING = {
    "pg_wired": "with_pg_wired.transactions",
    "pg_wired x 2": "with_pg_wired.transactions_on_two",
    "asyncpg": "with_asyncpg.transactions",
    "asyncpg transaction()": "with_asyncpg.documented_transactions",
}
PIPELINING = {
    "pg_wired": "with_pg_wired.pipelines",
    "asyncpg": "with_asyncpg.one",
    "psycopg": "with_psycopg.pipelines",
}
STREAMING = {
    "pg_wired": "with_pg_wired.stream",
    "pg_wired batches": "with_pg_wired.stream_batches",
    "asyncpg": "with_asyncpg.stream",
    "psycopg": "with_psycopg.stream",
}
COPYING = {
    f"copy-{way}": {"pg_wired": f"with_pg_wired.copy_{way}", "asyncpg": f"with_asyncpg.copy_{way}"}
    for way in ("out", "in")
}
NOTIFIED = {"pg_wired": "with_pg_wired.receive", "asyncpg": "with_asyncpg.receive"}
# The limits of point selects: pgbench's script of limits.py.
ALONE_AT_MOST = {"pgbench": "single"}
TOGETHER_AT_MOST = {"pgbench pipelined": "pipelined", "pgbench one Sync": "one-sync"}
TRANSACTING_AT_MOST = {"pgbench pipelined": "transactions"}


class Sample(NamedTuple):
    """One run of one client: the arguments of `python -m`, which prints a line of JSON."""

    line: str
    loop: str
    client: str
    command: tuple[str, ...]

    @property
    def name(self) -> str:
        return f"{self.line}/{self.loop}/{self.client}"


def plan(scale: Scale) -> list[Sample]:
    """All samples of one round."""
    seconds = f"--seconds={scale.seconds}"
    samples = [*_selects(ONE_TASK, ALONE, 1, seconds), *_limits(ONE_TASK, ALONE_AT_MOST, seconds)]
    for name, n in TASKS.items():
        samples += [*_selects(name, TOGETHER, n, seconds), *_limits(name, TOGETHER_AT_MOST, seconds)]
    samples += _selects("transactions", TRANSACTING, 64, seconds)
    samples += _limits("transactions", TRANSACTING_AT_MOST, seconds)
    samples += [*_selects("pipelines", PIPELINING, 1, seconds), *_limits("pipelines", TOGETHER_AT_MOST, seconds)]
    samples += _on_both_loops("rows", FETCHING, f"--rows={scale.rows}")
    samples += _on_both_loops("streamed", STREAMING, f"--moved={scale.rows}")
    drain = ("benchmarks.limits", "drain")
    samples += [Sample(line, ANY_LOOP, "bare drain", drain) for line in ("rows", "streamed")]
    for line, clients in COPYING.items():
        samples += _on_both_loops(line, clients, f"--moved={scale.rows}")
        samples.append(Sample(line, ANY_LOOP, "psql", ("benchmarks.limits", line)))
    samples += _on_both_loops("notifications", NOTIFIED, f"--notifications={scale.notifications}")
    for package in ("pg_wired", "asyncpg", "psycopg"):
        samples += [Sample("import", ANY_LOOP, package, ("benchmarks.imports", package))] * scale.imports
    memory = ("benchmarks.memory", "--json", f"--repeats={scale.repeats}")
    return [*samples, Sample("memory", ANY_LOOP, "pg_wired", memory)]


def _on_both_loops(line: str, clients: dict[str, str], *options: str) -> Iterator[Sample]:
    for loop in LOOPS:
        for client, opened in clients.items():
            yield Sample(line, loop, client, ("benchmarks.wire", opened, f"--loop={loop}", *options))


def _selects(line: str, clients: dict[str, str], tasks: int, seconds: str) -> Iterator[Sample]:
    return _on_both_loops(line, clients, f"--tasks={tasks}", seconds)


def _limits(line: str, clients: dict[str, str], seconds: str) -> Iterator[Sample]:
    for client, script in clients.items():
        yield Sample(line, ANY_LOOP, client, ("benchmarks.limits", script, seconds))
