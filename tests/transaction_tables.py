"""What the tests of exec_transaction write to: a table whose key is checked at COMMIT, and one for their setups."""

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
    """What is committed, as the server tells another connection."""
    return await column(conn, "select a from done order by a")


async def usable(conn: AsyncConn) -> None:
    """No transaction is open, here or for the server, and the next one gets its own answer."""
    await answers(conn)
    assert conn.transaction_status is TransactionStatus.IDLE
