"""CancelToken: cancels what its session runs at that moment, and does nothing once the session has ended."""

from __future__ import annotations

import asyncio
import gc
import socket
import struct
import time
from collections.abc import AsyncIterator

import pytest

from pg_wired import (
    AsyncConn,
    AsyncPool,
    CancelToken,
    ConnConfig,
    ConnectionClosed,
    IoError,
    Outcome,
    PgError,
    RequestTimeout,
    UsageError,
)
from pg_wired.connect import cancel
from pg_wired.connect.cancel import MAX_CANCELS_AT_ONCE
from pg_wired.connect.wire_conn import connector
from pg_wired.protocol import messages as m
from pg_wired.testing import FakePG, Peer, until_terminate
from rig.checks import LATE, SOON, answers, ends_clean, outcome_of, until, until_sql
from rig.postgres import Server, free_port
from rig.randomness import chosen
from tests.outcomes import until_asleep

pytestmark = pytest.mark.both_loops


@pytest.fixture
async def conn(postgres: Server) -> AsyncIterator[AsyncConn]:
    async with await AsyncConn.connect(postgres.dsn) as conn:
        yield conn


def at(token: CancelToken, port: int) -> CancelToken:
    """The same token for another port."""
    address = token.address._replace(sockaddr=("127.0.0.1", port))
    return CancelToken(address, token.pid, token.secret_key, lambda: True, token._route, set())


@ends_clean()
async def test_a_cancel_stops_the_running_query_and_no_other(conn: AsyncConn, postgres: Server) -> None:
    before, running, behind = (
        conn.exec_query("select 'before'"),
        conn.exec_query("select pg_sleep(30)"),
        conn.exec_query("select 'behind'"),
    )
    await before
    async with await AsyncConn.connect(postgres.dsn) as admin:
        await until_asleep(admin, conn.backend_pid)
    await conn.cancel_token().cancel()
    stopped = await outcome_of(running)
    assert isinstance(stopped, PgError) and stopped.code == "57014"
    assert list(await behind) == [(b"behind",)]
    await answers(conn)


@ends_clean()
async def test_cancels_on_an_idle_session_or_with_a_wrong_key_have_no_effect(conn: AsyncConn) -> None:
    token = conn.cancel_token()
    wrong = CancelToken(token.address, token.pid, b"no-k", lambda: True, token._route, set())
    await token.cancel()
    await asyncio.gather(token.cancel(), token.cancel(), wrong.cancel())
    await answers(conn)
    running = conn.exec_query("select pg_sleep(0.2), 1")
    await wrong.cancel()
    assert list(await running) == [(b"", b"1")]


@ends_clean()
async def test_the_session_works_after_many_concurrent_cancels(conn: AsyncConn, postgres: Server) -> None:
    running = conn.exec_query("select pg_sleep(30)")
    async with await AsyncConn.connect(postgres.dsn) as admin:
        await until_asleep(admin, conn.backend_pid)
    await asyncio.gather(*[conn.cancel_token().cancel() for _ in range(20)])
    assert isinstance(await outcome_of(running), PgError)
    await until_quiet(conn)
    await answers(conn)


async def until_quiet(conn: AsyncConn) -> None:
    """Repeat a query until no late cancel request hits it."""
    while isinstance(await outcome_of(conn.exec_query("select 1")), PgError):
        pass


@ends_clean()
async def test_a_token_is_inert_once_its_session_has_ended(conn: AsyncConn, postgres: Server) -> None:
    """Its process id may belong to another session by then."""
    other = await AsyncConn.connect(postgres.dsn)
    token = other.cancel_token()
    impostor = CancelToken(
        token.address, token.pid, token.secret_key, lambda: not other._core.transport.is_closed, token._route, set()
    )
    assert token == impostor
    await other.close()
    begin = time.monotonic()
    await token.cancel()
    assert time.monotonic() - begin < SOON
    killed = await AsyncConn.connect(postgres.dsn)
    token = killed.cancel_token()
    await conn.exec_query(f"select pg_terminate_backend({killed.backend_pid})")
    await until_sql(conn, f"select count(*) = 0 from pg_stat_activity where pid = {killed.backend_pid}")
    await token.cancel()
    await killed.close()


@ends_clean()
async def test_a_token_is_immutable_and_does_not_show_its_secret_key(conn: AsyncConn) -> None:
    token = conn.cancel_token()
    assert token == conn.cancel_token() and hash(token) == hash(conn.cancel_token())
    for shown in (repr(token), str(token), f"{token}"):
        assert str(token.pid) in shown
        assert repr(token.secret_key) not in shown and token.secret_key.hex() not in shown
    with pytest.raises(AttributeError):
        token.pid = 1  # type: ignore[misc]


@ends_clean()
async def test_a_cancel_to_a_closed_port_raises_io_error(conn: AsyncConn) -> None:
    with pytest.raises(IoError, match="cancel request could not be sent"):
        await at(conn.cancel_token(), free_port()).cancel()
    await answers(conn)


@ends_clean()
async def test_a_cancel_that_the_server_does_not_accept_can_time_out_or_be_cancelled() -> None:
    async with FakePG(until_terminate, hold_cancels=True) as fake, await AsyncConn.connect(fake.dsn) as conn:
        begin = time.monotonic()
        with pytest.raises(RequestTimeout):
            await conn.cancel_token().cancel(timeout=0.1)
        assert 0.099 <= time.monotonic() - begin < 0.1 + LATE
        cancelling = asyncio.ensure_future(conn.cancel_token().cancel())
        await fake.cancels.get()
        cancelling.cancel()
        assert isinstance(await outcome_of(cancelling), asyncio.CancelledError)


@ends_clean()
async def test_the_cancel_request_carries_process_id_and_key_unchanged() -> None:
    async def script(peer: Peer) -> None:
        await peer.startup(pid=-7, key=b"\xff\0\n\x80")
        await peer.expect(m.Terminate)
        peer.close()

    async with FakePG(script) as fake, await AsyncConn.connect(fake.dsn) as conn:
        await conn.cancel_token().cancel()
        assert await fake.cancels.get() == m.CancelRequest(-7, b"\xff\0\n\x80")


@ends_clean()
async def test_a_reset_of_the_cancel_connection_is_not_an_error(conn: AsyncConn) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        loop = asyncio.get_running_loop()
        cancelling = asyncio.ensure_future(at(conn.cancel_token(), listener.getsockname()[1]).cancel())
        sock, _ = await loop.sock_accept(listener)
        with sock:
            sock.setblocking(False)
            await loop.sock_recv(sock, 100)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await cancelling


@ends_clean()
async def test_a_token_of_an_exclusive_block_works_only_in_that_block(postgres: Server, conn: AsyncConn) -> None:
    """For a pool's session, which another task may use afterwards, and for a shared connection."""
    async with await AsyncPool.connect(postgres.dsn, size=1, max_exclusive=1) as pool:
        for lender in (pool, conn):
            tokens = []
            for _ in range(2):
                block = lender.exclusive()
                with pytest.raises(UsageError, match="not open"):
                    block.cancel_token()
                async with block as mine:
                    tokens.append(mine.cancel_token())
                    assert tokens[-1].pid == mine.backend_pid
                    running = asyncio.ensure_future(mine.exec_query("select pg_sleep(30)"))
                    async with await AsyncConn.connect(postgres.dsn) as admin:
                        await until_asleep(admin, mine.backend_pid)
                    for token in tokens[:-1]:
                        assert token.pid == mine.backend_pid
                        await token.cancel()
                        await answers(conn) if lender is pool else await asyncio.sleep(0)
                        assert not running.done()
                    await tokens[-1].cancel()
                    error = await outcome_of(running)
                    assert isinstance(error, PgError) and error.code == "57014"
            async with lender.exclusive() as mine:  # entering the same block again would be a new block, too
                running = asyncio.ensure_future(mine.exec_query("select pg_sleep(0.05)"))
                await asyncio.gather(*[token.cancel() for token in tokens])
                assert await running == [(b"",)]


async def all_there(fake: FakePG) -> None:
    """Wait until the maximum number of cancel requests has come, then let others come if they are sent."""
    await until(lambda: fake.cancels.qsize() >= MAX_CANCELS_AT_ONCE, "the first ones")
    for _ in range(200):
        await asyncio.sleep(0)
    assert fake.cancels.qsize() == MAX_CANCELS_AT_ONCE


@ends_clean()
async def test_the_number_of_concurrent_cancel_requests_is_limited() -> None:
    """A server has a limited number of connections, and its sessions need them."""
    async with FakePG(until_terminate, hold_cancels=True) as fake:
        sessions = connector(ConnConfig.parse(fake.dsn))
        async with await sessions.connect() as one, await sessions.connect() as other:
            tokens = [wire.cancel_token() for wire in (one, other)] * 50
            cancelling = [asyncio.ensure_future(token.cancel(timeout=30)) for token in tokens]
            await all_there(fake)
            with pytest.raises(RequestTimeout):
                await one.cancel_token().cancel(timeout=0.01)
            fake.release_cancels()
            await asyncio.gather(*cancelling)
            assert fake.cancels.qsize() == len(tokens)
            cancelling.clear()
            gc.collect()  # drops the frames that raised exceptions hold
            assert not one.cancel_token()._route.cancels, "the loop would be kept by those who waited in it"


@ends_clean()
async def test_the_limit_of_concurrent_cancels_is_per_address() -> None:
    async with FakePG(until_terminate, hold_cancels=True) as slow, FakePG(until_terminate) as quick:
        ports = [str(ConnConfig.parse(fake.dsn).hosts[0].port) for fake in (slow, quick)]
        config = ConnConfig.parse(
            slow.dsn, host="127.0.0.1,127.0.0.1", port=",".join(ports), load_balance_hosts="random"
        )
        turned = False
        sessions = connector(config, chosen(shuffle=lambda items: items.reverse() if turned else None))
        async with await sessions.connect() as one:
            turned = True
            async with await sessions.connect() as other:
                cancelling = [
                    asyncio.ensure_future(one.cancel_token().cancel(timeout=30)) for _ in range(2 * MAX_CANCELS_AT_ONCE)
                ]
                await all_there(slow)
                await other.cancel_token().cancel()
                assert quick.cancels.qsize() == 1
                slow.release_cancels()
                await asyncio.gather(*cancelling)


@ends_clean()
async def test_a_waiting_cancel_is_not_sent_once_its_session_has_ended() -> None:
    async with FakePG(until_terminate, hold_cancels=True) as fake:
        sessions = connector(ConnConfig.parse(fake.dsn))
        async with await sessions.connect() as one:
            first = [asyncio.ensure_future(one.cancel_token().cancel()) for _ in range(MAX_CANCELS_AT_ONCE)]
            await all_there(fake)
            async with await sessions.connect() as other:
                waiting = asyncio.ensure_future(other.cancel_token().cancel())
                await asyncio.sleep(0)
            fake.release_cancels()
            await asyncio.gather(*first, waiting)
            assert fake.cancels.qsize() == MAX_CANCELS_AT_ONCE


@ends_clean()
@pytest.mark.parametrize("how", ["timeout", "cancelled"])
async def test_a_connection_with_an_unconfirmed_cancel_is_not_used_again(how: str) -> None:
    """The server may act on the request at any later time, so nothing may run on this connection by then."""

    async def script(peer: Peer) -> None:
        await peer.startup()
        await peer.eof()

    async with FakePG(script, hold_cancels=True) as fake:
        conn = await AsyncConn.connect(fake.dsn)
        async with conn.exclusive() as mine:
            cancelling = asyncio.ensure_future(mine.cancel_token().cancel(timeout=0.1 if how == "timeout" else LATE))
            await fake.cancels.get()
            if how == "cancelled":
                cancelling.cancel()
            assert isinstance(await outcome_of(cancelling), RequestTimeout | asyncio.CancelledError)
        with pytest.raises(ConnectionClosed, match="did not confirm a cancel request") as caught:
            await conn.exec_query("select 1")
        assert caught.value.outcome is Outcome.NOT_SENT and not conn.is_alive


@ends_clean()
async def test_a_pool_does_not_reuse_a_connection_with_an_unconfirmed_cancel() -> None:
    async def hit(peer: Peer) -> None:
        await peer.startup(pid=7)
        await peer.eof()

    async with (
        FakePG([until_terminate, hit, until_terminate], hold_cancels=True) as fake,
        await AsyncPool.connect(fake.dsn, size=1, max_exclusive=1) as pool,
    ):
        async with pool.exclusive() as mine:
            assert mine.backend_pid == 7
            with pytest.raises(RequestTimeout):
                await mine.cancel_token().cancel(timeout=0.1)
        async with pool.exclusive() as mine:
            assert mine.backend_pid != 7


@ends_clean()
async def test_an_unconfirmed_cancel_by_the_library_ends_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """The library cancels a query whose caller has stopped waiting."""

    async def script(peer: Peer) -> None:
        await peer.startup()
        await peer.expect(m.Parse, m.Describe, m.Bind, m.Execute, m.Sync)
        await peer.eof()

    monkeypatch.setattr(cancel, "CANCEL_TIMEOUT_SECONDS", 0.1)
    async with FakePG(script, hold_cancels=True) as fake:
        conn = await AsyncConn.connect(fake.dsn)
        conn.exec_query("select 1").cancel()
        await until(lambda: not conn.is_alive, "the end of its patience")
        with pytest.raises(ConnectionClosed, match="did not confirm a cancel request") as caught:
            await conn.exec_query("select 2")
        assert caught.value.outcome is Outcome.NOT_SENT
        conn.abort()
