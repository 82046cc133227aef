"""The server to measure against: its settings, its tables, and how a sample finds it. Measures nothing."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg

import pg_wired
from rig.postgres import Postgres

from .work import COPIED, OUTPUT, POINTS, ROOT, SCAN, TEXT

# The tables stay in its memory, one process answers one query, and nothing starts by itself in the middle.
SETTINGS: dict[str, Any] = {"shared_buffers": "512MB", "max_parallel_workers_per_gather": 0, "autovacuum": False}

TABLES = """
CREATE UNLOGGED TABLE points AS SELECT id::int4, md5(id::text) AS value FROM generate_series(1, {points}) AS id;
ALTER TABLE points ADD PRIMARY KEY (id);
CREATE UNLOGGED TABLE events AS
    SELECT id::int4, id * 1000003::int8 AS amount, md5(id::text) AS name,
        timestamptz '2026-01-01 00:00+00' + id * interval '1.000001 s' AS moment
    FROM generate_series(1, {rows}) AS id;
CREATE UNLOGGED TABLE {copied} (LIKE events);
"""
# Nothing of these is left for the server to do while somebody is measured.
SETTLE = ("VACUUM (FREEZE, ANALYZE) points", "VACUUM (FREEZE, ANALYZE) events", "CHECKPOINT")


def fill(server: Postgres, rows: int) -> None:
    """Make the tables, `events` with so many rows, and those rows in a file."""
    with psycopg.connect(server.dsn, autocommit=True) as conn:
        conn.execute(TABLES.format(points=POINTS, rows=rows, copied=COPIED).encode())
        for statement in SETTLE:
            conn.execute(statement.encode())
        OUTPUT.mkdir(parents=True, exist_ok=True)
        with TEXT.open("wb") as file, conn.cursor().copy(f"COPY ({SCAN}) TO STDOUT".encode()) as data:
            file.writelines(data)


def environment(server: Postgres) -> dict[str, str]:
    """Of a sample: it finds the server by libpq's variables, and the very packages that this process has found."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    ours.pop("PYTHONDONTWRITEBYTECODE", None)  # an import would be measured with the compiler at work, so ...
    return ours | {
        "PYTHONPYCACHEPREFIX": str(OUTPUT / "pycache"),  # ... its result is kept, but nowhere else
        "PYTHONPATH": os.pathsep.join([str(Path(pg_wired.__file__).parents[1]), str(ROOT)]),
        "PATH": os.pathsep.join([str(server.bin), os.environ.get("PATH", "")]),  # pgbench
        "PGHOST": server.host,
        "PGPORT": str(server.port),
        "PGUSER": server.user,
        "PGPASSWORD": server.password,
        "PGDATABASE": server.dbname,
        "PGSSLMODE": "disable",
    }


@contextmanager
def pinned(server: Postgres, core: int) -> Iterator[None]:
    """We and the server on one core, and with us whoever is started meanwhile."""
    before = {pid: os.sched_getaffinity(pid) for pid in (os.getpid(), server.pid)}
    for pid in before:
        os.sched_setaffinity(pid, {core})
    try:
        yield
    finally:
        for pid, cores in before.items():
            os.sched_setaffinity(pid, cores)
