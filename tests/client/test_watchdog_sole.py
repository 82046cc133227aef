"""The only unanswered request is abandoned: the server has to stop it, and the next request waits."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from pg_wired import AsyncConn, AsyncPool, ConnectionClosed, Outcome, PgError, RequestTimeout, TransactionError
from pg_wired.protocol import messages as m
from pg_wired.testing import FakePG, Peer, error
from rig.checks import SOON, answers, ends_clean, outcome_of, until, until_sql
from rig.postgres import Server
from tests.outcomes import A_WHILE, nothing_comes

pytestmark = pytest.mark.both_loops

CANCELLED = error("57014", "canceling statement due to user request")


@pytest.fixture
async def conn(postgres: Server) -> AsyncIterator[AsyncConn]:
    async with await AsyncConn.connect(postgres.dsn) as conn:
        yield conn


@pytest.fixture
async def admin(postgres: Server) -> AsyncIterator[AsyncConn]:
    async with await AsyncConn.connect(postgres.dsn) as conn:
        yield conn


def idle(conn: AsyncConn) -> str:
    return f"select state = 'idle' from pg_stat_activity where pid = {conn.backend_pid}"


def running(conn: AsyncConn) -> str:
    return f"select wait_event = 'PgSleep' from pg_stat_activity where pid = {conn.backend_pid}"


@ends_clean()
async def test_a_cancelled_sole_request_is_stopped_on_the_server(conn: AsyncConn, admin: AsyncConn) -> None:
    asks: list[Callable[[], asyncio.Future[Any]]] = [
        lambda: conn.exec_query("select pg_sleep(30)"),
        lambda: conn.simple_query("select pg_sleep(30)"),
        lambda: conn.submit(m.encode(m.Query("select pg_sleep(30)"))),
    ]
    for ask in asks:
        for wait in (0.0, 0.03, 0.06):  # before and after the watchdog's check
            reply = ask()
            await until_sql(admin, running(conn))
            await asyncio.sleep(wait)
            begin = time.monotonic()
            reply.cancel()
            await until_sql(admin, idle(conn))
            assert time.monotonic() - begin < SOON
            await answers(conn)


@ends_clean()
async def test_a_cancelled_request_that_becomes_the_sole_one_is_stopped_too(conn: AsyncConn) -> None:
    for head_timeout in (None, 60):
        head = conn.exec_query("select pg_sleep(0.1)", timeout=head_timeout)
        await asyncio.sleep(0.03)  # the watchdog has checked it
        abandoned = conn.exec_query("select pg_sleep(30)")
        abandoned.cancel()
        await head
        await until(lambda: conn.in_flight == 0, "the server to stop it")
        await answers(conn)


@ends_clean()
async def test_a_far_deadline_of_an_earlier_request_does_not_delay_the_stop(conn: AsyncConn, admin: AsyncConn) -> None:
    await conn.exec_query("select 1", timeout=60)
    await asyncio.sleep(A_WHILE)
    abandoned = conn.exec_query("select pg_sleep(30)", timeout=70)
    await until_sql(admin, running(conn))
    await asyncio.sleep(A_WHILE)
    begin = time.monotonic()
    abandoned.cancel()
    await until_sql(admin, idle(conn))
    assert time.monotonic() - begin < SOON


@ends_clean()
async def test_no_cancel_request_is_sent_with_several_requests_in_flight() -> None:
    async def script(peer: Peer) -> None:
        await peer.startup()
        groups = [await peer.group() for _ in range(3)]
        assert len(groups) == 3
        await nothing_comes(peer)
        assert fake.cancels.empty()
        for _ in groups:
            await peer.send(m.EmptyQueryResponse(), m.ReadyForQuery("I"))

    async with FakePG(script) as fake, await AsyncConn.connect(fake.dsn) as conn:
        replies = [conn.simple_query("") for _ in range(3)]
        replies[0].cancel()
        replies[1].cancel()
        await replies[2]
        assert fake.cancels.empty()


@pytest.mark.parametrize("last", ["cancel connection", "ReadyForQuery"])
@ends_clean()
async def test_the_next_request_waits_for_the_answer_and_the_end_of_the_cancel_request(last: str) -> None:
    """A CancelRequest that the server is still processing would hit the next request."""

    async def script(peer: Peer) -> None:
        await peer.startup()
        await peer.group()
        request = await peer.cancel_request()
        assert (request.pid, request.secret_key) == (1001, b"\0\1\2\3")
        ends = [lambda: peer.send(CANCELLED, m.ReadyForQuery("I")), released]
        for end in ends if last == "cancel connection" else ends[::-1]:
            await nothing_comes(peer)
            await end()
        await peer.answer_rows([(b"next",)])

    async def released() -> None:
        fake.release_cancels()

    async with FakePG(script, hold_cancels=True) as fake, await AsyncConn.connect(fake.dsn) as conn:
        sole = conn.simple_query("select pg_sleep(30)")
        await asyncio.sleep(A_WHILE)
        sole.cancel()
        await asyncio.sleep(0)
        following = [conn.exec_query("select 1"), conn.exec_query("select 1", timeout=0.02)]
        late = await outcome_of(following[1])
        assert isinstance(late, RequestTimeout) and late.outcome is Outcome.NOT_SENT
        assert list(await following[0]) == [(b"next",)]


@ends_clean()
async def test_the_next_request_waits_for_the_end_of_a_repeated_cancel_request_too() -> None:
    async def script(peer: Peer) -> None:
        await peer.startup()
        await peer.group()
        await peer.cancel_request()  # without effect
        for _ in range(3):
            await asyncio.sleep(0)  # its connection is closed
        fake._cancels_may_end.clear()
        await peer.cancel_request()
        await peer.send(CANCELLED, m.ReadyForQuery("I"))
        await nothing_comes(peer)
        fake.release_cancels()
        await peer.answer_rows([(b"next",)])

    async with FakePG(script) as fake, await AsyncConn.connect(fake.dsn) as conn:
        conn.simple_query("select pg_sleep(30)").cancel()
        assert list(await conn.exec_query("select 1")) == [(b"next",)]


@ends_clean()
async def test_a_cancel_request_that_came_too_early_is_repeated() -> None:
    """A CancelRequest has no effect if the server has not yet begun the query."""

    async def script(peer: Peer) -> None:
        await peer.startup()
        await peer.group()
        for _ in range(3):
            await peer.cancel_request()
            assert peer.talk.take() is None
        await peer.send(CANCELLED, m.ReadyForQuery("I"))
        await peer.answer_rows([(b"next",)])

    async with FakePG(script) as fake, await AsyncConn.connect(fake.dsn) as conn:
        conn.simple_query("select pg_sleep(30)").cancel()
        begin = time.monotonic()
        assert list(await conn.exec_query("select 1")) == [(b"next",)]
        assert time.monotonic() - begin < SOON


@ends_clean()
async def test_two_hundred_cancelled_queries_do_not_affect_the_next_ones(conn: AsyncConn) -> None:
    for n in range(200):
        sole = conn.exec_query("select pg_sleep(30)")
        if n % 10 == 0:
            await asyncio.sleep(0.025)
        sole.cancel()
        assert list(await conn.exec_query("select $1::int4", (str(n),))) == [(b"%d" % n,)]


@ends_clean()
async def test_the_answer_is_awaited_if_the_cancel_request_cannot_be_sent() -> None:
    """The next request waits until the server finishes the cancelled one without it."""

    async def script(peer: Peer) -> None:
        await peer.startup()
        await peer.group()
        may_not_connect.set()
        await cancelled.wait()
        await peer.send(m.EmptyQueryResponse(), m.ReadyForQuery("I"))
        await peer.answer_rows([(b"next",)])

    may_not_connect, cancelled = asyncio.Event(), asyncio.Event()
    async with FakePG(script) as fake, await AsyncConn.connect(fake.dsn) as conn:
        sole = conn.simple_query("")
        await may_not_connect.wait()
        await asyncio.sleep(A_WHILE)
        token = conn._core.cancel_token()
        object.__setattr__(token, "address", token.address._replace(sockaddr=("127.0.0.1", 1)))  # nothing listens there
        sole.cancel()
        cancelled.set()
        assert list(await conn.exec_query("select 1")) == [(b"next",)]
        assert fake.cancels.empty()


@ends_clean()
async def test_the_answer_is_awaited_if_the_server_sent_no_cancel_key() -> None:
    async def script(peer: Peer) -> None:
        await peer.expect(m.StartupMessage)
        await peer.send(m.AuthenticationOk(), m.ReadyForQuery("I"))
        await peer.group()
        await cancelled.wait()
        await peer.send(m.EmptyQueryResponse(), m.ReadyForQuery("I"))
        await peer.answer_rows([(b"next",)])

    cancelled = asyncio.Event()
    async with FakePG(script) as fake, await AsyncConn.connect(fake.dsn) as conn:
        sole = conn.simple_query("")
        await asyncio.sleep(A_WHILE)
        sole.cancel()
        cancelled.set()
        assert list(await conn.exec_query("select 1")) == [(b"next",)]
        assert conn.backend_pid is None


GRACE = 0.2


async def forgetful(peer: Peer) -> None:
    """A pooler that forgets the ReadyForQuery after an error."""
    await peer.startup()
    await peer.group()
    await peer.send(error("22012", "division by zero"))
    while await peer.read():
        pass


async def without_a_key(peer: Peer) -> None:
    await peer.expect(m.StartupMessage)
    await peer.send(m.AuthenticationOk(), m.ReadyForQuery("I"))
    while await peer.read():
        pass


async def healthy(peer: Peer) -> None:
    await peer.startup()
    await peer.answer_rows([(b"next",)])


@ends_clean()
@pytest.mark.parametrize("script", [forgetful, without_a_key])
async def test_a_connection_that_never_answers_is_closed(script: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pg_wired.client.watchdog.CANCEL_GRACE_SECONDS", GRACE)
    async with FakePG(script) as fake:
        conn = await AsyncConn.connect(fake.dsn)
        late = await outcome_of(conn.exec_query("select 1", timeout=A_WHILE))
        assert isinstance(late, RequestTimeout) and late.outcome is Outcome.UNKNOWN
        following = await outcome_of(conn.exec_query("select 2", timeout=SOON))
        assert isinstance(following, ConnectionClosed) and following.outcome is Outcome.NOT_SENT
        assert "did not answer a request that no caller waits for" in str(following)
        assert not conn.is_alive


@ends_clean()
@pytest.mark.parametrize("script", [forgetful, without_a_key])
async def test_a_pool_replaces_a_connection_that_never_answers(script: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What has not been sent runs on the next one."""
    monkeypatch.setattr("pg_wired.client.watchdog.CANCEL_GRACE_SECONDS", GRACE)
    async with FakePG([script, healthy]) as fake, await AsyncPool.connect(fake.dsn, size=1) as pool:
        late = await outcome_of(pool.exec_query("select 1", timeout=A_WHILE))
        assert isinstance(late, RequestTimeout)
        assert list(await pool.exec_query("select 2", timeout=SOON)) == [(b"next",)]


@ends_clean()
async def test_a_transaction_left_open_by_a_cancelled_request_is_rolled_back(conn: AsyncConn) -> None:
    conn.exec_query("begin").cancel()
    following = await outcome_of(conn.exec_query("select 1"))  # inside, or after the ROLLBACK
    assert isinstance(following, TransactionError) or list(following) == [(b"1",)]
    sole = conn.simple_query("begin; select pg_sleep(30)")
    await asyncio.sleep(A_WHILE)
    sole.cancel()
    await answers(conn)
    assert conn.transaction_status.value == "I"


@ends_clean()
async def test_the_error_of_a_cancelled_request_is_not_raised_elsewhere(conn: AsyncConn) -> None:
    for sql in ("selec", "select 1/0", "select nonsense"):
        replies = [conn.exec_query(sql), conn.exec_query("select 1"), conn.exec_query(sql)]
        replies[0].cancel()
        replies[2].cancel()
        assert list(await replies[1]) == [(b"1",)]
    with pytest.raises(PgError):
        await conn.exec_query("select 1/0")
    await until(lambda: conn.in_flight == 0, "all to be answered")
    await answers(conn)
