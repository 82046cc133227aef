"""What becomes of connections whose link goes dead, in a network namespace: `unshare -n python -m rig.dead_link`.

Prints as JSON what two of them raised, and after how many seconds: one with an unacknowledged request and
tcp_user_timeout, one that was idle with keepalives. Needs to be root, for nothing but the namespace.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time

from pg_wired import AsyncConn

from .checks import outcome_of, until
from .postgres import Postgres

USER_TIMEOUT = 1000  # milliseconds, as libpq has it
IDLE = INTERVAL = COUNT = 1  # seconds, seconds, and how many


def _set_link(state: str) -> None:
    subprocess.run(["ip", "link", "set", "lo", state], check=True)


async def _watch(server: Postgres) -> dict[str, tuple[str, str, str, float]]:
    keepalives = {"keepalives_idle": IDLE, "keepalives_interval": INTERVAL, "keepalives_count": COUNT}
    busy = await AsyncConn.connect(server.dsn, tcp_user_timeout=USER_TIMEOUT)
    idle = await AsyncConn.connect(server.dsn, **keepalives)
    _set_link("down")
    begin = time.monotonic()
    error = await outcome_of(busy.exec_query("select 1"))
    told = {"busy": (type(error).__name__, str(error), error.outcome.name, time.monotonic() - begin)}
    await until(lambda: not idle.is_alive, "the idle one to be seen")
    seconds = time.monotonic() - begin
    error = await outcome_of(asyncio.wait_for(_ask(idle), 1))
    told["idle"] = (type(error).__name__, str(error), error.outcome.name, seconds)
    _set_link("up")
    async with await AsyncConn.connect(server.dsn) as again:
        await again.exec_query("select 1")
    return told


async def _ask(conn: AsyncConn) -> None:
    await conn.exec_query("select 1")


if __name__ == "__main__":
    _set_link("up")
    with Postgres.launch(source=sys.argv[1] if len(sys.argv) > 1 else None) as server:  # type: ignore[arg-type]
        print(json.dumps(asyncio.run(_watch(server))))
