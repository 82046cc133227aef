"""A shared connection has no transactions: opening one is an error, and no request that ran inside one succeeds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from pg_wired import AsyncConn, ConnectionClosed, Outcome, PgError, TransactionError, TransactionStatus
from pg_wired.protocol import messages as m
from pg_wired.testing import FakePG, Peer
from rig.checks import answers, ends_clean, outcome_of, until
from rig.postgres import Postgres

pytestmark = pytest.mark.both_loops

REJECTED, UNKNOWN = Outcome.REJECTED, Outcome.UNKNOWN


@pytest.fixture(scope="module")
def server(pytestconfig: pytest.Config) -> Iterator[Postgres]:
    with Postgres.launch(source=pytestconfig.getoption("--postgres"), max_prepared_transactions=3) as server:
        yield server


@pytest.fixture
async def conn(server: Postgres) -> AsyncIterator[AsyncConn]:
    async with await AsyncConn.connect(server.dsn) as conn:
        await conn.simple_query("drop table if exists kept; create table kept(a int)")
        yield conn


def insert(conn: AsyncConn, number: int) -> asyncio.Future[Any]:
    return conn.exec_query("insert into kept values ($1)", (str(number),))


async def kept(server: Postgres) -> list[int]:
    async with await AsyncConn.connect(server.dsn) as other:
        return [int(row[0] or b"") for row in await other.exec_query("select a from kept order by a")]


OPENING = [
    "begin",
    "start transaction isolation level serializable",
    "begin; insert into kept values (100)",
    "insert into kept values (100); begin; insert into kept values (101)",
    "begin; select 1/0",
    "commit; begin; insert into kept values (100)",
]


@pytest.mark.parametrize("sql", OPENING)
@ends_clean()
async def test_a_request_that_opens_a_transaction_fails_and_is_rolled_back(
    conn: AsyncConn, server: Postgres, sql: str
) -> None:
    with pytest.raises(TransactionError, match=r"exclusive\(\)") as caught:
        await conn.simple_query(sql)
    # the statements before BEGIN were committed, so not everything was rolled back
    assert caught.value.outcome is (UNKNOWN if sql.startswith("commit") else REJECTED)
    assert repr(sql) in str(caught.value)
    assert isinstance(caught.value.__cause__, PgError) == ("1/0" in sql)
    assert conn.transaction_status is TransactionStatus.IDLE
    await answers(conn)
    assert await kept(server) == []


@pytest.mark.parametrize("max_in_flight", [1, 2, 256])
@ends_clean()
async def test_requests_that_ran_inside_the_transaction_fail_too(
    server: Postgres, conn: AsyncConn, max_in_flight: int
) -> None:
    async with await AsyncConn.connect(server.dsn, max_in_flight=max_in_flight) as shared:
        before = [insert(shared, n) for n in range(3)]
        offender = shared.exec_query("begin")
        behind = [insert(shared, n) for n in range(10, 20)]
        asked = shared.exec_query("select count(*) from kept")
        await asyncio.gather(*before)
        error = await outcome_of(offender)
        assert isinstance(error, TransactionError) and error.outcome is REJECTED and "'begin'" in str(error)
        results = await asyncio.gather(*behind, return_exceptions=True)
        inside = [n for n, result in enumerate(results, 10) if isinstance(result, TransactionError)]
        assert len(inside) <= max_in_flight - 1 and (len(inside) == 10 or max_in_flight < 256)
        assert all(result.outcome is REJECTED for result in results if isinstance(result, TransactionError))
        ran = [n for n, result in enumerate(results, 10) if not isinstance(result, BaseException)]
        assert inside + ran == list(range(10, 20))
        assert await kept(server) == [0, 1, 2, *ran]
        if max_in_flight == 256:
            assert isinstance(await outcome_of(asked), TransactionError)
        else:
            await asked
        await insert(shared, 99)
        assert await kept(server) == [0, 1, 2, *ran, 99]


ENDINGS: list[tuple[str, Outcome, bool]] = [
    ("rollback", REJECTED, False),
    ("commit", UNKNOWN, True),
    ("end", UNKNOWN, True),
    ("commit and chain", UNKNOWN, True),
    ("rollback and chain", REJECTED, False),
    ("prepare transaction 'prepared'", UNKNOWN, False),
    ("select 1/0", REJECTED, False),
]


@pytest.mark.parametrize(("ending", "outcome", "is_kept"), ENDINGS)
@ends_clean()
async def test_the_end_of_the_transaction_decides_the_outcome(
    conn: AsyncConn, server: Postgres, ending: str, outcome: Outcome, is_kept: bool
) -> None:
    replies = [conn.exec_query("begin"), insert(conn, 1), conn.exec_query(ending), insert(conn, 2)]
    results = await asyncio.gather(*replies, return_exceptions=True)
    inside = results[:3]
    assert [type(result) for result in inside] == [TransactionError] * 3
    assert [getattr(result, "outcome", None) for result in inside] == [outcome] * 3
    assert isinstance(inside[2].__cause__, PgError) == ("1/0" in ending)
    is_over = not isinstance(results[3], BaseException)
    assert is_over == (ending in ("rollback", "commit", "end") or ending.startswith("prepare"))
    assert await kept(server) == [1] * is_kept + [2] * is_over
    if ending.startswith("prepare"):
        await conn.exec_query("commit prepared 'prepared'")
        assert await kept(server) == [1, 2]
    await answers(conn)


@ends_clean()
async def test_a_commit_of_a_failed_transaction_is_a_rollback(conn: AsyncConn, server: Postgres) -> None:
    replies = [conn.exec_query(sql) for sql in ("begin", "insert into kept values (1)", "select 1/0", "commit")]
    results = await asyncio.gather(*replies, return_exceptions=True)
    assert [(type(result), getattr(result, "outcome", None)) for result in results] == [
        (TransactionError, REJECTED)
    ] * 4
    assert await kept(server) == []
    await answers(conn)


@ends_clean()
async def test_each_of_several_transactions_fails_with_its_own_outcome(conn: AsyncConn, server: Postgres) -> None:
    """Several transactions in one loop iteration, each ended by its own COMMIT or ROLLBACK."""
    sqls = ["begin", "insert into kept values (1)", "commit", "insert into kept values (2)"] * 10
    sqls += ["begin", "insert into kept values (3)", "rollback", "insert into kept values (4)"] * 10
    results = await asyncio.gather(*[conn.exec_query(sql) for sql in sqls], return_exceptions=True)
    for number, (sql, result) in enumerate(zip(sqls, results, strict=True)):
        if number % 4 == 3:
            assert not isinstance(result, BaseException)
        else:
            assert isinstance(result, TransactionError), sql
            assert result.outcome is (UNKNOWN if number < 40 else REJECTED)
    assert await kept(server) == [1] * 10 + [2] * 10 + [4] * 10
    await answers(conn)


@ends_clean()
async def test_a_connection_lost_during_the_rollback_leaves_the_outcome_unknown() -> None:
    async def script(peer: Peer) -> None:
        await peer.startup()
        await peer.answer_rows([(b"1",)], status="T")
        await peer.answer_rows([(b"1",)], status="T")
        await peer.expect(m.Query("ROLLBACK"))
        peer.close()

    async with FakePG(script) as fake:
        conn = await AsyncConn.connect(fake.dsn)
        replies = [conn.exec_query("select 1"), conn.exec_query("select 1")]
        for reply in replies:
            error = await outcome_of(reply)
            assert isinstance(error, ConnectionClosed) and error.outcome is UNKNOWN


@ends_clean()
async def test_nothing_is_written_until_the_rollback_is_answered() -> None:
    async def script(peer: Peer) -> None:
        await peer.startup()
        await peer.answer_rows([(b"1",)], status="T")
        await peer.expect(m.Query("ROLLBACK"))
        rolling_back.set()
        await submitted.wait()
        assert not conn._core.session.out and peer.talk.take() is None
        await peer.send(m.CommandComplete("ROLLBACK"), m.ReadyForQuery("I"))
        await peer.answer_rows([(b"2",)])

    rolling_back, submitted = asyncio.Event(), asyncio.Event()
    async with FakePG(script) as fake, await AsyncConn.connect(fake.dsn) as conn:
        offender = conn.exec_query("begin")
        await rolling_back.wait()
        assert not offender.done()
        following = conn.exec_query("select 2")
        submitted.set()
        assert isinstance(await outcome_of(offender), TransactionError)
        assert list(await following) == [(b"2",)]


@ends_clean()
async def test_a_transaction_still_open_after_the_rollback_ends_the_connection() -> None:
    async def script(peer: Peer) -> None:
        await peer.startup()
        await peer.answer_rows([(b"1",)], status="T")
        await peer.expect(m.Query("ROLLBACK"))
        await peer.send(m.CommandComplete("ROLLBACK"), m.ReadyForQuery("T"))
        await peer.eof()

    async with FakePG(script) as fake:
        conn = await AsyncConn.connect(fake.dsn)
        error = await outcome_of(conn.exec_query("begin"))
        assert getattr(error, "outcome", None) is UNKNOWN and not conn.is_alive


# ---- settings


@ends_clean()
async def test_a_setting_applies_to_all_later_requests(conn: AsyncConn) -> None:
    await conn.exec_query("set search_path = pg_catalog")
    assert list(await conn.exec_query("show search_path")) == [(b"pg_catalog",)]
    await conn.exec_query("set timezone = 'Asia/Tokyo'")
    assert conn.is_alive and conn.parameters["TimeZone"] == "Asia/Tokyo"


RETIRING = [
    "set client_encoding = 'latin1'",
    "set standard_conforming_strings = off",
    "set session authorization other",
]


@pytest.mark.parametrize("sql", RETIRING)
@ends_clean()
async def test_settings_that_change_the_meaning_of_sql_or_data_retire_the_connection(
    server: Postgres, sql: str
) -> None:
    async with await AsyncConn.connect(server.dsn) as admin:
        await outcome_of(admin.exec_query("create role other"))
    for max_in_flight, refused in ((1, 2), (256, 0)):  # requests that are already encoded are still answered
        conn = await AsyncConn.connect(server.dsn, max_in_flight=max_in_flight)
        replies = [conn.exec_query(each) for each in ("select 1", sql, "select 2", "select 3")]
        results = await asyncio.gather(*replies, return_exceptions=True)
        assert [isinstance(result, ConnectionClosed) for result in results] == [False] * (4 - refused) + [
            True
        ] * refused
        assert all(result.outcome is Outcome.NOT_SENT for result in results if isinstance(result, ConnectionClosed))
        assert not conn.is_alive and conn.is_broken
        with pytest.raises(ConnectionClosed, match="changed from") as caught:
            conn.exec_query("select 4")
        assert caught.value.outcome is Outcome.NOT_SENT
        await until(lambda conn=conn: conn._core.transport.is_closed, "its own end")  # type: ignore[misc]
        await conn.close()
