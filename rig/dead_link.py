"""Connections whose network fails, in a separate network namespace: `unshare -n python -m rig.dead_link`.

Prints as JSON the errors of three of them, and the seconds until each: one without a free local port, one with an
unacknowledged request and tcp_user_timeout, and an idle one with keepalives. Needs root, only for the namespace.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from pathlib import Path

from pg_wired import AsyncConn, PgWireError

from .checks import outcome_of, until
from .postgres import Postgres

USER_TIMEOUT = 1000  # milliseconds, as in libpq
IDLE = INTERVAL = COUNT = 1  # seconds, seconds, and a number of probes
PORTS = Path("/proc/sys/net/ipv4/ip_local_port_range")


async def _use_up_ports(server: Postgres) -> tuple[str, str, str, float]:
    """Connect until the two local ports left are used up; restore the range, and check that all connections work."""
    before = PORTS.read_text()
    PORTS.write_text("40000 40001")
    conns: list[AsyncConn] = []
    try:
        while True:
            begin = time.monotonic()
            conns.append(await AsyncConn.connect(server.dsn))
            assert len(conns) < 3, "a port too many"
    except PgWireError as error:
        found = (type(error).__name__, str(error), error.outcome.name, time.monotonic() - begin)
    PORTS.write_text(before)
    async with await AsyncConn.connect(server.dsn) as again:
        await asyncio.gather(*[conn.exec_query("select 1") for conn in (*conns, again)])
    await asyncio.gather(*[conn.close() for conn in conns])
    return found


def _set_link(state: str) -> None:
    subprocess.run(["ip", "link", "set", "lo", state], check=True)


async def _watch(server: Postgres) -> dict[str, tuple[str, str, str, float]]:
    ports = await _use_up_ports(server)
    keepalives = {"keepalives_idle": IDLE, "keepalives_interval": INTERVAL, "keepalives_count": COUNT}
    busy = await AsyncConn.connect(server.dsn, tcp_user_timeout=USER_TIMEOUT)
    idle = await AsyncConn.connect(server.dsn, **keepalives)
    _set_link("down")
    begin = time.monotonic()
    error = await outcome_of(busy.exec_query("select 1"))
    told = {"ports": ports, "busy": (type(error).__name__, str(error), error.outcome.name, time.monotonic() - begin)}
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
