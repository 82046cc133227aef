"""Helper functions for tests of requests: how each one ended, as plain values, and its effect on the server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from pg_wired import AsyncConn, Outcome, PgWireError, Rows
from pg_wired.testing import Peer
from rig.checks import outcome_of, until_sql

# A statement that calls this waits while the `gate` is shut: for as long as the test wants, independent of time.
GATE = "pg_advisory_xact_lock_shared(1)"
# Seconds, more than one check of the watchdog: for tests that something does not happen.
A_WHILE = 0.06
ABORTED = ("PipelineAborted", Outcome.REJECTED)


def settings(end: Any) -> Any:
    """A command tag; or an error's SQLSTATE (its class name if it has none) and its outcome."""
    if isinstance(end, Rows):
        return end.command_tag
    assert isinstance(end, PgWireError), repr(end)
    return getattr(end, "code", type(end).__name__), end.outcome


async def ends(*replies: Awaitable[Any]) -> list[Any]:
    """How each reply ended, awaited in order."""
    return [settings(await outcome_of(reply)) for reply in replies]


async def column(conn: AsyncConn, sql: str) -> list[int]:
    """The numbers in the only column."""
    return [int(row[0] or b"") for row in await conn.exec_query(sql)]


async def until_asleep(admin: AsyncConn, pid: int | None) -> None:
    """Wait until that session is inside pg_sleep, according to pg_stat_activity."""
    await until_sql(admin, f"select wait_event = 'PgSleep' from pg_stat_activity where pid = {pid}")


async def nothing_comes(peer: Peer) -> None:
    """The client must not send anything for a while."""
    loop = asyncio.get_running_loop()
    assert not peer.talk.unread
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(A_WHILE):
            data = await loop.sock_recv(peer.sock, 1000)
            pytest.fail(f"the client sent {data!r}")


@asynccontextmanager
async def gate(dsn: str) -> AsyncIterator[None]:
    """Shut the gate on that server inside the block."""
    async with await AsyncConn.connect(dsn) as keeper:
        await keeper.exec_query("select pg_advisory_lock(1)")
        yield
