"""How a stream ends (early, late, not at all, or used in a way that cannot work): nothing of it remains."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from pg_wired import AsyncConn, Outcome, RequestTimeout, UsageError
from pg_wired.protocol import messages as m
from pg_wired.testing import FakePG, Peer, describe, error
from rig.checks import LATE, Cancelled, answers, ends_clean, outcome_of, repeatable
from rig.postgres import Server
from tests.endless_queries import ENDLESS, was_stopped

pytestmark = pytest.mark.both_loops


@pytest.fixture
async def conn(postgres: Server) -> AsyncIterator[AsyncConn]:
    async with await AsyncConn.connect(postgres.dsn) as conn:
        yield conn


@pytest.fixture
async def admin(postgres: Server) -> AsyncIterator[AsyncConn]:
    async with await AsyncConn.connect(postgres.dsn) as conn:
        yield conn


async def numbers(conn: AsyncConn, count: int, **options: Any) -> list[int]:
    """The numbers up to `count`, read from a stream."""
    async with conn.stream("select generate_series(1, $1::int4)", (str(count),), **options) as rows:
        return [int(row[0] or b"") async for row in rows]


# ---- an early end


@ends_clean()
async def test_leaving_early_stops_the_query_on_the_server(conn: AsyncConn, admin: AsyncConn) -> None:
    for wanted in (0, 1, 20_000):
        async with conn.stream(ENDLESS) as rows:
            for _ in range(wanted):
                await anext(rows)
        await was_stopped(conn, admin)
        with pytest.raises(KeyError, match="mine"):
            async with conn.stream(ENDLESS, row_buffer=7) as rows:
                async for _ in rows:
                    raise KeyError("mine")
        await was_stopped(conn, admin)


@pytest.mark.parametrize("sql", [ENDLESS, "select pg_sleep(30)", "select 1"])
@ends_clean(60)
async def test_cancelling_at_any_await_stops_the_query_on_the_server(
    conn: AsyncConn, admin: AsyncConn, sql: str
) -> None:
    async def read() -> None:
        async with conn.stream(sql, row_buffer=2) as rows:
            async for _ in rows.batches():
                await asyncio.sleep(0)
                break  # so that it is also cancelled while leaving

    for n in itertools.count(1):
        work = Cancelled(asyncio.wait_for(read(), 0.5 if "sleep" in sql else None), at=n)
        result = await outcome_of(work.run())
        assert result is None or isinstance(result, asyncio.CancelledError | TimeoutError), result
        await was_stopped(conn, admin)
        if not work.was_cancelled:
            break
    assert n > 2


@ends_clean(60)
async def test_cancelling_at_any_time_does_not_affect_waiting_requests(conn: AsyncConn) -> None:
    rng = repeatable()
    for _ in range(20):
        reading = asyncio.ensure_future(
            numbers(conn, rng.choice([10, 1000, 10**7]), row_buffer=rng.choice([1, 10_000]))
        )
        others = [conn.exec_query("select $1::int4", (str(n),)) for n in range(5)]
        later = [asyncio.ensure_future(numbers(conn, n)) for n in range(3)]
        asyncio.get_running_loop().call_later(rng.random() * 0.02, reading.cancel)
        for n, other in enumerate(others):
            assert list(await other) == [(b"%d" % n,)]
        assert await asyncio.gather(*later) == [[], [1], [1, 2]]
        await asyncio.gather(reading, return_exceptions=True)
    await answers(conn)


@ends_clean()
async def test_a_cancel_request_that_came_too_early_is_repeated() -> None:
    """Before the query has begun, the server has nothing to cancel and forgets the CancelRequest."""

    async def script(peer: Peer) -> None:
        await peer.startup()
        await peer.group()
        await peer.send(m.ParseComplete(), m.ParameterDescription(()), describe(["a"], ()), m.BindComplete())
        await peer.cancel_request()
        await peer.cancel_request()
        await peer.send(error("57014"), m.ReadyForQuery("I"))
        while isinstance((await peer.group())[-1], m.Sync):
            await peer.send(m.ReadyForQuery("I"))
        peer.close()

    async with FakePG(script) as fake, await AsyncConn.connect(fake.dsn) as conn:
        async with conn.stream("select"):
            pass
        assert conn.is_alive


@ends_clean()
async def test_a_stream_past_its_deadline_times_out(conn: AsyncConn, admin: AsyncConn) -> None:
    async def read(sql: str, limit: float) -> None:
        begin = time.monotonic()
        with pytest.raises(RequestTimeout):
            async with conn.stream(sql, timeout=limit) as rows:
                async for _ in rows.batches():
                    pass
        assert limit - 0.001 <= time.monotonic() - begin < limit + LATE

    await read("select 1", 0)
    await read("select pg_sleep(30)", 0.1)
    await read("select i, pg_sleep(0.01) from generate_series(1, 10000) i", 0.1)
    await read(ENDLESS, 0.1)
    await was_stopped(conn, admin)
    assert await numbers(conn, 3, timeout=5) == [1, 2, 3]


@ends_clean()
async def test_the_deadline_includes_the_time_in_the_queue(conn: AsyncConn) -> None:
    async with conn.exclusive():
        for options in ({"timeout": 0.1}, {"acquire_timeout": 0.1}, {"timeout": 0.1, "acquire_timeout": None}):
            begin = time.monotonic()
            error = await outcome_of(asyncio.create_task(numbers(conn, 1, **options)))
            assert isinstance(error, RequestTimeout) and error.outcome is Outcome.NOT_SENT
            assert time.monotonic() - begin < 0.1 + LATE
    await answers(conn)


# ---- used in a way that cannot work


@ends_clean()
async def test_a_second_reader_is_refused() -> None:
    async def script(peer: Peer) -> None:
        await peer.startup()
        await peer.group()
        await peer.send(m.ParseComplete(), m.ParameterDescription(()), describe(["a"], ()), m.BindComplete())
        await may_end.wait()
        await peer.send(m.DataRow((b"7",)), m.CommandComplete("SELECT 1"), m.ReadyForQuery("I"))

    may_end = asyncio.Event()
    async with FakePG(script) as fake, await AsyncConn.connect(fake.dsn) as conn, conn.stream("select") as rows:
        first = asyncio.ensure_future(anext(rows))
        await asyncio.sleep(0)
        with pytest.raises(UsageError, match="one reader"):
            await anext(rows)
        may_end.set()
        assert await first == (b"7",)


@ends_clean()
async def test_use_outside_the_block_is_refused(conn: AsyncConn) -> None:
    stream = conn.stream(ENDLESS)
    for read in (anext(stream), anext(stream.batches())):
        with pytest.raises(UsageError, match="stream"):
            await read
    async with stream as rows:
        await anext(rows)
    with pytest.raises((UsageError, StopAsyncIteration)):
        for _ in itertools.count():  # it may still yield the rows that it has already received
            await anext(stream)
    with pytest.raises((UsageError, StopAsyncIteration)):
        await anext(stream.batches())
    with pytest.raises(UsageError):
        async with stream:
            pass
    await answers(conn)


@ends_clean()
async def test_requests_of_the_owner_inside_the_block_are_refused(conn: AsyncConn) -> None:
    async with conn.stream(ENDLESS) as rows:
        for ask in (conn.exec_query, conn.simple_query, conn.describe):
            with pytest.raises(UsageError, match=r"stream\(\)"):
                ask("select 1")
        with pytest.raises(UsageError, match=r"stream\(\)"):
            await numbers(conn, 1)
        other = asyncio.create_task(numbers(conn, 2))
        await anext(rows)
        assert not other.done()
    assert await other == [1, 2]


@pytest.mark.parametrize("sql", ["copy (select 1) to stdout", "copy streamed from stdin"])
@ends_clean()
async def test_a_copy_in_a_stream_is_refused(conn: AsyncConn, sql: str) -> None:
    await conn.simple_query("create temp table streamed(a int)")
    with pytest.raises(UsageError, match="copy_"):
        async with conn.stream(sql) as rows:
            [row async for row in rows]
    await answers(conn)


# ---- inside exclusive()


@ends_clean()
async def test_a_stream_left_early_fails_the_surrounding_transaction(conn: AsyncConn, admin: AsyncConn) -> None:
    async with conn.exclusive() as mine:
        await mine.simple_query("begin; create temp table streamed as select generate_series(1, 1000) as a")
        async with mine.stream("select a from streamed") as rows:
            assert len([row async for row in rows]) == 1000
        assert mine.transaction_status.name == "IN_TRANSACTION"
        async with mine.stream(ENDLESS) as rows:
            await anext(rows)
        # A request inside a transaction can only be stopped together with the transaction.
        assert mine.transaction_status.name == "FAILED"
        await mine.simple_query("rollback")
        assert mine.transaction_status.name == "IDLE"
    await was_stopped(conn, admin)


@ends_clean()
async def test_requests_before_a_stream_are_answered_and_requests_during_it_refused(conn: AsyncConn) -> None:
    async with conn.exclusive() as mine:
        before = mine.exec_query("select 41")
        async with mine.stream(ENDLESS, row_buffer=10) as rows:
            await anext(rows)
            for ask in (mine.exec_query, mine.simple_query):
                with pytest.raises(UsageError, match=r"stream\(\)"):
                    ask("select 42")
        assert list(await before) == [(b"41",)]
        assert list(await mine.exec_query("select 42")) == [(b"42",)]
    await answers(conn)
