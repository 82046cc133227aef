"""A real server ends the connection: noticed at once, with its last message as the cause and the right outcomes."""

from __future__ import annotations

import asyncio
import os
import re
import signal
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from pg_wired import AsyncConn, ConnectionClosed, IoError, Outcome, PgError, PgWireError, Rows
from rig.checks import ends_clean, outcome_of, repeatable, until
from rig.postgres import Mode, Postgres

pytestmark = pytest.mark.both_loops

# The SQLSTATE of the last message that a server sends, if any, before it ends a connection.
SHUTDOWN, CRASH = "57P01", "57P02"


@pytest.fixture(scope="module")
def server(pytestconfig: pytest.Config) -> Iterator[Postgres]:
    with Postgres.launch(source=pytestconfig.getoption("--postgres"), restart_after_crash=True) as server:
        yield server


@pytest.fixture
async def conn(server: Postgres) -> AsyncIterator[AsyncConn]:
    conn = await AsyncConn.connect(server.dsn)
    await conn.simple_query("drop table if exists ledger; create table ledger(a int)")
    yield conn
    await conn.close()


@pytest.fixture
async def admin(server: Postgres) -> AsyncIterator[AsyncConn]:
    async with await AsyncConn.connect(server.dsn) as conn:
        yield conn


def insert(conn: AsyncConn, number: int) -> asyncio.Future[Any]:
    return conn.exec_query("insert into ledger values ($1)", (str(number),))


async def ledger(server: Postgres) -> set[int]:
    async with await AsyncConn.connect(server.dsn) as other:
        return {int(row[0] or b"") for row in await other.exec_query("select a from ledger")}


def cause_of(error: Any) -> str | None:
    assert isinstance(error, ConnectionClosed), repr(error)
    assert error.__cause__ is None or isinstance(error.__cause__, PgError)
    return error.__cause__.code if error.__cause__ else None


async def terminate(admin: AsyncConn, conn: AsyncConn) -> None:
    await admin.exec_query(f"select pg_terminate_backend({conn.backend_pid}, 5000)")


@ends_clean()
async def test_termination_while_idle_is_noticed_and_explained_to_later_requests(
    conn: AsyncConn, admin: AsyncConn
) -> None:
    await terminate(admin, conn)
    await until(lambda: not conn.is_alive, "the death to be seen")
    assert conn.is_broken
    for _ in range(2):  # after its last message, and after it has closed
        with pytest.raises(ConnectionClosed, match="terminating connection") as caught:
            conn.exec_query("select 1")
        assert (cause_of(caught.value), caught.value.outcome) == (SHUTDOWN, Outcome.NOT_SENT)
        await until(lambda: conn._core.transport.is_closed, "the close")


@ends_clean()
async def test_termination_during_a_query_fails_it_and_later_requests_as_unknown(
    conn: AsyncConn, admin: AsyncConn, server: Postgres
) -> None:
    before = [insert(conn, n) for n in range(5)]
    running = conn.exec_query("insert into ledger select 50 from pg_sleep(30)")
    behind = [insert(conn, n) for n in range(60, 65)]
    await asyncio.gather(*before)
    await terminate(admin, conn)
    for reply in (running, *behind):
        error = await outcome_of(reply)
        assert (cause_of(error), error.outcome) == (SHUTDOWN, Outcome.UNKNOWN)
    assert await ledger(server) == set(range(5))


@ends_clean()
async def test_termination_fails_unsent_requests_as_not_sent(
    server: Postgres, admin: AsyncConn, conn: AsyncConn
) -> None:
    async with await AsyncConn.connect(server.dsn, max_in_flight=2) as narrow:
        replies = [narrow.exec_query("select pg_sleep(30)"), *[insert(narrow, n) for n in range(5)]]
        await asyncio.sleep(0)
        await terminate(admin, narrow)
        errors = [await outcome_of(reply) for reply in replies]
        assert [error.outcome for error in errors] == [Outcome.UNKNOWN] * 2 + [Outcome.NOT_SENT] * 4
        assert {cause_of(error) for error in errors} == {SHUTDOWN}
    assert await ledger(server) == set()


@ends_clean()
async def test_idle_session_timeout_ends_the_connection_with_its_error(server: Postgres, admin: AsyncConn) -> None:
    if int(re.match(r"\d+", server.version)[0]) < 14:  # type: ignore[index]
        return
    async with await AsyncConn.connect(server.dsn) as conn:
        await conn.exec_query("set idle_session_timeout = '20ms'")
        await until(lambda: not conn.is_alive, "the end")
        with pytest.raises(ConnectionClosed) as caught:
            conn.exec_query("select 1")
        assert cause_of(caught.value) == "57P05"


@ends_clean()
async def test_a_statement_timeout_does_not_end_the_connection(conn: AsyncConn) -> None:
    await conn.exec_query("set statement_timeout = '500ms'")
    replies = [conn.exec_query("select 1"), conn.exec_query("select pg_sleep(5)"), conn.exec_query("select 3")]
    results = await asyncio.gather(*replies, return_exceptions=True)
    assert isinstance(results[1], PgError)
    assert (results[1].code, results[1].outcome) == ("57014", Outcome.REJECTED)
    assert isinstance(results[0], Rows) and isinstance(results[2], Rows)


@ends_clean()
async def test_termination_after_a_commit_leaves_the_outcome_unknown(
    conn: AsyncConn, admin: AsyncConn, server: Postgres
) -> None:
    running = conn.simple_query("begin; insert into ledger values (7); commit; select pg_sleep(30)")
    while await ledger(server) != {7}:
        await asyncio.sleep(0.005)
    await terminate(admin, conn)
    error = await outcome_of(running)
    assert (cause_of(error), error.outcome) == (SHUTDOWN, Outcome.UNKNOWN)
    assert await ledger(server) == {7}


async def under_load(server: Postgres, mode: Mode) -> tuple[dict[int, Any], dict[int, Any]]:
    """Stop the server while many tasks insert: return the result of each insert, and the errors of idle connections."""
    rng = repeatable()
    load = await AsyncConn.connect(server.dsn, max_in_flight=20)
    idle = [await AsyncConn.connect(server.dsn) for _ in range(3)]
    results: dict[int, Any] = {}
    numbers = iter(range(1_000_000))
    is_stopping = asyncio.Event()

    async def worker() -> None:
        while load.is_alive:
            number = next(numbers)
            try:
                results[number] = await insert(load, number)
            except PgWireError as error:
                results[number] = error
            if number > 200 + rng.randrange(200):
                is_stopping.set()

    workers = [asyncio.ensure_future(worker()) for _ in range(50)]
    await is_stopping.wait()
    await asyncio.to_thread(server.stop, mode)
    await asyncio.gather(*workers)
    await until(lambda: not any(each.is_alive for each in idle), "the idle ones to notice")
    says: dict[int, Any] = {}
    for number, each in enumerate(idle):
        try:
            each.exec_query("select 1")
        except PgWireError as error:
            says[number] = error
        await each.close()
    await load.close()
    server.start()
    return results, says


@pytest.mark.parametrize(("mode", "words"), [("fast", {SHUTDOWN}), ("immediate", {SHUTDOWN, CRASH})])
@ends_clean(60)
async def test_outcomes_are_right_when_the_server_stops_under_load(
    server: Postgres, conn: AsyncConn, mode: Mode, words: set[str]
) -> None:
    results, says = await under_load(server, mode)
    acknowledged = {number for number, result in results.items() if isinstance(result, Rows)}
    not_run = {n for n, r in results.items() if getattr(r, "outcome", None) in (Outcome.NOT_SENT, Outcome.REJECTED)}
    kept = await ledger(server)
    assert acknowledged <= kept and not not_run & kept
    assert len(acknowledged) > 100 and len(results) > len(acknowledged)
    for result in results.values():
        if not isinstance(result, Rows):
            # A server that quits at once, with requests unread, may reset the connection without a message.
            assert (mode == "immediate" and isinstance(result, IoError)) or cause_of(result) in {None, *words}, result
    heard = {cause_of(error) for error in says.values()}
    assert len(says) == 3 and heard & words
    # A backend that must quit during a send leaves no message either: it has answered and has not run since.
    assert heard <= words | ({None} if mode == "immediate" else set())


@ends_clean(60)
async def test_a_killed_backend_ends_all_sessions_with_outcome_unknown(
    conn: AsyncConn, admin: AsyncConn, server: Postgres
) -> None:
    """Its connection ends without a message. The server treats it as a crash and ends other sessions with a notice."""
    running = conn.exec_query("select pg_sleep(30)")
    neighbour = admin.exec_query("select pg_sleep(30)")
    await asyncio.sleep(0.05)
    assert conn.backend_pid
    os.kill(conn.backend_pid, signal.SIGKILL)
    error = await outcome_of(running)
    assert isinstance(error, ConnectionClosed | IoError) and error.outcome is Outcome.UNKNOWN
    error = await outcome_of(neighbour)
    assert (cause_of(error), error.outcome) == (CRASH, Outcome.UNKNOWN)
    while True:  # until it has recovered
        try:
            async with await AsyncConn.connect(server.dsn):
                break
        except PgWireError:
            await asyncio.sleep(0.02)
