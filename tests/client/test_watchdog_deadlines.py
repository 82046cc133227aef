"""Deadlines: the right outcome, in time whatever the server does, without an effect on other requests."""

from __future__ import annotations

import asyncio
import gc
import select
import socket
import time
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from pg_wired import AsyncConn, ConfigError, Outcome, PgWireError, RequestTimeout, Rows
from pg_wired.protocol import messages as m
from pg_wired.testing import FakePG, Peer
from rig.checks import LATE, SOON, answers, ends_clean, outcome_of, repeatable, until_sql
from rig.postgres import Server
from tests.outcomes import GATE, gate

pytestmark = pytest.mark.both_loops

EARLY = 0.001  # uvloop counts in milliseconds


@pytest.fixture
async def conn(postgres: Server) -> AsyncIterator[AsyncConn]:
    async with await AsyncConn.connect(postgres.dsn) as conn:
        yield conn


async def silent(peer: Peer) -> None:
    """A server that accepts the login, reads, and never answers."""
    await peer.startup()
    while await peer.read():
        pass


async def times_out(ask: Callable[..., Awaitable[Any]], sql: str, limit: float, outcome: Outcome) -> None:
    begin = time.monotonic()
    with pytest.raises(RequestTimeout) as caught:
        await ask(sql, timeout=limit)
    assert limit - EARLY <= time.monotonic() - begin < limit + LATE
    assert caught.value.outcome is outcome and isinstance(caught.value, TimeoutError)


# ---- the values


@ends_clean()
async def test_a_timeout_of_zero_expires_at_once_and_sends_nothing(conn: AsyncConn) -> None:
    await conn.exec_query("create temp table never(a int)")
    group = m.encode(m.Query("insert into never values (1)"))
    for reply in (
        conn.exec_query("insert into never values (1)", timeout=0),
        conn.exec_query("insert into never values (1)", timeout=0.0),
        conn.simple_query("insert into never values (1)", timeout=0),
        conn.describe("select 1", timeout=0),
        conn.submit(group, timeout=0),
    ):
        assert reply.done() and conn.in_flight == 0
        error = await outcome_of(reply)
        assert isinstance(error, RequestTimeout) and error.outcome is Outcome.NOT_SENT
    assert list(await conn.exec_query("select count(*) from never")) == [(b"0",)]


@ends_clean()
async def test_invalid_timeouts_are_refused(conn: AsyncConn) -> None:
    refused: list[tuple[Any, type[Exception]]] = [
        (-1, ConfigError),
        (-0.001, ConfigError),
        (float("nan"), ConfigError),
        (float("-inf"), ConfigError),
        (True, TypeError),
        (False, TypeError),
        ("1", TypeError),
        (b"1", TypeError),
        ((1,), TypeError),
    ]
    for value, error in refused:
        for ask in (conn.exec_query, conn.simple_query, conn.describe):
            with pytest.raises(error):
                ask("select 1", timeout=value)
        with pytest.raises(error):
            conn.submit(m.encode(m.Sync()), timeout=value)
        with pytest.raises(error):
            conn.submit_batch([], timeout=value)
    assert conn.in_flight == 0
    await answers(conn)


@ends_clean()
async def test_requests_without_a_timeout_or_with_a_long_one_succeed(conn: AsyncConn) -> None:
    for timeout in (None, float("inf"), 1e9, 5, 5.5):
        assert list(await conn.exec_query("select 1", timeout=timeout)) == [(b"1",)]


# ---- when a timeout is raised, and its outcome


@ends_clean()
async def test_requests_time_out_if_the_server_never_answers() -> None:
    async with FakePG(silent) as fake:
        conn = await AsyncConn.connect(fake.dsn, max_in_flight=2)
        await asyncio.gather(
            times_out(conn.exec_query, "select 1", 0.05, Outcome.UNKNOWN),
            times_out(conn.simple_query, "select 1", 0.1, Outcome.UNKNOWN),
            times_out(conn.exec_query, "select 1", 0.15, Outcome.NOT_SENT),
            times_out(conn.describe, "select 1", 0.02, Outcome.NOT_SENT),
        )
        conn.abort()


@ends_clean()
async def test_requests_time_out_as_not_sent_if_the_server_does_not_read() -> None:
    async def deaf(peer: Peer) -> None:
        await peer.startup()
        await over.wait()
        peer.close()

    over = asyncio.Event()
    async with FakePG(deaf) as fake:
        conn = await AsyncConn.connect(fake.dsn)
        big = conn.exec_query("select $1", (b"x" * 20_000_000,))
        await asyncio.gather(
            # above the high-water mark requests wait as objects
            times_out(conn.exec_query, "select 1", 0.1, Outcome.NOT_SENT),
            times_out(conn.exec_query, "select 1", 0.02, Outcome.NOT_SENT),
        )
        assert not big.done()
        conn.abort()
        assert (await outcome_of(big)).outcome is Outcome.UNKNOWN
        over.set()


@ends_clean()
async def test_many_deadlines_expire_in_time(conn: AsyncConn) -> None:
    rng = repeatable()
    slow = conn.exec_query("select pg_sleep(60)")  # until we cancel it: no answer may come before a deadline is checked
    loop = asyncio.get_running_loop()
    early: list[float] = []
    late: list[float] = []

    async def one(limit: float) -> None:
        bare: list[float] = []  # when the loop's own timer for the same moment fires
        begin = loop.time()
        loop.call_at(begin + limit, lambda: bare.append(loop.time()))
        result = await outcome_of(conn.exec_query("select 1", timeout=limit))
        assert isinstance(result, RequestTimeout)
        early.append(begin + limit - loop.time())
        late.append(loop.time() - (bare or [loop.time()])[0])

    await asyncio.gather(*[one(rng.random() * 0.3) for _ in range(500)])
    assert max(early) <= EARLY and max(late) < LATE  # I9
    await conn.cancel_token().cancel()
    assert (await outcome_of(slow)).code == "57014"
    await answers(conn)


@ends_clean()
async def test_one_deadline_covers_the_queue_and_the_execution(postgres: Server) -> None:
    async with await AsyncConn.connect(postgres.dsn, max_in_flight=1) as conn:
        head = conn.exec_query("select pg_sleep(0.1)")
        await times_out(conn.exec_query, "select pg_sleep(30)", 0.2, Outcome.UNKNOWN)
        assert head.done()
        await answers(conn)


@ends_clean()
async def test_requests_that_timed_out_in_the_queue_are_never_sent(postgres: Server) -> None:
    async with await AsyncConn.connect(postgres.dsn, max_in_flight=1) as conn:
        await conn.exec_query("create temp table written(a int)")
        async with gate(postgres.dsn):
            head = conn.exec_query(f"select {GATE}")
            inserts = [conn.exec_query(f"insert into written values ({n})", timeout=0.02) for n in range(3)]
            last = conn.exec_query("insert into written values (99)")
            for insert in inserts:
                assert (await outcome_of(insert)).outcome is Outcome.NOT_SENT
        await head
        await last
        assert list(await conn.exec_query("select a from written")) == [(b"99",)]


@ends_clean()
async def test_a_request_that_timed_out_under_way_may_have_run(postgres: Server) -> None:
    async with await AsyncConn.connect(postgres.dsn) as conn:
        await conn.exec_query("create temp table written(a int)")
        async with gate(postgres.dsn):
            slow = conn.exec_query(f"insert into written select 1 from {GATE}", timeout=0.02)
            neighbour = conn.exec_query("select 'here'")
            assert (await outcome_of(slow)).outcome is Outcome.UNKNOWN
        assert list(await neighbour) == [(b"here",)]  # it was not cancelled: another request came after it
        assert list(await conn.exec_query("select a from written")) == [(b"1",)]


@ends_clean()
async def test_a_sole_request_that_timed_out_is_stopped_on_the_server(conn: AsyncConn, postgres: Server) -> None:
    async with await AsyncConn.connect(postgres.dsn) as admin:
        begin = time.monotonic()
        await times_out(conn.exec_query, "select pg_sleep(30)", 0.05, Outcome.UNKNOWN)
        await until_sql(admin, f"select state = 'idle' from pg_stat_activity where pid = {conn.backend_pid}")
        await answers(conn)
        assert time.monotonic() - begin < SOON


@ends_clean()
async def test_a_late_answer_is_not_given_to_another_request() -> None:
    async def script(peer: Peer) -> None:
        await peer.startup()
        await late.wait()
        await peer.answer_rows([(b"late",)])
        await peer.answer_rows([(b"second",)])
        await peer.answer_rows([(b"third",)])

    late = asyncio.Event()
    async with FakePG(script) as fake, await AsyncConn.connect(fake.dsn) as conn:
        first = conn.exec_query("select 1", timeout=0.02)
        second = conn.exec_query("select 2")
        assert isinstance(await outcome_of(first), RequestTimeout)
        late.set()
        assert list(await second) == [(b"second",)]
        assert list(await conn.exec_query("select 3")) == [(b"third",)]


# ---- what must not happen


@ends_clean(60)
async def test_hundreds_of_impossible_deadlines_do_not_mix_up_answers(conn: AsyncConn) -> None:
    for n in range(300):
        result = await outcome_of(conn.exec_query("select $1::int4", ("-1",), timeout=1e-10))
        assert isinstance(result, RequestTimeout | Rows), result
        assert list(await conn.exec_query("select $1::int4", (str(n),))) == [(b"%d" % n,)]


@pytest.mark.parametrize("blocks", ["task", "timer", "reader"])
@ends_clean()
async def test_an_answer_that_has_arrived_in_time_beats_its_deadline(conn: AsyncConn, blocks: str) -> None:
    """Other code has blocked the loop at some point; an answer that is already in the socket came in time."""
    loop = asyncio.get_running_loop()
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        await conn.exec_query("select 1")
        for _ in range(3):
            wake = asyncio.Event()
            reply = conn.exec_query("select 1, pg_sleep(0.02)", timeout=0.08)

            def block(wake: asyncio.Event = wake, reply: asyncio.Future[Rows] = reply) -> None:
                loop.remove_reader(ours)
                if not reply.done():
                    assert select.select([conn._core.transport._sock], [], [], SOON)[0]
                time.sleep(0.1)  # beyond the deadline
                wake.set()

            if blocks == "task":
                block()
            elif blocks == "timer":
                loop.call_later(0.001, block)
            else:
                loop.add_reader(ours, block)
                theirs.send(b"x")
            await wake.wait()
            assert list(await reply) == [(b"1", b"")]


@ends_clean()
async def test_a_deadline_that_was_met_does_not_affect_later_requests(conn: AsyncConn) -> None:
    loop = asyncio.get_running_loop()
    for _ in range(3):
        asked = [conn.exec_query("select 1", timeout=0.05) for _ in range(100)]
        for end in await asyncio.gather(*asked, return_exceptions=True):
            assert isinstance(end, Rows | RequestTimeout)  # a stalled machine may have been late
        begin = loop.time()
        while loop.time() - begin < 0.06:
            await asyncio.sleep(0.01)
    reply = conn.exec_query("select pg_sleep(0.1), 1")  # no deadline of another request applies to it
    assert list(await reply) == [(b"", b"1")]


@ends_clean()
async def test_deadlines_do_not_need_a_timer_each(conn: AsyncConn, monkeypatch: pytest.MonkeyPatch) -> None:
    loop = asyncio.get_running_loop()
    made = 0

    def counted(*args: Any, **kwargs: Any) -> asyncio.TimerHandle:
        nonlocal made
        made += 1
        return call_at(*args, **kwargs)

    if not hasattr(loop, "_scheduled"):  # uvloop's methods cannot be replaced; the code under test is the same
        return
    call_at = loop.call_at
    with monkeypatch.context() as patch:
        patch.setattr(loop, "call_at", counted)
        await asyncio.gather(*[conn.exec_query("select 1", timeout=5) for _ in range(1000)])
    assert made < 20


@ends_clean()
async def test_a_lost_connection_fails_a_request_before_its_deadline() -> None:
    async def script(peer: Peer) -> None:
        await peer.startup()
        await peer.group()
        peer.close()

    async with FakePG(script) as fake:
        conn = await AsyncConn.connect(fake.dsn)
        begin = time.monotonic()
        result = await outcome_of(conn.exec_query("select 1", timeout=5))
        assert isinstance(result, PgWireError) and not isinstance(result, RequestTimeout)
        assert time.monotonic() - begin < SOON


@ends_clean()
async def test_a_far_deadline_does_not_keep_a_dead_connection_in_memory(postgres: Server) -> None:
    async with await AsyncConn.connect(postgres.dsn) as admin:
        conn = await AsyncConn.connect(postgres.dsn)
        await conn.exec_query("select 1", timeout=3600)
        wire = weakref.ref(conn._wire)
        await admin.exec_query(f"select pg_terminate_backend({conn.backend_pid}, 5000)")
        await conn._core.transport.closed
        del conn
        gc.collect()
        assert wire() is None
