"""The plan: which clients are measured in each line, on which transport and loop, by which command, at which size."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from .growth import CURVES, Curve
from .lines import ONE_TASK, TASKS


class Scale(NamedTuple):
    """The size of a run. Each sample is taken `rounds` times; samples of the curves are taken `growth` times."""

    rounds: int
    growth: int
    seconds: float  # duration of each sample of point selects, after its warm-up
    rows: int
    notifications: int
    connects: int
    imports: int  # samples of each package in each round
    repeats: int  # within one sample of the protocol floor


FULL = Scale(rounds=5, growth=3, seconds=0.4, rows=1_000_000, notifications=100_000, connects=40, imports=2, repeats=15)
QUICK = Scale(rounds=1, growth=0, seconds=0.1, rows=100_000, notifications=20_000, connects=10, imports=1, repeats=3)

LOOPS = ("asyncio", "uvloop")
ANY = "-"  # no loop, or no transport

# A Unix socket, for which most budgets are set; loopback TCP; and a second server that has TLS, with and without TLS.
UNIX, TCP, TLS, NO_TLS = "unix", "tcp", "tls", "no tls"

Clients = dict[str, str]  # the name of a client -> the function in a module with_* that opens it
ALONE = {
    "pg_wired": "with_pg_wired.one",
    "asyncpg": "with_asyncpg.one",
    "psycopg": "with_psycopg.one",
    "psqlpy": "with_psqlpy.one",
}
TOGETHER = {
    "pg_wired": "with_pg_wired.one",
    "pg_wired pool of 2": "with_pg_wired.pool:2",
    "asyncpg pool": "with_asyncpg.pool",
    "asyncpg, no reset": "with_asyncpg.pool_without_reset",
    "psycopg queue": "with_psycopg.queue",
    "psqlpy pool": "with_psqlpy.pool",
}
WAITING = {client: opened for client, opened in TOGETHER.items() if client != "asyncpg, no reset"}
TRANSACTING = {
    "pg_wired": "with_pg_wired.transactions:1",
    "pg_wired pool of 2": "with_pg_wired.transactions:2",
    "asyncpg pool": "with_asyncpg.transactions",
    "asyncpg transaction()": "with_asyncpg.documented_transactions",
    "asyncpg, no reset": "with_asyncpg.transactions_without_reset",
    "psqlpy pool": "with_psqlpy.transactions",
}
PIPELINING = {
    "pg_wired": "with_pg_wired.pipelines",
    "asyncpg": "with_asyncpg.one",
    "psycopg": "with_psycopg.pipelines",
    "psqlpy": "with_psqlpy.pipelines",
}
FETCHING = {
    "pg_wired": "with_pg_wired.fetch",
    "pg_wired list": "with_pg_wired.kept",
    "pg_wired columns": "with_pg_wired.columns",
    "asyncpg": "with_asyncpg.fetch",
    "psycopg": "with_psycopg.fetch",
    "psqlpy": "with_psqlpy.fetch",
}
# A limit that runs on a loop, and so includes its wake-ups and a future.
BARE = "bare socket"
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
CONNECTING = {
    "pg_wired": "with_pg_wired.connects",
    "pg_wired, each alone": "with_pg_wired.lone_connects",
    "asyncpg": "with_asyncpg.connects",
    "psycopg": "with_psycopg.connects",
}
NOTIFIED = {"pg_wired": "with_pg_wired.receive", "asyncpg": "with_asyncpg.receive"}

# The limits of point selects: the name of each limit -> the pgbench script in limits.py.
ALONE_AT_MOST = {"pgbench": "single"}
TOGETHER_AT_MOST = {"pgbench pipelined": "pipelined", "pgbench one Sync": "one-sync"}
TRANSACTING_AT_MOST = {"pgbench pipelined": "transactions"}


class Sample(NamedTuple):
    """One run of one client. `command` are the arguments of a `python -m` that prints a line of JSON.

    `point` is the point of a curve, or 0.
    """

    line: str
    transport: str
    loop: str
    client: str
    command: tuple[str, ...]
    point: int = 0

    @property
    def name(self) -> str:
        return f"{self.line}/{self.transport}/{self.loop}/{self.client}" + (f"/{self.point}" if self.point else "")


def plan(scale: Scale) -> list[Sample]:
    """Return all samples of one round, except those of the curves."""
    seconds = f"--seconds={scale.seconds}"
    samples = [*_selects(ONE_TASK, ALONE, ALONE_AT_MOST, "--tasks=1", seconds)]
    for transport, opened in ((UNIX, "with_socket.one"), (TLS, "with_socket.one_tls")):
        samples += _on_both_loops(ONE_TASK, transport, {BARE: opened}, "--tasks=1", seconds)
    for name, n in TASKS.items():
        samples += _selects(name, TOGETHER, TOGETHER_AT_MOST, f"--tasks={n}", seconds)
    samples += _on_both_loops("latency", UNIX, WAITING, "--latency", "--tasks=64", seconds)
    samples += _selects("transactions", TRANSACTING, TRANSACTING_AT_MOST, "--tasks=64", seconds)
    samples += _selects("pipelines", PIPELINING, TOGETHER_AT_MOST, "--tasks=1", seconds)
    samples += _bulk(scale)
    connects = f"--connects={scale.connects}"
    for transport in (TCP, TLS):
        samples += _on_both_loops("connect", transport, CONNECTING, connects)
    samples += _on_both_loops("notifications", UNIX, NOTIFIED, f"--notifications={scale.notifications}")
    for package in ("pg_wired", "asyncpg", "psycopg", "psqlpy"):
        samples += [Sample("import", ANY, ANY, package, ("benchmarks.imports", package))] * scale.imports
    memory = ("benchmarks.memory", "--json", f"--repeats={scale.repeats}")
    return [*samples, Sample("memory", ANY, ANY, "pg_wired", memory)]


def _bulk(scale: Scale) -> Iterator[Sample]:
    rows, moved = f"--rows={scale.rows}", f"--moved={scale.rows}"
    bare = {BARE: "with_socket.drain", BARE + " keeps": "with_socket.keep"}
    yield from _on_both_loops("rows", UNIX, FETCHING | bare, rows)
    yield from _on_both_loops("rows", TLS, _of(FETCHING, "pg_wired", "asyncpg", "psycopg"), rows)
    yield from _on_both_loops("rows", NO_TLS, _of(FETCHING, "pg_wired"), rows)
    yield from _on_both_loops("streamed", UNIX, STREAMING, moved)
    for line in ("rows", "streamed"):
        yield Sample(line, UNIX, ANY, "bare drain", ("benchmarks.limits", "drain"))
    for line, clients in COPYING.items():
        yield from _on_both_loops(line, UNIX, clients, moved)
        yield Sample(line, UNIX, ANY, "psql", ("benchmarks.limits", line))


def _of(clients: Clients, *names: str) -> Clients:
    return {name: clients[name] for name in names}


def _selects(line: str, clients: Clients, limits: dict[str, str], *options: str) -> Iterator[Sample]:
    """Yield samples of all clients over the Unix socket, and of pg_wired and the reference over TCP.

    The lines ONE_TASK and 64-tasks also have pg_wired and the reference over TLS.
    """
    main = _of(clients, *[name for name in clients if name in ("pg_wired", "asyncpg", "asyncpg pool")])
    for transport in (UNIX, TCP):
        yield from _on_both_loops(line, transport, clients if transport == UNIX else main, *options)
        for client, script in limits.items():
            yield Sample(line, transport, ANY, client, ("benchmarks.limits", script, options[-1]))
    if line in (ONE_TASK, "64-tasks"):
        yield from _on_both_loops(line, TLS, main, *options)


def _on_both_loops(line: str, transport: str, clients: Clients, *options: str) -> Iterator[Sample]:
    for loop in LOOPS:
        for client, opened in clients.items():
            yield Sample(line, transport, loop, client, ("benchmarks.wire", opened, f"--loop={loop}", *options))


def growth(scale: Scale) -> Iterator[Sample]:
    """Yield all points of all curves, on asyncio's loop over the Unix socket."""
    for curve in CURVES:
        for client in curve.commands:
            for point in curve.points:
                if point <= scale.rows or curve.name != "grow-rows":
                    yield _point(curve, client, point, scale.seconds)


def _point(curve: Curve, client: str, point: int, seconds: float) -> Sample:
    lasts = max(seconds, curve.lasts * point)
    command = ("benchmarks.wire", *curve.commands[client](point), f"--seconds={lasts}")
    return Sample(curve.name, UNIX, "asyncio", client, command, point)
