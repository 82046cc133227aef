"""Lanes: the least loaded gets the next request, a slow one gets none, and what never left a lost one moves."""

from __future__ import annotations

import asyncio
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
from rig.checks import LATE, ends_clean, outcome_of, until
from rig.fake_pg import FakePG, Peer, error
from rig.lively_pg import LivelyPG
from tests.pool.pools import pid

pytestmark = pytest.mark.both_loops


# ---- routing


@ends_clean()
async def test_each_request_goes_where_least_is_to_do() -> None:
    async with LivelyPG() as fake, await AsyncPool.connect(fake.dsn, size=3) as pool:
        fake.may_answer.clear()
        replies = [pool.exec_query("select 1") for _ in range(30)]
        assert pool.stats().in_flight == 30
        assert [conn.in_flight for conn in pool._shared.conns] == [10, 10, 10]
        fake.may_answer.set()
        answers = [pid(await reply) for reply in replies]
        assert {number: answers.count(number) for number in answers} == {1: 10, 2: 10, 3: 10}


@ends_clean()
async def test_a_slow_lane_gets_nothing_new() -> None:
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
        assert [conn.in_flight for conn in pool._shared.conns] == [3, 3]  # all are so: both have their share
        fake.mute.clear()
        assert pid(await slow) == 1
        await asyncio.gather(*both)
        [first] = await asyncio.gather(pool.exec_query("select 1"))
        assert pid(first) == 1  # and what was slow is not so for ever


@ends_clean()
async def test_a_window_on_a_lane_holds_up_nobody() -> None:
    async with LivelyPG() as fake, await AsyncPool.connect(fake.dsn, size=2) as pool, pool.get().exclusive():
        assert {pid(await pool.exec_query("select 1")) for _ in range(5)} == {2}


@ends_clean()
async def test_bytes_count_too() -> None:
    async with LivelyPG(unix=True) as fake, await AsyncPool.connect(fake.dsn, size=2) as pool:
        fake.may_answer.clear()
        large = pool.exec_query("select $1", [bytes(4_000_000)])
        await until(lambda: pool.get() is pool._shared.conns[1], "the first lane to be behind")
        small = [pool.exec_query("select $1", [b"x"]) for _ in range(10)]
        assert pool._shared.conns[1].in_flight == 10
        fake.may_answer.set()
        await asyncio.gather(large, *small)


@ends_clean()
async def test_a_batch_stays_together() -> None:
    async with LivelyPG() as fake, await AsyncPool.connect(fake.dsn, size=3) as pool:
        query = m.encode(m.Parse("", "select 1"), m.Bind(), m.Execute(), m.Sync())
        batch = [(query, ResponseCollector.DRAIN)] * 5
        replies = pool.submit_batch(batch)
        assert sorted(conn.in_flight for conn in pool._shared.conns) == [0, 0, 5]
        assert len(await replies) == 5


# ---- rescue


@ends_clean()
async def test_what_never_left_moves() -> None:
    """What is beyond max_in_flight is answered elsewhere; what was handed to the socket is UNKNOWN."""
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
async def test_a_transaction_that_was_encoded_and_never_left_moves() -> None:
    async with LivelyPG() as fake, await AsyncPool.connect(fake.dsn, size=1) as pool:
        fake.may_answer.clear()
        first = pool.exec_query("select 1")
        transaction = pool.exec_transaction("set local a = 1", "select $1", ["x"])  # leaves at the end of this turn
        query = pool.exec_query("select $1", ["y"])
        pool._shared.conns[0].abort()
        fake.may_answer.set()
        assert (await outcome_of(first)).outcome is Outcome.UNKNOWN
        assert (await transaction)[0][1] == b"x" and (await query)[0][1] == b"y"
        assert pool.stats().moved == 2


@ends_clean()
async def test_they_move_once() -> None:
    async with LivelyPG() as fake, await AsyncPool.connect(fake.dsn, size=2) as pool:
        fake.may_answer.clear()
        first, second = pool._shared.conns
        kept = [pool.exec_query("select 1"), pool.exec_query("select 1")]
        reply = pool.exec_query("select 1")
        first.abort()
        assert pool.stats().moved == 1
        second.abort()
        assert (await outcome_of(reply)).outcome is Outcome.NOT_SENT
        await asyncio.gather(*kept, return_exceptions=True)
        fake.may_answer.set()


@ends_clean()
async def test_what_was_asked_of_one_connection_stays_there() -> None:
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
async def test_a_retired_lane_hands_on_what_waits() -> None:
    """A setting that others rely on was changed: what was sent is answered, the rest goes elsewhere."""

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
async def test_a_server_that_refuses_to_write_is_left() -> None:
    """25006 on a pool that has to write; whoever got the error has it, all others are answered by the next server."""

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
        pool._shared.conns[0]._session.require_writes()
        with pytest.raises(PgError) as caught:
            await pool.simple_query("insert")
        assert caught.value.code == "25006" and caught.value.outcome is Outcome.REJECTED
        assert (await pool.simple_query("insert"))[0].command_tag == "SET"


@ends_clean()
async def test_so_are_all_its_connections() -> None:
    """One write is refused: no other lane of that server gets one, nor is one of its idle connections lent."""
    async with LivelyPG() as fake, await AsyncPool.connect(fake.dsn, size=3) as pool:
        async with pool.exclusive():
            pass
        for conn in pool._connections.conns:
            conn._session.require_writes()
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


# ---- none is up


@ends_clean()
async def test_requests_wait_for_a_lane_in_order() -> None:
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
        assert pool.stats().waiting == 0 and sum(fake.heard.values()) == 9  # of a transaction five


@ends_clean()
async def test_they_do_not_wait_for_ever() -> None:
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
async def test_or_fail_at_once_by_option() -> None:
    async with LivelyPG() as fake, await AsyncPool.connect(fake.dsn, size=1, when_down="fail") as pool:
        fake.may_answer.clear()
        sent, unsent = pool.exec_query("select 1"), pool.exec_query("select 1")
        fake.refuses = True
        pool._shared.conns[0].abort()
        assert [(await outcome_of(each)).outcome for each in (sent, unsent)] == [Outcome.UNKNOWN, Outcome.NOT_SENT]
        await until(lambda: pool.stats().connect_failures > 0, "an attempt to fail")
        error = await outcome_of(pool.exec_query("select 1"))
        assert isinstance(error, ConnectionClosed) and error.outcome is Outcome.NOT_SENT and error.__cause__
        error = await outcome_of(pool.exclusive().__aenter__())
        assert isinstance(error, ConnectionClosed) and error.outcome is Outcome.NOT_SENT
        fake.refuses = False
        fake.may_answer.set()


@ends_clean()
async def test_a_thousand_wait_for_a_server_that_comes_back() -> None:
    """All are served, and no more connections are made than there may be."""

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
async def test_waiting_with_a_deadline_that_is_almost_over() -> None:
    """uvloop has another kind of handle for a timer that is due at once."""
    async with LivelyPG() as fake, await AsyncPool.connect(fake.dsn, size=1) as pool:
        fake.refuses = True
        fake.kill(next(iter(fake.sessions)))
        await until(lambda: not pool.alive_count, "the connection to be gone")
        late, patient = pool.exec_query("select 1", timeout=0.0003), pool.exec_query("select 2")
        assert type(await outcome_of(late)) is RequestTimeout
        fake.refuses = False
        assert len(await patient) == 1
