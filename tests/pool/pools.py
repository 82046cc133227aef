"""Helper functions that the tests of the pool share."""

from __future__ import annotations

from contextlib import AsyncExitStack

import pytest

from pg_wired import AsyncConn, AsyncPool, ExclusiveConn, PoolExhausted, Rows
from rig.checks import until


def shared_conns(pool: AsyncPool) -> list[AsyncConn]:
    """The shared connections of a pool, as its users get them from `get`."""
    return [pool._connections.conns[core] for core in pool._shared.cores]


def pid(rows: Rows) -> int:
    """The process id of the backend that answered, from the first column."""
    return int(rows[0][0] or b"")


async def pid_of(mine: ExclusiveConn) -> int:
    """The process id of this connection's backend."""
    return pid(await mine.exec_query("select pg_backend_pid()"))


async def conserved(pool: AsyncPool, limit: int) -> None:
    """Assert that no connection is checked out, and that exactly `limit` can be checked out at once."""
    await until(lambda: pool.stats().lent == 0 and pool.stats().waiting == 0, "all to be back")
    async with AsyncExitStack() as stack:
        for _ in range(limit):
            await stack.enter_async_context(pool.exclusive(acquire_timeout=5))
        with pytest.raises(PoolExhausted):
            await stack.enter_async_context(pool.exclusive(acquire_timeout=0))
