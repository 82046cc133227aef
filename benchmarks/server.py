"""The servers to measure against: their settings, their tables, and the variables by which a sample finds them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psycopg

import pg_wired
from rig.postgres import Postgres, Source

from .plan import ANY, NO_TLS, TLS, UNIX, Sample, Scale
from .stopwatch import SERVER
from .work import COPIED, OUTPUT, POINTS, ROOT, SCAN, TEXT

# The tables fit into the server's memory, one process answers each query, and no autovacuum disturbs a sample.
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
# Done beforehand, so that the server does none of this during a measurement.
SETTLE = ("VACUUM (FREEZE, ANALYZE) points", "VACUUM (FREEZE, ANALYZE) events", "CHECKPOINT")
SECURE = (TLS, NO_TLS)  # the transports to the second server


def fill(server: Postgres, rows: int) -> None:
    """Create the tables, with `rows` rows in `events`, and write those rows to the file TEXT."""
    with psycopg.connect(server.dsn, autocommit=True) as conn:
        conn.execute(TABLES.format(points=POINTS, rows=rows, copied=COPIED).encode())
        for statement in SETTLE:
            conn.execute(statement.encode())
        OUTPUT.mkdir(parents=True, exist_ok=True)
        with TEXT.open("wb") as file, conn.cursor().copy(f"COPY ({SCAN}) TO STDOUT".encode()) as data:
            file.writelines(data)


def certificate() -> dict[str, str]:
    """Return files for the server's data directory: a key, and a certificate, which no client verifies here."""
    import trustme

    issued = trustme.CA().issue_cert("localhost", "127.0.0.1")
    chain = b"".join(blob.bytes() for blob in issued.cert_chain_pems)
    return {"server.crt": chain.decode(), "server.key": issued.private_key_pem.bytes().decode()}


class Servers:
    """The servers of one run: one without TLS, and perhaps one with TLS."""

    def __init__(self, plain: Postgres, secure: Postgres | None) -> None:
        self.plain, self.secure = plain, secure
        self.settings = ", ".join(f"{name}={value}" for name, value in SETTINGS.items())

    @classmethod
    @contextmanager
    def launch(cls, samples: Sequence[Sample], scale: Scale, source: Source) -> Iterator[Servers]:
        """Start and fill the servers that these samples need; stop and remove them at the end. Raises LaunchError."""
        with ExitStack() as stack:
            plain = stack.enter_context(Postgres.launch(source=source, **SETTINGS))
            fill(plain, scale.rows)
            secure = None
            if any(sample.transport in SECURE for sample in samples):
                options = SETTINGS | {"ssl": True}
                secure = stack.enter_context(Postgres.launch(source="celerp", files=certificate(), **options))
                fill(secure, scale.rows)
            yield cls(plain, secure)

    @property
    def said(self) -> str:
        """The versions of the servers."""
        return self.plain.version + (f" (over TLS: {self.secure.version})" if self.secure else "")

    def environment(self, transport: str = ANY) -> dict[str, str]:
        """Return the environment of a sample.

        With it, the sample finds its server by libpq's variables, and imports the same packages as this process.
        """
        server = self.plain
        if transport in SECURE:
            assert self.secure
            server = self.secure
        return packages(os.environ) | {
            SERVER: str(server.pid),
            "PATH": os.pathsep.join([str(server.bin), os.environ.get("PATH", "")]),  # pgbench
            "PGHOST": server.socket_directory if transport == UNIX else server.host,
            "PGPORT": str(server.port),
            "PGUSER": server.user,
            "PGPASSWORD": server.password,
            "PGDATABASE": server.dbname,
            "PGSSLMODE": "require" if transport == TLS else "disable",
        }


def packages(variables: Mapping[str, str]) -> dict[str, str]:
    """Return these variables without libpq's, changed so that imports find the same packages as this process.

    Python compiles the packages once and keeps the bytecode outside of the work tree.
    """
    ours = {name: value for name, value in variables.items() if not name.startswith("PG")}
    ours.pop("PYTHONDONTWRITEBYTECODE", None)  # without bytecode files, each measured import would include compiling
    return ours | {
        "PYTHONPYCACHEPREFIX": str(OUTPUT / "pycache"),  # the only place for bytecode files
        "PYTHONPATH": os.pathsep.join([str(Path(pg_wired.__file__).parents[1]), str(ROOT)]),
    }


def shares(cores: set[int]) -> tuple[set[int], set[int]]:
    """Return the client's core and the servers' cores: all others, or the same one if there is only one."""
    last = {max(cores)}
    return last, (cores - last) or last


@contextmanager
def placed(cores: set[int]) -> Iterator[None]:
    """Run this process, and processes that it starts meanwhile, on these cores."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
