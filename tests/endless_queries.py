"""What never ends by itself, and how to see that it was ended."""

from __future__ import annotations

import time

from pg_wired import AsyncConn
from rig.checks import SOON, answers, until_sql

# A function in the select list makes its rows as they are asked for; in FROM it would make them all first.
ENDLESS = "select generate_series(1, 1000000000), repeat('x', 100)"
ENDLESS_COPY = f"copy ({ENDLESS}) to stdout"


async def was_stopped(conn: AsyncConn, admin: AsyncConn) -> None:
    """The connection is free within a second, and nothing of what it asked for runs on."""
    begin = time.monotonic()
    await answers(conn)
    await until_sql(admin, f"select state = 'idle' from pg_stat_activity where pid = {conn.backend_pid}")
    assert time.monotonic() - begin < SOON
