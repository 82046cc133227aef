"""Queries that never end by themselves, and a check that one was stopped."""

from __future__ import annotations

import time

from pg_wired import AsyncConn
from rig.checks import SOON, answers, until_sql

# A function in the select list produces its rows on demand; in FROM it would produce all of them first.
ENDLESS = "select generate_series(1, 1000000000), repeat('x', 100)"
ENDLESS_COPY = f"copy ({ENDLESS}) to stdout"


async def was_stopped(conn: AsyncConn, admin: AsyncConn) -> None:
    """Assert that within SOON the connection answers again and its backend is idle."""
    begin = time.monotonic()
    await answers(conn)
    await until_sql(admin, f"select state = 'idle' from pg_stat_activity where pid = {conn.backend_pid}")
    assert time.monotonic() - begin < SOON
