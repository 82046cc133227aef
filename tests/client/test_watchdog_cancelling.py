"""Cancelling a task: a request not yet encoded is never sent; an encoded one runs, and its answer is dropped."""

from __future__ import annotations

import asyncio
import tracemalloc
from collections.abc import AsyncIterator
from typing import Any

import pytest

from pg_wired import AsyncConn
from pg_wired.protocol import messages as m
from pg_wired.testing import FakePG, Peer
from rig.checks import Cancelled, answers, ends_clean, outcome_of
from rig.postgres import Server

pytestmark = pytest.mark.both_loops


@pytest.fixture
async def conn(postgres: Server) -> AsyncIterator[AsyncConn]:
    async with await AsyncConn.connect(postgres.dsn) as conn:
        yield conn


# ---- before it is encoded


@ends_clean()
async def test_requests_cancelled_in_the_queue_are_never_sent() -> None:
    seen: list[str] = []

    async def script(peer: Peer) -> None:
        await peer.startup()
        for _ in range(3):
            await may_answer.wait()
            group = await peer.answer_rows([(b"x",)])
            seen.extend(message.query for message in group if isinstance(message, m.Parse | m.Query))

    may_answer = asyncio.Event()
    async with FakePG(script) as fake, await AsyncConn.connect(fake.dsn, max_in_flight=1) as conn:
        head = conn.exec_query("select 'head'")
        dropped: list[asyncio.Future[Any]] = [
            conn.exec_query("select 'dropped'"),
            conn.simple_query("select 'dropped'"),
        ]
        kept = conn.simple_query("select 'kept'")
        dropped.append(conn.describe("select 'dropped'"))
        last = conn.exec_query("select 'last'")
        for reply in dropped:
            reply.cancel()
        may_answer.set()
        await asyncio.gather(head, kept, last)
        assert [reply.cancelled() for reply in dropped] == [True] * 3
        assert fake.cancels.empty()
    assert seen == ["select 'head'", "select 'kept'", "select 'last'"]


@ends_clean()
async def test_an_insert_cancelled_in_the_queue_does_not_run(postgres: Server) -> None:
    async with await AsyncConn.connect(postgres.dsn, max_in_flight=1) as conn:
        await conn.exec_query("create temp table written(a int)")
        head = conn.exec_query("select pg_sleep(0.05)")
        inserts = [asyncio.ensure_future(conn.exec_query(f"insert into written values ({n})")) for n in range(20)]
        await asyncio.sleep(0)
        for insert in inserts[::2]:
            insert.cancel()
        await asyncio.gather(head, *inserts, return_exceptions=True)
        found = await conn.exec_query("select a from written order by a")
        assert list(found) == [(b"%d" % n,) for n in range(1, 20, 2)]


# ---- after it is encoded


@ends_clean()
async def test_requests_cancelled_under_way_run_and_their_results_are_dropped(conn: AsyncConn) -> None:
    await conn.exec_query("create temp table written(a int)")
    replies = [conn.exec_query("insert into written values ($1) returning a", (str(n),)) for n in range(100)]
    assert conn.in_flight == 100
    for reply in replies[::3]:
        reply.cancel()
    for n, result in enumerate(await asyncio.gather(*replies, return_exceptions=True)):
        if n % 3 == 0:
            assert isinstance(result, asyncio.CancelledError)
        else:
            assert not isinstance(result, BaseException) and list(result) == [(b"%d" % n,)]
    assert list(await conn.exec_query("select count(*) from written")) == [(b"100",)]


@ends_clean()
async def test_a_dropped_result_is_not_kept_in_memory(conn: AsyncConn) -> None:
    tracemalloc.start()
    try:
        big = [conn.exec_query("select repeat('x', 10000) from generate_series(1, 5000)") for _ in range(2)]
        for reply in big:
            reply.cancel()
        small = conn.exec_query("select 'small'")
        tracemalloc.reset_peak()
        assert list(await small) == [(b"small",)]
        assert tracemalloc.get_traced_memory()[1] < 10_000_000  # the answers are 100 MB
    finally:
        tracemalloc.stop()


@ends_clean()
async def test_cancelling_as_the_answer_arrives_leaves_the_connection_usable(conn: AsyncConn) -> None:
    for _ in range(100):
        reply = conn.exec_query("select 1")
        task = asyncio.ensure_future(reply)
        waiting = asyncio.ensure_future(asyncio.wait_for(conn.exec_query("select 2"), 5))
        reply.add_done_callback(lambda _, waiting=waiting: waiting.cancel())  # type: ignore[misc]
        await task
        result = await outcome_of(waiting)
        assert isinstance(result, asyncio.CancelledError) or list(result) == [(b"2",)]
    await answers(conn)


@ends_clean()
async def test_cancelling_at_any_await_leaves_the_connection_usable(conn: AsyncConn) -> None:
    async def use() -> None:
        await conn.exec_query("select 1")
        await conn.simple_query("select 1")
        await conn.describe("select 1")
        await conn.submit(m.encode(m.Query("select 1")))
        await conn.submit_batch([])

    for n in range(1, 7):
        await outcome_of(Cancelled(use(), at=n).run())
        await answers(conn)
