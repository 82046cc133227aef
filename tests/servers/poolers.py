"""Helper functions for tests of PgBouncer: starting a pooler, its console, and queries with a known answer."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import pytest

from pg_wired import AsyncConn, Rows
from pg_wired.client.queries import Queries
from rig.pgbouncer import PgBouncer, PoolMode, binary, missing
from rig.postgres import Postgres, Setting

OLD, NEW = "1.18", "1.24"


@contextmanager
def pooler(
    version: str,
    server: Postgres,
    pool_mode: PoolMode = "transaction",
    *,
    files: Mapping[str, str] | None = None,
    **settings: Setting,
) -> Iterator[PgBouncer]:
    """Start a PgBouncer with two server connections, unless `settings` say otherwise. Skip the test if it is missing.

    With CI=true a missing PgBouncer is a failure, unless the installer gave a reason why this machine cannot have it.
    """
    if binary(version) is None:
        reason = missing(version)
        if reason is None and os.environ.get("CI") == "true":
            pytest.fail(f"PgBouncer {version} is not here: `make pgbouncer` unpacks it")
        pytest.skip(reason or f"no PgBouncer {version} here: `make pgbouncer` unpacks it")
    with PgBouncer.launch(version, server, pool_mode, files=files, **{"default_pool_size": 2, **settings}) as found:
        yield found


async def console(pooler: PgBouncer, command: str) -> Rows:
    """Return the admin console's answer to a command."""
    async with await AsyncConn.connect(pooler.admin_dsn) as conn:
        return (await conn.simple_query(command))[-1]


async def own_answer(conn: Queries, kind: int = 0) -> int:
    """Ask for a new value with this kind of statement; assert that the answer has both; return the backend's pid."""
    nonce = secrets.token_hex(8)
    [(pid, *said)] = await conn.exec_query(f"select pg_backend_pid(), $1::text, {kind}", (nonce,), timeout=30)
    assert said == [nonce.encode(), b"%d" % kind], f"asked for {nonce} and {kind}"
    return int(pid or b"")
