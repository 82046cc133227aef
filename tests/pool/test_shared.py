"""Shared connections: the least loaded one is chosen, slow ones are avoided, and unsent requests move."""

from __future__ import annotations

import asyncio
import sys
import time
from typing import Any

import pytest

from pg_wired import (
    AsyncPool,
    ConnectionClosed,
    Outcome,
    PgError,
    PoolExhausted,
    RequestTimeout,
    ResponseCollector,
    Rows,
)
from pg_wired.protocol import messages as m
from pg_wired.session.transaction import BEGIN
from pg_wired.testing import FakePG, Peer, error
from rig.checks import LATE, ends_clean, outcome_of, until
from rig.lively_pg import LivelyPG
from tests.pool.pools import pid, shared_conns

pytestmark = pytest.mark.both_loops


# ---- routing


@ends_clean()
async def test_each_request_goes_to_the_least_loaded_connection() -> None:
    async with LivelyPG() as fake, await AsyncPool.connect(fake.dsn, size=3) as pool:
        fake.may_answer.clear()
        replies = [pool.exec_query("select 1") for _ in range(30)]
        assert pool.stats().in_flight == 30
        assert [conn.in_flight for conn in shared_conns(pool)] == [10, 10, 10]
        fake.may_answer.set()
        answers = [pid(await reply) for reply in replies]
        assert {number: answers.count(number) for number in answers} == {1: 10, 2: 10, 3: 10}


@ends_clean()
async def test_a_slow_connection_gets_no_new_requests() -> None:
    async with LivelyPG() as fake, await AsyncPool.connect(fake.dsn, size=2) as pool:
        fake.mute.add(1)
        slow = pool.exec_query("select 'slow'")
        await until(lambda: pool._shared.sessions[0].slow > 0, "the watch to see that")
        replies = [pool.exec_query("select 1") for _ in range(20)]
        assert {pid(await reply) for reply in replies} == {2}
        fake.mute.add(2)
        pool.exec_query("select 'slow too'").add_done_callback(lambda reply: reply.exception())
        await until(lambda: pool._shared.sessions[1].slow > 0, "the watch to see that, too")
        both = [pool.exec_query("select 1") for _ in range(4)]
        assert [conn.in_flight for conn in shared_conns(pool)] == [3, 3]  # all are slow, so both get an equal share
        fake.mute.clear()
        assert pid(await slow) == 1
        await asyncio.gather(*both)
        [first] = await asyncio.gather(pool.exec_query("select 1"))
        assert pid(first) == 1  # a connection that answers again counts as slow no longer


@ends_clean()
async def test_a_shared_connection_with_an_open_window_gets_no_requests() -> None:
    async with LivelyPG() as fake, await AsyncPool.connect(fake.dsn, size=2) as pool, pool.get().exclusive():
        assert {pid(await pool.exec_query("select 1")) for _ in range(5)} == {2}


@ends_clean()
async def test_the_load_of_a_connection_counts_bytes_too() -> None:
    async with LivelyPG(unix=True) as fake, await AsyncPool.connect(fake.dsn, size=2) as pool:
        fake.may_answer.clear()
        large = pool.exec_query("select $1", [bytes(4_000_000)])
        await until(lambda: pool.get() is shared_conns(pool)[1], "the first lane to be behind")
        small = [pool.exec_query("select $1", [b"x"]) for _ in range(10)]
        assert shared_conns(pool)[1].in_flight == 10
        fake.may_answer.set()
        await asyncio.gather(large, *small)


@ends_clean()
async def test_a_batch_goes_to_one_connection() -> None:
    async with LivelyPG() as fake, await AsyncPool.connect(fake.dsn, size=3) as pool:
        query = m.encode(m.Parse("", "select 1"), m.Bind(), m.Execute(), m.Sync())
        batch = [(query, ResponseCollector.DRAIN)] * 5
        replies = pool.submit_batch(batch)
        assert sorted(conn.in_flight for conn in shared_conns(pool)) == [0, 0, 5]
        assert len(await replies) == 5


# ---- moving requests from lost connections


@ends_clean()
async def test_unsent_requests_move_from_a_lost_connection() -> None:
    """Requests beyond max_in_flight are answered by another connection; those handed to the socket are UNKNOWN."""
    async with LivelyPG() as fake, await AsyncPool.connect(fake.dsn, size=2, max_in_flight=5) as pool:
        fake.may_answer.clear()
        replies = [pool.exec_query("select $1", [str(n)]) for n in range(40)]
        transactions = [pool.exec_transaction("set local a = 1", "select 1") for _ in range(2)]
        await until(lambda: fake.heard[1] > 0, "the first to arrive")
        fake.kill(1)
        await until(lambda: pool.stats().moved == 16, "half of them to move")
        fake.may_answer.set()
        ends = [await outcome_of(reply) for reply in replies]
        assert [getattr(end, "outcome", None) for end in ends].count(Outcome.UNKNOWN) == 5
        assert sum(isinstance(end, Rows) and end[0][1] == b"%d" % n for n, end in enumerate(ends)) == 35
        assert [type(await outcome_of(each)) for each in transactions] == [Rows, Rows]


@ends_clean()
async def test_a_transaction_that_was_encoded_but_not_sent_moves() -> None:
    async with LivelyPG() as fake, await AsyncPool.connect(fake.dsn, size=1) as pool:
        fake.may_answer.clear()
        first = pool.exec_query("select 1")
        transaction = pool.exec_transaction("set local a = 1", "select $1", ["x"])  # encoded, not yet sent
        query = pool.exec_query("select $1", ["y"])
        shared_conns(pool)[0].abort()
        fake.may_answer.set()
        assert (await outcome_of(first)).outcome is Outcome.UNKNOWN
        assert (await transaction)[0][1] == b"x" and (await query)[0][1] == b"y"
        assert pool.stats().moved == 2


@ends_clean()
async def test_a_request_moves_only_once() -> None:
    async with LivelyPG() as fake, await AsyncPool.connect(fake.dsn, size=2) as pool:
        fake.may_answer.clear()
        first, second = shared_conns(pool)
        kept = [pool.exec_query("select 1"), pool.exec_query("select 1")]
        reply = pool.exec_query("select 1")
        first.abort()
        assert pool.stats().moved == 1
        second.abort()
        assert (await outcome_of(reply)).outcome is Outcome.NOT_SENT
        await asyncio.gather(*kept, return_exceptions=True)
        fake.may_answer.set()


@ends_clean()
async def test_requests_made_on_one_connection_do_not_move() -> None:
    async with LivelyPG() as fake, await AsyncPool.connect(fake.dsn, size=1, max_in_flight=1) as pool:
        fake.may_answer.clear()
        conn = pool.get()
        replies = [conn.exec_query("select 1") for _ in range(3)]
        conn.abort()
        assert [(await outcome_of(reply)).outcome for reply in replies] == [
            Outcome.UNKNOWN,
            Outcome.NOT_SENT,
            Outcome.NOT_SENT,
        ]
        assert pool.stats().moved == 0
        fake.may_answer.set()


@ends_clean()
async def test_unsent_requests_move_from_a_retired_connection() -> None:
    """It retires because a setting was changed that others rely on; requests already sent are answered there."""

    async def first(peer: Peer) -> None:
        await peer.startup()
        await peer.group()
        await peer.send(m.ParameterStatus("client_encoding", "LATIN1"), *DONE)
        await peer.expect(m.Terminate)
        peer.close()

    async def second(peer: Peer) -> None:
        await peer.startup()
        for _ in range(3):
            await peer.group()
            await peer.send(*DONE)
        await peer.expect(m.Terminate)
        peer.close()

    async with FakePG([first, second]) as fake, await AsyncPool.connect(fake.dsn, size=1, max_in_flight=1) as pool:
        replies = [pool.simple_query("set something") for _ in range(4)]
        assert [(await reply)[0].command_tag for reply in replies] == ["SET"] * 4
        assert pool.stats().moved == 3


DONE = (m.CommandComplete("SET"), m.ReadyForQuery("I"))


@ends_clean()
async def test_a_server_that_refuses_a_write_is_replaced_by_another() -> None:
    """SQLSTATE 25006 on a pool that has to write: the next server answers the requests after the refused one."""

    async def standby(peer: Peer) -> None:
        await peer.startup()
        await peer.group()
        await peer.send(error("25006"), m.ReadyForQuery("I"))
        await peer.expect(m.Terminate)
        peer.close()

    async def primary(peer: Peer) -> None:
        await peer.startup()
        await peer.group()
        await peer.send(*DONE)
        await peer.expect(m.Terminate)
        peer.close()

    async with FakePG([standby, primary]) as fake, await AsyncPool.connect(fake.dsn, size=1) as pool:
        shared_conns(pool)[0]._core.session.require_writes()
        with pytest.raises(PgError) as caught:
            await pool.simple_query("insert")
        assert caught.value.code == "25006" and caught.value.outcome is Outcome.REJECTED
        assert (await pool.simple_query("insert"))[0].command_tag == "SET"


@ends_clean()
async def test_a_refused_write_ends_all_connections_to_that_server() -> None:
    """Neither its other shared connections nor its idle ones are used again."""
    async with LivelyPG() as fake, await AsyncPool.connect(fake.dsn, size=3) as pool:
        async with pool.exclusive():
            pass
        for conn in pool._connections.conns:
            conn.session.require_writes()
        fake.standbys = {1, 2, 3, 4}
        with pytest.raises(PgError, match="no"):
            await pool.simple_query("insert")
        assert not pool.alive_count and not pool.stats().idle
        for _ in range(5):
            assert (await pool.simple_query("insert"))[0].command_tag == "INSERT"
        async with pool.exclusive() as mine:
            assert pid(await mine.exec_query("select 1")) > 4
        await until(lambda: pool.alive_count == 3 and not fake.standbys & fake.sessions.keys(), "all to be others")
        assert pool.stats().connects == 8


# ---- while no connection is up


@ends_clean()
async def test_requests_wait_for_a_connection_and_are_sent_in_order() -> None:
    async with LivelyPG() as fake, await AsyncPool.connect(fake.dsn, size=1, max_in_flight=1) as pool:
        fake.refuses = True
        fake.kill(1)
        await until(lambda: not pool.alive_count, "the loss to be seen")
        replies = [pool.simple_query(f"number {n}") for n in range(5)]
        transaction = pool.exec_transaction("set local a = 1", "select 1")
        replies[2].cancel()
        assert pool.stats().waiting == 6
        await until(lambda: pool.stats().connect_failures > 1, "an attempt to fail")
        fake.refuses = False
        await asyncio.gather(*[reply for reply in replies if not reply.cancelled()], transaction)
        assert fake.said[:5] == ["number 0", "number 1", "number 3", "number 4", BEGIN]
        assert pool.stats().waiting == 0 and sum(fake.heard.values()) == 9  # five of them belong to the transaction


@ends_clean()
async def test_waiting_requests_end_with_their_timeout_or_pool_exhausted() -> None:
    settings: dict[str, Any] = {"size": 1, "acquire_timeout": 0.2, "max_waiting": 2}
    async with LivelyPG() as fake, await AsyncPool.connect(fake.dsn, **settings) as pool:
        fake.refuses = True
        fake.kill(1)
        await until(lambda: pool.stats().connect_failures > 0, "an attempt to fail")
        patient, hurried = pool.exec_query("select 1"), pool.exec_query("select 1", timeout=0.1)
        third, at_once = pool.exec_query("select 1"), pool.exec_query("select 1", timeout=0)
        begin = time.monotonic()
        errors = [await outcome_of(each) for each in (at_once, third, hurried, patient)]
        assert [type(each) for each in errors] == [RequestTimeout, PoolExhausted, RequestTimeout, PoolExhausted]
        assert [each.outcome for each in errors] == [Outcome.NOT_SENT] * 4
        assert "2 requests wait" in str(errors[1]) and "0.2 s" in str(errors[3])
        assert isinstance(errors[3].__cause__, ConnectionClosed | PgError)
        assert 0.19 <= time.monotonic() - begin < LATE
        with pytest.raises(ConnectionClosed, match="none of 1"):
            pool.get()
        fake.refuses = False


@ends_clean()
async def test_with_when_down_fail_requests_fail_at_once() -> None:
    async with LivelyPG() as fake, await AsyncPool.connect(fake.dsn, size=1, when_down="fail") as pool:
        fake.may_answer.clear()
        sent, unsent = pool.exec_query("select 1"), pool.exec_query("select 1")
        fake.refuses = True
        shared_conns(pool)[0].abort()
        assert [(await outcome_of(each)).outcome for each in (sent, unsent)] == [Outcome.UNKNOWN, Outcome.NOT_SENT]
        await until(lambda: pool.stats().connect_failures > 0, "an attempt to fail")
        error = await outcome_of(pool.exec_query("select 1"))
        assert isinstance(error, ConnectionClosed) and error.outcome is Outcome.NOT_SENT and error.__cause__
        error = await outcome_of(pool.exclusive().__aenter__())
        assert isinstance(error, ConnectionClosed) and error.outcome is Outcome.NOT_SENT
        fake.refuses = False
        fake.may_answer.set()


@ends_clean()
async def test_a_thousand_waiters_are_served_when_the_server_comes_back() -> None:
    """No more connections are made than allowed."""

    async def acquire(n: int) -> bytes | None:
        async with pool.exclusive() as mine:
            return (await mine.exec_query("select $1", [str(n)]))[0][1]

    async with LivelyPG() as fake, await AsyncPool.connect(fake.dsn, size=2, max_exclusive=3) as pool:
        fake.refuses = True
        for number in (1, 2):
            fake.kill(number)
        await until(lambda: not pool.alive_count, "the loss to be seen")
        requests = [pool.exec_query("select $1", [str(n)]) for n in range(900)]
        borrowers = [asyncio.ensure_future(acquire(n)) for n in range(100)]
        await until(lambda: pool.stats().connect_failures > 3, "some attempts to fail")
        fake.refuses = False
        assert [rows[0][1] for rows in await asyncio.gather(*requests)] == [b"%d" % n for n in range(900)]
        assert await asyncio.gather(*borrowers) == [b"%d" % n for n in range(100)]
        assert fake.most <= 5 and pool.stats().connects <= 2 + 5


@ends_clean()
async def test_a_waiting_request_with_a_tiny_timeout_times_out() -> None:
    """uvloop uses another kind of handle for a timer that is due at once."""
    async with LivelyPG() as fake, await AsyncPool.connect(fake.dsn, size=1) as pool:
        fake.refuses = True
        fake.kill(next(iter(fake.sessions)))
        await until(lambda: not pool.alive_count, "the connection to be gone")
        late, patient = pool.exec_query("select 1", timeout=0.0003), pool.exec_query("select 2")
        assert type(await outcome_of(late)) is RequestTimeout
        fake.refuses = False
        assert len(await patient) == 1


@ends_clean()
async def test_many_connections_to_a_server_that_refuses_to_write_are_ejected_one_after_another() -> None:
    """Each one that ends must not begin to eject the others once more, inside of the first."""
    async with LivelyPG() as fake, await AsyncPool.connect(fake.dsn, size=40) as pool:
        for core in pool._connections.conns:
            core.session.require_writes()
        fake.standbys = set(range(1, 41))
        depth, frame = 0, sys._getframe()
        while frame is not None:
            depth, frame = depth + 1, frame.f_back  # type: ignore[assignment]
        limit = sys.getrecursionlimit()
        sys.setrecursionlimit(depth + 100)
        try:
            with pytest.raises(PgError, match="no"):
                await pool.simple_query("insert")
        finally:
            sys.setrecursionlimit(limit)
        assert not pool.alive_count
        fake.standbys = set()
        await until(lambda: pool.alive_count == 40, "new connections")
