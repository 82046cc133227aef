"""Refusals by PgBouncer, and the outcome of requests when it or its server ends."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any

import pytest

from pg_wired import AsyncConn, ConnectionClosed, ExclusiveConn, IoError, Outcome, PgError, RequestTimeout
from rig.checks import answers, ends_clean, outcome_of, until, until_sql
from rig.pgbouncer import PgBouncer
from rig.postgres import Postgres
from tests.outcomes import until_asleep
from tests.servers.poolers import NEW, OLD, console, own_answer, pooler

pytestmark = pytest.mark.servers

BOTH = pytest.mark.parametrize("version", [OLD, NEW])
# Works with both versions.
NO_CACHE: dict[str, Any] = {"statement_cache_size": 0}
ASLEEP = "select count(*) = {} from pg_stat_activity where wait_event = 'PgSleep'"


async def connect(bouncer: PgBouncer, **options: Any) -> AsyncConn:
    return await AsyncConn.connect(bouncer.dsn, **NO_CACHE, **options)


def words(error: Any) -> list[str]:
    """All errors that the peer sent before the connection closed, in order."""
    assert isinstance(error, ConnectionClosed), repr(error)
    assert isinstance(error.__cause__, PgError)
    return [str(error.__cause__), *getattr(error.__cause__, "__notes__", [])]


async def refusal(dsn: str, **options: Any) -> PgError:
    """The error of a refused login. PgBouncer leaves the field V out of its errors."""
    error = await outcome_of(AsyncConn.connect(dsn, **options))
    assert isinstance(error, PgError), repr(error)
    assert "V" not in error.fields and error.is_fatal and error.outcome is Outcome.NOT_SENT
    return error


# ---- refusals


@BOTH
@ends_clean(60)
async def test_a_login_that_pgbouncer_refuses_raises_its_error(launched: Postgres, version: str) -> None:
    with pooler(version, launched, max_client_conn=1) as bouncer:
        wrong = await refusal(f"{bouncer.dsn} password=wrong")
        assert "authentication failed" in wrong.message
        assert "authentication failed" in (await refusal(f"{bouncer.dsn} user=nobody")).message
        assert '"nowhere"' in (await refusal(f"{bouncer.dsn} dbname=nowhere")).message
        async with await connect(bouncer) as conn:
            assert "no more connections allowed" in (await refusal(bouncer.dsn)).message
            await answers(conn)


@BOTH
@ends_clean(60)
async def test_an_unknown_startup_parameter_is_refused_and_the_default_ones_are_not(
    launched: Postgres, version: str
) -> None:
    with pooler(version, launched) as bouncer:
        error = await refusal(bouncer.dsn, options="-c work_mem=1MB")
        assert error.code == "08P01" and "options" in error.message
        async with await connect(bouncer, application_name="own") as conn:
            await answers(conn)  # the parameters we send by default are accepted


@BOTH
@ends_clean(60)
async def test_query_wait_timeout_ends_the_connection_with_its_error(launched: Postgres, version: str) -> None:
    with pooler(version, launched, default_pool_size=1, query_wait_timeout=1) as bouncer:
        async with await connect(bouncer) as holder, await connect(bouncer) as waiter:
            async with holder.exclusive() as own:
                await own.simple_query("begin")
                error = await outcome_of(waiter.exec_query("select 1"))
                assert words(error)[0].startswith("FATAL:  query_wait_timeout")
                assert "V" not in error.__cause__.fields and error.outcome is Outcome.UNKNOWN
                await own.simple_query("commit")
            await answers(holder)


# ---- backends that end


async def commit(own: ExclusiveConn) -> None:
    await own.simple_query("commit")


@BOTH
@pytest.mark.parametrize("when", ["in a query", "in a transaction"])
@ends_clean(60)
async def test_a_killed_backend_ends_the_connection_with_both_errors(
    launched: Postgres, version: str, when: str
) -> None:
    """PgBouncer forwards the server's FATAL and adds its own error; both are kept."""
    with pooler(version, launched) as bouncer:
        async with await AsyncConn.connect(launched.dsn) as admin, await connect(bouncer) as conn:
            own = await conn.exclusive().__aenter__()
            await own.simple_query("begin")
            pid = await own_answer(own)
            asked: Awaitable[Any] | None = None
            if when == "in a query":
                asked = own.exec_query("select pg_sleep(30)")
                await until_asleep(admin, pid)
            await admin.exec_query(f"select pg_terminate_backend({pid}, 5000)")
            await until(
                lambda: conn._core.transport.is_closed, "the end of the connection"
            )  # both errors have arrived by then
            error = await outcome_of(asked or commit(own))
            assert error.outcome is (Outcome.UNKNOWN if asked else Outcome.NOT_SENT)
            said = words(error)
            assert "terminating connection due to administrator command" in said[0]
            assert len(said) == 2 and said[1].startswith("then: FATAL:  ")


@BOTH
@ends_clean(60)
async def test_a_backend_killed_while_idle_is_replaced_unnoticed(launched: Postgres, version: str) -> None:
    """No client had that backend, so PgBouncer uses another one."""
    with pooler(version, launched, default_pool_size=1) as bouncer:
        async with await AsyncConn.connect(launched.dsn) as admin, await connect(bouncer) as conn:
            pid = await own_answer(conn)
            await admin.exec_query(f"select pg_terminate_backend({pid}, 5000)")
            assert await own_answer(conn) != pid


@BOTH
@ends_clean(60)
async def test_a_cancel_request_through_pgbouncer_stops_only_our_query(launched: Postgres, version: str) -> None:
    """PgBouncer passes it to the backend that works for us at that moment, and to no other."""
    with pooler(version, launched) as bouncer:
        async with (
            await AsyncConn.connect(launched.dsn) as admin,
            await connect(bouncer) as conn,
            await connect(bouncer) as other,
        ):
            for _ in range(5):
                asleep = [each.exec_query("select pg_sleep(30)") for each in (conn, other)]
                await until_sql(admin, ASLEEP.format(2))
                await conn.cancel_token().cancel()
                error = await outcome_of(asleep[0])
                assert isinstance(error, PgError) and error.code == "57014" and error.outcome is Outcome.REJECTED
                assert not asleep[1].done()
                asleep[1].cancel()  # the library sends a CancelRequest: it is the only one in flight
                await until_sql(admin, ASLEEP.format(0))
                await conn.cancel_token().cancel()  # idle: nothing happens
                await asyncio.gather(answers(conn), answers(other))


# ---- commands of its console


@BOTH
@ends_clean(60)
async def test_requests_wait_during_a_pause_and_keep_their_deadlines(launched: Postgres, version: str) -> None:
    """After RESUME the waiting requests are answered; the late answer to a timed-out request is dropped."""
    with pooler(version, launched) as bouncer:
        async with await connect(bouncer) as conn, await connect(bouncer) as late:
            await asyncio.gather(answers(conn), answers(late))
            await console(bouncer, "PAUSE")
            waiting = [asyncio.ensure_future(own_answer(conn)) for _ in range(20)]
            timed_out = await outcome_of(late.exec_query("select 'late'", timeout=0.1))
            assert isinstance(timed_out, RequestTimeout) and timed_out.outcome is Outcome.UNKNOWN
            assert not any(each.done() for each in waiting)
            await console(bouncer, "RESUME")
            await asyncio.gather(*waiting, own_answer(late))


@BOTH
@ends_clean(60)
async def test_reconnect_replaces_the_backends_without_failing_a_request(launched: Postgres, version: str) -> None:
    """RECONNECT replaces each backend once it is free."""
    with pooler(version, launched) as bouncer:
        async with await connect(bouncer) as conn:
            before = {await own_answer(conn) for _ in range(5)}
            asked = [asyncio.ensure_future(own_answer(conn)) for _ in range(50)]
            await console(bouncer, "RECONNECT")
            await asyncio.gather(*asked)
            after = {await own_answer(conn) for _ in range(5)}
            assert not before & after


@BOTH
@pytest.mark.parametrize("how", ["KILL", "restart"])
@ends_clean(60)
async def test_a_kill_or_restart_of_pgbouncer_ends_busy_and_idle_connections(
    launched: Postgres, version: str, how: str
) -> None:
    """The end is noticed at once; the running request is UNKNOWN. Afterwards new connections succeed."""
    with pooler(version, launched) as bouncer:
        async with await connect(bouncer) as idle, await connect(bouncer) as busy:
            asleep = busy.exec_query("select pg_sleep(30)")
            async with await AsyncConn.connect(launched.dsn) as admin:
                await until_sql(admin, ASLEEP.format(1))
            await answers(idle)
            if how == "KILL":
                await console(bouncer, "KILL postgres")
                await console(bouncer, "RESUME postgres")
            else:
                bouncer.stop()
                bouncer.start()
            error = await outcome_of(asleep)
            assert isinstance(error, ConnectionClosed | IoError) and error.outcome is Outcome.UNKNOWN
            await until(lambda: not idle.is_alive, "the idle connection to end")
            async with await connect(bouncer) as again:
                await answers(again)


# ---- LISTEN


@BOTH
@ends_clean(60)
async def test_listen_in_transaction_mode_reaches_the_wrong_client(launched: Postgres, version: str) -> None:
    """LISTEN succeeds on any backend; the client that has this backend at a notification receives it."""
    with pooler(version, launched, default_pool_size=1) as bouncer:
        async with await connect(bouncer) as conn, await connect(bouncer) as other:
            receiver, stray = conn.take_notification_receiver(), other.take_notification_receiver()
            await conn.listen("news")
            async with other.exclusive() as own:
                await own.simple_query("begin")
                async with await AsyncConn.connect(launched.dsn) as admin:
                    await admin.exec_query("select pg_notify('news', 'from elsewhere')")
                await own.simple_query("commit")
            assert (stray.received, receiver.received) == (1, 0)
            # A connection gets its own notification only if LISTEN ran on the same backend: here there is only one.
            await conn.exec_query("select pg_notify('news', 'to myself')")
            assert (stray.received, receiver.received) == (1, 1)
