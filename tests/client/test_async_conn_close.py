"""Closing: close() finishes submitted requests; abort() fails each one with the outcome that its position implies."""

from __future__ import annotations

import asyncio
import gc
import socket
import time
from collections.abc import Callable
from typing import Any

import pytest

from pg_wired import (
    AsyncConn,
    AsyncPool,
    ConfigError,
    ConnectionClosed,
    Outcome,
    PgError,
    PgWireError,
    RequestTimeout,
    ResponseCollector,
    Rows,
    UsageError,
    WireConn,
)
from pg_wired.protocol import messages as m
from pg_wired.testing import FakePG, Peer
from rig.checks import LATE, SOON, ends_clean, outcome_of, until, until_sql
from rig.postgres import Server

pytestmark = pytest.mark.both_loops

ROW = [(b"1",)]


async def closed(conn: AsyncConn) -> None:
    """After the end every request is refused at once, and cancelling, closing or aborting has no effect."""
    assert not conn.is_alive and conn.is_broken and conn.in_flight == 0
    group = m.encode(m.Sync())
    asks: list[Callable[[], Any]] = [
        lambda: conn.exec_query("select 1"),
        lambda: conn.simple_query("select 1"),
        lambda: conn.describe("select 1"),
        lambda: conn.submit(group),
        lambda: conn.submit_batch([(group, ResponseCollector.ROWS)]),
    ]
    for ask in asks:
        with pytest.raises(ConnectionClosed) as caught:
            await ask()
        assert caught.value.outcome is Outcome.NOT_SENT
    await conn.cancel_token().cancel()
    await conn.close()
    conn.abort()
    assert "closed" in repr(conn)


@ends_clean()
async def test_closing_an_idle_connection_sends_terminate_and_a_fin() -> None:
    async def script(peer: Peer) -> None:
        await peer.startup()
        await peer.expect(m.Terminate)
        peer.sock.shutdown(socket.SHUT_WR)
        await peer.eof()  # a FIN, not a RST

    async with FakePG(script) as fake:
        conn = await AsyncConn.connect(fake.dsn)
        await conn.close()
        await closed(conn)


@ends_clean()
async def test_close_ends_the_session_on_the_server(postgres: Server) -> None:
    async with await AsyncConn.connect(postgres.dsn) as admin:
        conn = await AsyncConn.connect(postgres.dsn)
        await conn.exec_query("select 1")
        await conn.close()
        await closed(conn)
        await until_sql(admin, f"select count(*) = 0 from pg_stat_activity where pid = {conn.backend_pid}")


@ends_clean()
async def test_close_finishes_submitted_requests_and_refuses_new_ones(postgres: Server) -> None:
    conn = await AsyncConn.connect(postgres.dsn, max_in_flight=7)
    replies = [conn.exec_query("select $1::int4, pg_sleep(0.0001)", (str(n),)) for n in range(100)]
    closing = asyncio.ensure_future(conn.close())
    await asyncio.sleep(0)
    with pytest.raises(ConnectionClosed, match="close") as caught:
        conn.exec_query("select 'too late'")
    assert caught.value.outcome is Outcome.NOT_SENT
    assert [list(rows) for rows in await asyncio.gather(*replies)] == [[(b"%d" % n, b"")] for n in range(100)]
    await closing
    await closed(conn)


@ends_clean()
async def test_several_tasks_can_close_at_once(postgres: Server) -> None:
    conn = await AsyncConn.connect(postgres.dsn)
    reply = conn.exec_query("select pg_sleep(0.05), 1")
    await asyncio.gather(*[conn.close() for _ in range(10)])
    assert list(await reply) == [(b"", b"1")]
    await closed(conn)


@ends_clean()
async def test_concurrent_closes_send_one_terminate() -> None:
    async def script(peer: Peer) -> None:
        await peer.startup()
        await peer.answer_rows(ROW)
        await peer.expect(m.Terminate)
        peer.sock.shutdown(socket.SHUT_WR)
        await peer.eof()

    async with FakePG(script) as fake:
        conn = await AsyncConn.connect(fake.dsn)
        reply = conn.exec_query("select 1")
        await asyncio.gather(reply, *[conn.close() for _ in range(5)])


@ends_clean()
async def test_close_times_out_if_the_server_does_not_answer() -> None:
    async def script(peer: Peer) -> None:
        await peer.startup()
        await peer.group()

    async with FakePG(script) as fake:
        conn = await AsyncConn.connect(fake.dsn, max_in_flight=1)
        replies = [conn.exec_query("select 1") for _ in range(3)]
        begin = time.monotonic()
        with pytest.raises(RequestTimeout, match="3 requests"):
            await conn.close(timeout=0.1)
        assert 0.099 <= time.monotonic() - begin < 0.1 + LATE  # uvloop counts in milliseconds
        outcomes = [(await outcome_of(reply)).outcome for reply in replies]
        assert outcomes == [Outcome.UNKNOWN, Outcome.NOT_SENT, Outcome.NOT_SENT]
        await closed(conn)


@ends_clean()
async def test_close_returns_without_error_if_the_server_does_not_close() -> None:
    async def script(peer: Peer) -> None:
        await peer.startup()
        await peer.expect(m.Terminate)

    async def accept_and_wait(peer: Peer) -> None:
        await script(peer)
        await gone.wait()

    gone = asyncio.Event()
    async with FakePG(accept_and_wait) as fake:
        conn = await AsyncConn.connect(fake.dsn)
        async with asyncio.timeout(SOON):
            await conn.close(timeout=60)  # nothing was unanswered: it does not wait for the server
        gone.set()
        await closed(conn)


@ends_clean()
async def test_a_cancelled_close_closes_at_once(postgres: Server) -> None:
    conn = await AsyncConn.connect(postgres.dsn)
    reply = conn.exec_query("select pg_sleep(5)")
    closing = asyncio.ensure_future(conn.close())
    await asyncio.sleep(0.01)
    closing.cancel()
    assert isinstance(await outcome_of(closing), asyncio.CancelledError)
    error = await outcome_of(reply)
    assert isinstance(error, ConnectionClosed) and error.outcome is Outcome.UNKNOWN
    await closed(conn)


@ends_clean()
async def test_abort_fails_each_request_with_the_outcome_of_its_position() -> None:
    async def script(peer: Peer) -> None:
        await peer.startup()
        await peer.answer_rows(ROW)
        await peer.group()
        await peer.group()
        heard.set()

    heard = asyncio.Event()
    async with FakePG(script) as fake:
        conn = await AsyncConn.connect(fake.dsn, max_in_flight=2)
        replies = [conn.exec_query("select 1") for _ in range(5)]
        assert list(await replies[0]) == ROW
        await heard.wait()
        same_turn = conn.exec_query("select 1")
        conn.abort()
        results = await asyncio.gather(*replies[1:], same_turn, return_exceptions=True)
        assert all(isinstance(result, ConnectionClosed) for result in results)
        outcomes = [result.outcome for result in results if isinstance(result, PgWireError)]
        assert outcomes == [Outcome.UNKNOWN] * 2 + [Outcome.NOT_SENT] * 3
        assert all("abort" in str(result) for result in results)
        await closed(conn)


@ends_clean()
async def test_abort_in_the_same_loop_iteration_has_sent_only_the_first_request(postgres: Server) -> None:
    conn = await AsyncConn.connect(postgres.dsn)
    replies = [conn.exec_query("select 1") for _ in range(3)]
    conn.abort()
    outcomes = [(await outcome_of(reply)).outcome for reply in replies]
    assert outcomes == [Outcome.UNKNOWN, Outcome.NOT_SENT, Outcome.NOT_SENT]
    await closed(conn)


@ends_clean()
async def test_leaving_the_block_waits_for_a_thousand_answers(postgres: Server) -> None:
    async with await AsyncConn.connect(postgres.dsn) as conn:
        replies = [conn.exec_query("select $1::int4", (str(n),)) for n in range(1000)]
    assert all(isinstance(reply.result(), Rows) for reply in replies)
    await closed(conn)


@ends_clean()
async def test_close_leaves_no_task_while_a_cancel_request_is_under_way() -> None:
    async def script(peer: Peer) -> None:
        await peer.startup()
        await peer.group()
        await peer.cancel_request()
        await peer.send(m.ParseComplete(), m.ErrorResponse((("S", "ERROR"), ("C", "57014"))), m.ReadyForQuery("I"))
        await peer.expect(m.Terminate)
        peer.close()

    async with FakePG(script, hold_cancels=True) as fake:
        conn = await AsyncConn.connect(fake.dsn)
        reply = conn.exec_query("select pg_sleep(30)")
        await asyncio.sleep(0.05)
        reply.cancel()
        await until(lambda: "ReadyForQuery" in fake.transcript().split("Sync")[-1], "the answer")
        await conn.close(timeout=2)
        # no task of the connection remains, not even the one that waits for the server to accept the cancel request
        assert asyncio.all_tasks() - fake._tasks == {asyncio.current_task()}
        await closed(conn)


@ends_clean()
async def test_a_dropped_connection_warns_and_closes(postgres: Server) -> None:
    async with await AsyncConn.connect(postgres.dsn) as admin:
        conn = await AsyncConn.connect(postgres.dsn)
        await conn.exec_query("select 1")
        await asyncio.sleep(0.05)  # the watchdog has made its check and is idle
        pid = conn.backend_pid
        with pytest.warns(ResourceWarning, match=f"unclosed <AsyncConn .* pid={pid}"):
            del conn
            gc.collect()
        await until_sql(admin, f"select count(*) = 0 from pg_stat_activity where pid = {pid}")


@ends_clean()
async def test_requests_of_a_dropped_connection_still_end(postgres: Server) -> None:
    conn = await AsyncConn.connect(postgres.dsn)
    replies = [conn.exec_query("select pg_sleep(0.1), $1::int4", (str(n),)) for n in range(2)]
    with pytest.warns(ResourceWarning, match="unclosed <AsyncConn"):
        del conn
        gc.collect()
        for n, reply in enumerate(replies):
            result = await outcome_of(reply)
            assert isinstance(result, ConnectionClosed) or list(result) == [(b"", b"%d" % n)]
        await asyncio.sleep(0.05)
        gc.collect()


@pytest.mark.parametrize("error", [ValueError("mine"), asyncio.CancelledError()])
@ends_clean()
async def test_an_exception_in_the_block_propagates_and_stops_its_requests(
    postgres: Server, error: BaseException
) -> None:
    begin = time.monotonic()
    with pytest.raises(type(error)) as caught:
        async with await AsyncConn.connect(postgres.dsn) as conn:
            reply = conn.exec_query("select pg_sleep(60)")
            raise error
    assert caught.value is error and time.monotonic() - begin < SOON - 1  # close() would wait for ten seconds
    ended = await outcome_of(reply)
    assert isinstance(ended, PgError) and ended.code == "57014"  # it was stopped


@ends_clean()
async def test_ending_from_another_thread_is_refused_unless_already_closed(postgres: Server) -> None:
    """The call would not wake up the loop. If no loop is running, there is none to wake up."""
    async with (
        await AsyncConn.connect(postgres.dsn) as conn,
        await WireConn.connect(postgres.dsn) as wire,
        await AsyncPool.connect(postgres.dsn, size=1) as pool,
    ):
        for verb in (conn.abort, wire.abort, pool.abort, conn.mark_broken, pool.get().mark_broken):
            with pytest.raises(UsageError, match="call_soon_threadsafe"):
                await asyncio.to_thread(verb)
        assert not conn.is_broken
        waiting = conn.exec_query("select pg_sleep(60)")
        asyncio.get_running_loop().call_soon_threadsafe(conn.abort)
        assert isinstance(await outcome_of(waiting), ConnectionClosed)
        assert await pool.exec_query("select 1")
    for each in (conn, wire, pool):
        await asyncio.to_thread(each.abort)  # there is nothing left to end
    await asyncio.get_running_loop().shutdown_default_executor()


@ends_clean()
async def test_a_connection_dropped_in_another_thread_is_closed_by_its_loop(postgres: Server) -> None:
    """The garbage collector runs in any thread; the loop, which in debug mode checks the calling thread, closes it."""
    asyncio.get_running_loop().set_debug(True)
    async with await AsyncConn.connect(postgres.dsn) as admin:
        held = [await AsyncConn.connect(postgres.dsn)]
        pid, gone = held[0].backend_pid, held[0]._core.transport.closed

        def drop() -> None:
            held.clear()
            gc.collect()

        with pytest.warns(ResourceWarning, match=f"unclosed <AsyncConn .* pid={pid}"):
            await asyncio.to_thread(drop)
        await asyncio.wait_for(gone, SOON)
        await until_sql(admin, f"select count(*) = 0 from pg_stat_activity where pid = {pid}")
    asyncio.get_running_loop().set_debug(False)
    await asyncio.get_running_loop().shutdown_default_executor()


@ends_clean()
async def test_calling_the_constructor_says_how_to_connect() -> None:
    with pytest.raises(TypeError, match=r"await AsyncConn\.connect\(dsn\)"):
        AsyncConn("host=localhost")  # type: ignore[arg-type]


@pytest.mark.parametrize(("timeout", "error"), [(-1, ConfigError), (float("nan"), ConfigError), ("5", TypeError)])
@ends_clean()
async def test_invalid_timeouts_are_refused_by_close_and_cancel(
    postgres: Server, timeout: Any, error: type[Exception]
) -> None:
    async with await WireConn.connect(postgres.dsn) as wire, await AsyncConn.connect(postgres.dsn) as conn:
        for take in (conn.close, wire.close, conn.cancel_token().cancel):
            with pytest.raises(error, match="timeout is "):
                await take(timeout)
        assert await conn.exec_query("select 1")
