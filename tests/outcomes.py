"""How requests ended, as plain values, and what they left on the server: the words that tests of the verbs share."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import Any

from pg_wired import AsyncConn, Outcome, PgWireError, Rows
from rig.checks import outcome_of, until_sql

# What no statement gets past while somebody has shut the `gate`: it takes as long as a test wants, not as a clock does.
GATE = "pg_advisory_xact_lock_shared(1)"
ABORTED = ("PipelineAborted", Outcome.REJECTED)


def settings(end: Any) -> Any:
    """A command tag; or the SQLSTATE, else the class, of an error, with what it says of the effect."""
    if isinstance(end, Rows):
        return end.command_tag
    assert isinstance(end, PgWireError), repr(end)
    return getattr(end, "code", type(end).__name__), end.outcome


async def ends(*replies: Awaitable[Any]) -> list[Any]:
    """How each of them ended, awaited in order."""
    return [settings(await outcome_of(reply)) for reply in replies]


async def column(conn: AsyncConn, sql: str) -> list[int]:
    """The numbers in the only column."""
    return [int(row[0] or b"") for row in await conn.exec_query(sql)]


async def until_asleep(admin: AsyncConn, pid: int | None) -> None:
    """Until that session is inside pg_sleep, as the server tells another one."""
    await until_sql(admin, f"select wait_event = 'PgSleep' from pg_stat_activity where pid = {pid}")


@asynccontextmanager
async def gate(dsn: str) -> AsyncIterator[None]:
    """It is shut on that server inside the block."""
    async with await AsyncConn.connect(dsn) as keeper:
        await keeper.exec_query("select pg_advisory_lock(1)")
        yield
