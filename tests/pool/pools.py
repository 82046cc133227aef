"""The words that the pool's tests share."""

from __future__ import annotations

from contextlib import AsyncExitStack

import pytest

from pg_wired import AsyncPool, ExclusiveConn, PoolExhausted, Rows
from rig.checks import until


def pid(rows: Rows) -> int:
    """Which session it was, by the first column."""
    return int(rows[0][0] or b"")


async def pid_of(mine: ExclusiveConn) -> int:
    """Which session this is."""
    return pid(await mine.exec_query("select pg_backend_pid()"))


async def conserved(pool: AsyncPool, limit: int) -> None:
    """Nothing is lent, and as many as ever can be borrowed at once."""
    await until(lambda: pool.stats().lent == 0 and pool.stats().waiting == 0, "all to be back")
    async with AsyncExitStack() as stack:
        for _ in range(limit):
            await stack.enter_async_context(pool.exclusive(acquire_timeout=5))
        with pytest.raises(PoolExhausted):
            await stack.enter_async_context(pool.exclusive(acquire_timeout=0))
