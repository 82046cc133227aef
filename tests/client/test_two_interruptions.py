"""A task that is cancelled twice while it leaves a verb: the connection is given back once, and clean."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, TypeAlias

import pytest

from pg_wired import AsyncConn, AsyncPool, ExclusiveConn
from pg_wired.protocol import messages as m
from pg_wired.testing import FakePG, Peer, error
from rig.checks import SOON, ends_clean, until
from rig.postgres import Server
from tests.outcomes import nothing_comes

Target: TypeAlias = AsyncConn | ExclusiveConn | AsyncPool
SLOW = "select g from generate_series(1, 100000000) g"


async def endless() -> AsyncIterator[bytes]:
    while True:
        yield b"1\n" * 1000
        await asyncio.sleep(0)


async def in_exclusive(target: Target) -> None:
    async with target.exclusive() as mine:  # type: ignore[union-attr]
        await mine.exec_query("select pg_sleep(60)")


async def in_pipeline(target: Target) -> None:
    async with target.pipeline() as pipeline:
        await pipeline.query("select pg_sleep(60)")


async def in_stream(target: Target) -> None:
    async with target.stream(SLOW) as rows:
        async for _ in rows:
            pass


async def in_copy_in(target: Target) -> None:
    await target.copy_in("copy numbers from stdin", endless())


async def in_copy_out(target: Target) -> None:
    async with target.copy_out(f"copy ({SLOW}) to stdout") as data:
        async for _ in data:
            pass


async def in_copy_out_rows(target: Target) -> None:
    async with target.copy_out_rows(f"copy ({SLOW}) to stdout (format binary)") as data:
        async for _ in data:
            pass


async def in_portal(target: Target) -> None:
    async with target.exclusive() as mine:  # type: ignore[union-attr]
        await mine.simple_query("begin")
        async with mine.portal("select pg_sleep(60)") as portal:
            await portal.fetch(1)


VERBS = [in_exclusive, in_pipeline, in_stream, in_copy_in, in_copy_out, in_copy_out_rows, in_portal]
NESTED = [verb for verb in VERBS if verb not in (in_exclusive, in_portal)]
# Iterations of the loop between the two: some fall before, into and after each step of leaving.
STEPS = [0, 1, 2, 3, 5, 8, 13]
Verb: TypeAlias = Callable[[Target], Coroutine[Any, Any, None]]


async def interrupt(task: asyncio.Task[None], steps: int) -> None:
    task.cancel()
    for _ in range(steps):
        await asyncio.sleep(0)
    task.cancel()


async def prepared(target: AsyncConn | AsyncPool) -> None:
    await target.simple_query("create unlogged table if not exists numbers (a int)")


@ends_clean()
@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.__name__)
async def test_other_requests_of_a_connection_never_notice(postgres: Server, verb: Verb, steps: int) -> None:
    async with await AsyncConn.connect(postgres.dsn) as conn:
        await prepared(conn)
        task = asyncio.ensure_future(verb(conn))
        await until(lambda: conn.in_flight > 0, "the verb to run")
        others = [conn.exec_query("select $1", [str(n)]) for n in range(3)]
        await interrupt(task, steps)
        async with asyncio.timeout(SOON):
            assert [list(await each) for each in others] == [[(b"%d" % n,)] for n in range(3)]
            assert await conn.exec_query("select 'later'") == [(b"later",)]
        await asyncio.wait([task])
        assert task.cancelled() and conn.is_alive


@ends_clean()
@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("verb", NESTED, ids=lambda verb: verb.__name__)
async def test_neither_does_what_follows_inside_exclusive(postgres: Server, verb: Verb, steps: int) -> None:
    async with await AsyncConn.connect(postgres.dsn) as conn:
        await prepared(conn)

        async def inside() -> None:
            async with conn.exclusive() as mine:
                await verb(mine)

        task = asyncio.ensure_future(inside())
        await until(lambda: conn.in_flight > 0, "the verb to run")
        others = [conn.exec_query("select $1", [str(n)]) for n in range(3)]
        await interrupt(task, steps)
        async with asyncio.timeout(SOON):
            assert [list(await each) for each in others] == [[(b"%d" % n,)] for n in range(3)]
        await asyncio.wait([task])
        assert task.cancelled() and conn.is_alive


@ends_clean()
@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.__name__)
async def test_the_next_owner_of_a_pool_s_connection_gets_it_clean(postgres: Server, verb: Verb, steps: int) -> None:
    async with await AsyncPool.connect(postgres.dsn, size=1, max_exclusive=1) as pool:
        await prepared(pool)
        task = asyncio.ensure_future(verb(pool))
        await until(lambda: any(each.core.session.inflight for each in pool._lending.out), "the verb to run")
        shared = [pool.exec_query("select $1", [str(n)]) for n in range(3)]

        async def next_owner() -> bytes | None:
            async with pool.exclusive(acquire_timeout=SOON) as mine:
                return (await mine.exec_query("select 'clean', pg_sleep(0.01)"))[0][0]

        following = asyncio.ensure_future(next_owner())
        await asyncio.sleep(0)
        await interrupt(task, steps)
        async with asyncio.timeout(SOON):
            assert [list(await each) for each in shared] == [[(b"%d" % n,)] for n in range(3)]
            assert await following == b"clean"
        await asyncio.wait([task])
        assert task.cancelled()


@ends_clean()
@pytest.mark.parametrize("steps", STEPS)
async def test_nothing_is_sent_before_the_cancel_request_has_ended(steps: int) -> None:
    """What ran has been answered, so the connection looks idle, but a cancel request may still hit what comes next."""

    async def script(peer: Peer) -> None:
        await peer.startup()
        await peer.group()
        await peer.cancel_request()
        await peer.send(error("57014", "canceling statement due to user request"), m.ReadyForQuery("I"))
        answered.set()
        await nothing_comes(peer)
        fake.release_cancels()
        for value in (b"nothing, to a Sync", b"0", b"1", b"2", b"later"):
            await peer.answer_rows([(value,)])

    answered = asyncio.Event()
    async with FakePG(script, hold_cancels=True) as fake, await AsyncConn.connect(fake.dsn) as conn:

        async def block() -> None:
            async with conn.exclusive() as mine, mine.pipeline() as pipeline:
                pipeline.query("select pg_sleep(60)")

        task = asyncio.ensure_future(block())
        await until(lambda: conn.in_flight > 0, "the pipeline to run")
        others = [conn.exec_query("select 'other'") for _ in range(3)]
        task.cancel()
        await answered.wait()
        await until(lambda: not conn._core.session.inflight, "the answer to be read")
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        async with asyncio.timeout(SOON):
            assert [list(await each) for each in others] == [[(b"%d" % n,)] for n in range(3)]
            assert await conn.exec_query("select 'later'") == [(b"later",)]
        await asyncio.wait([task])
        assert task.cancelled() and conn.is_alive
