"""The tables that tests of exec_transaction write to: one whose key is checked at COMMIT, and one for setups."""

from __future__ import annotations

from pg_wired import AsyncConn, TransactionStatus
from rig.checks import answers
from tests.outcomes import column

INSERT = "insert into done values ($1)"
TABLES = """
    drop table if exists done, setups;
    create table done(a int primary key deferrable initially deferred);
    create table setups(a int);
"""


async def done(conn: AsyncConn) -> list[int]:
    """The committed numbers, as another connection sees them."""
    return await column(conn, "select a from done order by a")


async def usable(conn: AsyncConn) -> None:
    """Assert that no transaction is open, here or on the server, and that the connection still answers."""
    await answers(conn)
    assert conn.transaction_status is TransactionStatus.IDLE
