"""`make demo`: the main features on a real server, a new one or the one that the environment names."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable
from typing import NoReturn

from pg_wired import AsyncConn, PgError, PgWireError, Rows
from pg_wired.session import session
from rig.postgres import FOR_DEMO, LaunchError, find

QUERIES = 20_000
TASKS = 200
ROWS = 1_000_000
POINT = "select $1::int4 * 2"
SCAN = f"select i, i * 2, 'row ' || i, i % 7 = 0 from generate_series(1, {ROWS}) i"
IS_TERMINAL = sys.stdout.isatty()


def say(title: str, *lines: str) -> None:
    """Print a title and its lines."""
    print(f"\n\033[1m{title}\033[0m" if IS_TERMINAL else f"\n{title}")
    for line in lines:
        print(f"  {line}")


def progress(text: str) -> None:
    """Print a line that the next one overwrites; only on a terminal."""
    if IS_TERMINAL:
        print(f"\r  {text:<60}", end="", flush=True)


class Progress:
    """Counts requests as they are answered."""

    def __init__(self, what: str, total: int) -> None:
        self.what, self.total, self.done = what, total, 0

    def step(self) -> None:
        self.done += 1
        if self.done % 1000 == 0:
            progress(f"{self.what}: {self.done:,} of {self.total:,}" if self.done < self.total else "")


async def query(conn: AsyncConn) -> None:
    rows = await conn.exec_query("select 6 * $1::int4 as answer, now()::date as day, null as nothing", ["7"])
    fields = [f"{field.name} (type {field.type_oid})" for field in rows.fields]
    say("One query", f"{rows[0]}", f"columns: {', '.join(fields)}; tag: {rows.command_tag}")


async def error(conn: AsyncConn) -> None:
    try:
        await conn.exec_query("select 1 / $1::int4", ["0"])
    except PgError as refused:
        say("An error", str(refused), f"SQLSTATE {refused.code}; the request was {refused.outcome.value}")


async def point_selects(conn: AsyncConn, tasks: int, what: str) -> float:
    """Run all queries from this many tasks on one connection, check every answer, and return queries per second."""
    counter = Progress(what, QUERIES)

    async def task(first: int) -> None:
        for i in range(first, QUERIES, tasks):
            rows = await conn.exec_query(POINT, [str(i)])
            if rows[0][0] != str(i * 2).encode():
                raise SystemExit(f"the answer to {i} was {rows[0][0]!r}")
            counter.step()

    start = time.perf_counter()
    await asyncio.gather(*[task(first) for first in range(tasks)])
    return QUERIES / (time.perf_counter() - start)


async def sharing(conn: AsyncConn) -> None:
    alone = await point_selects(conn, 1, "one after the other")
    shared = await point_selects(conn, TASKS, f"{TASKS} tasks")
    say(
        f"{QUERIES:,} queries over one connection, every answer checked",
        f"one after the other {alone:10,.0f} a second",
        f"from {TASKS} tasks     {shared:10,.0f} a second, {shared / alone:.1f} times as many",
    )


async def with_spinner(awaitable: asyncio.Future[Rows], describe: Callable[[float], str]) -> Rows:
    """Await it, and show the elapsed seconds."""
    start = time.perf_counter()
    while not awaitable.done():
        progress(describe(time.perf_counter() - start))
        await asyncio.wait([awaitable], timeout=0.2)
    progress("")
    return awaitable.result()


async def scan(conn: AsyncConn) -> None:
    start = time.perf_counter()
    rows = await with_spinner(conn.exec_query(SCAN), lambda seconds: f"scanning {ROWS:,} rows: {seconds:.1f} s")
    seconds = time.perf_counter() - start
    say(
        f"{len(rows):,} rows of {len(rows.fields)} columns",
        f"{len(rows) / seconds:,.0f} rows a second",
        f"last: {rows[-1]}",
    )


async def main(dsn: str) -> None:
    async with await AsyncConn.connect(dsn, application_name="pg_wired demo") as conn:
        build = "compiled" if session.__file__.endswith(".so") else "interpreted"
        version = conn.parameters.get("server_version", "of unknown version")
        print(f"pg_wired ({build}) on {conn.addr}, PostgreSQL {version}, login by {conn.auth_mechanism}")
        await query(conn)
        await error(conn)
        await sharing(conn)
        await scan(conn)


def fail(what: str, reason: BaseException) -> NoReturn:
    progress("")
    sys.exit(f"\ndemo: {what}: {reason}")


if __name__ == "__main__":
    try:
        print("starting PostgreSQL ..." if IS_TERMINAL else "", end="\r")
        with find(*FOR_DEMO) as server:
            asyncio.run(main(server.dsn))
    except LaunchError as reason:
        fail("no server could be started (DATABASE_URL or PGHOST may name one)", reason)
    except PgWireError as reason:
        fail(f"the connection failed ({type(reason).__name__})", reason)
    except KeyboardInterrupt:
        sys.exit(130)
