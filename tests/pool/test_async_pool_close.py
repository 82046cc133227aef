"""Closing a pool in every situation, without leaving anything open; and its binding to one loop in one process."""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import os
import pickle
import socket
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

import pg_wired
from pg_wired import AsyncConn, AsyncPool, ConnConfig, ConnectionClosed, Outcome, PgError, RequestTimeout, UsageError
from pg_wired.protocol import messages as m
from pg_wired.testing import FakePG, Peer
from rig.checks import LATE, SOON, ends_clean, outcome_of, until, until_sql
from rig.lively_pg import LivelyPG
from rig.postgres import Server

pytestmark = pytest.mark.both_loops


async def closed(pool: AsyncPool) -> None:
    """Assert that after close() every request is refused at once, and that closing again has no effect."""
    asks: list[Callable[[], Any]] = [
        lambda: pool.exec_query("select 1"),
        lambda: pool.simple_query("select 1"),
        lambda: pool.submit(m.encode(m.Sync())),
        lambda: pool.get().exec_query("select 1"),
        lambda: pool.exclusive().__aenter__(),
        lambda: pool.stream("select 1").__aenter__(),
        lambda: pool.listener(["a"]).__aenter__(),
        lambda: pool.copy_in("copy t from stdin", b""),
    ]
    for ask in asks:
        with pytest.raises(ConnectionClosed, match="pool was closed") as caught:
            await ask()
        assert caught.value.outcome is Outcome.NOT_SENT
    with pytest.raises(ConnectionClosed):
        pool.resize(3)
    await pool.close()
    pool.abort()
    stats = pool.stats()
    assert (stats.alive, stats.in_flight, stats.waiting, stats.lent, stats.idle, stats.opening) == (0,) * 6
    assert "closed" in repr(pool)


@ends_clean()
async def test_close_ends_every_session_on_the_server(postgres: Server) -> None:
    async with await AsyncConn.connect(postgres.dsn) as admin:
        pool = await AsyncPool.connect(postgres.dsn, size=2, application_name="closing")
        async with pool.exclusive() as mine:
            await mine.exec_query("select 1")
        await pool.exec_query("select 1")
        await pool.close()
        await until_sql(admin, "select count(*) = 0 from pg_stat_activity where application_name = 'closing'")
        await closed(pool)


@ends_clean()
async def test_concurrent_closes_send_one_terminate_and_a_fin_per_connection() -> None:
    async def script(peer: Peer) -> None:
        await peer.startup()
        await peer.expect(m.Terminate)
        peer.sock.shutdown(socket.SHUT_WR)
        await peer.eof()

    async with FakePG([script, script]) as fake:
        pool = await AsyncPool.connect(fake.dsn, size=2)
        await asyncio.gather(*[pool.close() for _ in range(10)])
        await closed(pool)


@ends_clean()
async def test_close_waits_for_submitted_requests_and_open_blocks(postgres: Server) -> None:
    pool = await AsyncPool.connect(postgres.dsn, size=2, max_in_flight=3)
    replies = [pool.exec_query("select $1::int4, pg_sleep(0.001)", [str(n)]) for n in range(50)]

    async def acquire() -> None:
        async with pool.exclusive() as mine:
            borrowed.set()
            await mine.exec_query("select pg_sleep(0.1)")
            await mine.exec_query("select 'inside still works'")

    borrowed = asyncio.Event()
    borrowing = asyncio.ensure_future(acquire())
    await borrowed.wait()
    await pool.close()
    assert [int(rows[0][0] or b"") for rows in await asyncio.gather(*replies)] == list(range(50))
    await borrowing
    await closed(pool)


@ends_clean()
async def test_close_fails_waiting_requests_and_acquires_with_connection_closed() -> None:
    async with LivelyPG() as fake:
        pool = await AsyncPool.connect(fake.dsn, size=1, max_exclusive=1)
        holder = pool.exclusive()
        await holder.__aenter__()
        waiter = asyncio.ensure_future(pool.exclusive().__aenter__())
        fake.refuses = True
        fake.kill(1)
        await until(lambda: pool.stats().connect_failures > 0, "an attempt to fail")
        request = pool.exec_query("select 1")
        closing = asyncio.ensure_future(pool.close())
        for each in (waiter, request):
            error = await outcome_of(each)
            assert isinstance(error, ConnectionClosed) and error.outcome is Outcome.NOT_SENT
        assert not closing.done()  # the holder has not left yet
        await holder.__aexit__()
        await closing
        await closed(pool)


@ends_clean()
async def test_close_inside_an_exclusive_block_ends_at_once_and_closes_its_connection(postgres: Server) -> None:
    pool = await AsyncPool.connect(postgres.dsn, size=1)
    async with asyncio.timeout(SOON - 1):  # close() would wait for ten seconds
        async with pool.exclusive() as mine:
            await mine.exec_query("select 1")
            await pool.close()
            with pytest.raises(ConnectionClosed):
                await mine.exec_query("select 1")
    await closed(pool)


@ends_clean()
async def test_close_times_out_when_the_server_does_not_answer() -> None:
    async with LivelyPG() as fake:
        pool = await AsyncPool.connect(fake.dsn, size=2)
        fake.may_answer.clear()
        replies = [pool.exec_query("select 1") for _ in range(4)]
        begin = time.monotonic()
        with pytest.raises(RequestTimeout, match="2 connections"):
            await pool.close(timeout=0.1)
        assert 0.09 <= time.monotonic() - begin < LATE
        assert {type(await outcome_of(reply)) for reply in replies} == {ConnectionClosed}
        await closed(pool)
        fake.may_answer.set()


@ends_clean()
async def test_close_times_out_when_a_connection_is_not_released() -> None:
    async with LivelyPG() as fake:
        pool = await AsyncPool.connect(fake.dsn, size=1)
        mine = await pool.exclusive().__aenter__()
        me = next(iter(pool._lending.out))
        me.task = None  # as if another task held it
        await pool.close(timeout=0.05)
        with pytest.raises(ConnectionClosed):
            await mine.exec_query("select 1")
        await mine.__aexit__()
        await closed(pool)


@ends_clean()
async def test_a_cancelled_close_closes_at_once(postgres: Server) -> None:
    pool = await AsyncPool.connect(postgres.dsn, size=1)
    reply = pool.exec_query("select pg_sleep(5)")
    closing = asyncio.ensure_future(pool.close())
    await asyncio.sleep(0.01)
    closing.cancel()
    assert isinstance(await outcome_of(closing), asyncio.CancelledError)
    error = await outcome_of(reply)
    assert isinstance(error, ConnectionClosed) and error.outcome is Outcome.UNKNOWN
    await closed(pool)


@ends_clean()
async def test_close_does_not_wait_for_an_on_connect_that_ignores_its_cancellation(postgres: Server) -> None:
    """on_connect swallows CancelledError; close() returns within its timeout nevertheless."""
    begun, may_end = asyncio.Event(), asyncio.Event()

    async def set_up(conn: AsyncConn) -> None:
        if pool is not None:
            begun.set()
            while not may_end.is_set():
                with suppress(asyncio.CancelledError):
                    await may_end.wait()

    pool: AsyncPool | None = None
    pool = await AsyncPool.connect(postgres.dsn, size=1, on_connect=set_up)
    pool.resize(2)
    await begun.wait()
    begin = time.monotonic()
    with suppress(RequestTimeout):
        await pool.close(0.2)
    assert time.monotonic() - begin < 0.2 + LATE
    may_end.set()
    await closed(pool)


@ends_clean()
async def test_a_connect_cancelled_at_any_step_leaves_no_session() -> None:
    async with LivelyPG() as fake:
        fake.refuses = True
        connecting = asyncio.ensure_future(AsyncPool.connect(fake.dsn))
        await asyncio.sleep(0)
        connecting.cancel()
        assert isinstance(await outcome_of(connecting), asyncio.CancelledError)
        fake.refuses = False
        for steps in range(0, 40, 3):
            connecting = asyncio.ensure_future(AsyncPool.connect(fake.dsn, size=2))
            for _ in range(steps):
                await asyncio.sleep(0)
            connecting.cancel()
            pool = await outcome_of(connecting)
            if isinstance(pool, AsyncPool):
                await pool.close()
        await until(lambda: not fake.sessions, "all to be gone")


@ends_clean()
async def test_a_dropped_pool_warns_and_closes(postgres: Server) -> None:
    async with await AsyncConn.connect(postgres.dsn) as admin:
        pool = await AsyncPool.connect(postgres.dsn, size=2, application_name="dropped")
        async with pool.exclusive() as mine:
            await mine.exec_query("select 1")
        with pytest.warns(ResourceWarning, match="unclosed <AsyncPool size=2"):
            del pool
            gc.collect()
        await until_sql(admin, "select count(*) = 0 from pg_stat_activity where application_name = 'dropped'")


@ends_clean()
async def test_a_closed_pool_is_collected_when_its_last_reference_goes() -> None:
    """No timer, task or callback keeps a reference to it."""
    async with LivelyPG() as fake:
        pool = await AsyncPool.connect(fake.dsn, size=2)
        async with pool.exclusive():
            pass
        await pool.close()
        await asyncio.sleep(0)
        rooms: list[Callable[[], object]] = [
            weakref.ref(pool),
            weakref.ref(pool._shared),
            weakref.ref(pool._lending),
            weakref.ref(pool._connections),
        ]
        del pool
        gc.collect()
        assert [room() for room in rooms] == [None] * 4


# ---- loops, threads and processes


@ends_clean()
async def test_use_from_another_thread_or_loop_is_refused(postgres: Server) -> None:
    async with await AsyncPool.connect(postgres.dsn, size=1) as pool:
        errors: list[BaseException] = []

        async def use() -> None:
            asks: list[Callable[[], Any]] = [
                lambda: pool.exec_query("select 1"),
                lambda: pool.exclusive().__aenter__(),
                lambda: pool.listener(["a"]).__aenter__(),
                pool.close,
                pool.get,
            ]
            for ask in asks:
                with pytest.raises(UsageError, match="another event loop"):
                    await ask()

        def elsewhere() -> None:
            try:
                with pytest.raises(UsageError, match="no event loop"):
                    pool.exec_query("select 1")
                with pytest.raises(UsageError, match="no event loop"):
                    pool.resize(2)
                asyncio.run(use())
            except BaseException as error:
                errors.append(error)

        thread = threading.Thread(target=elsewhere)
        thread.start()
        await asyncio.to_thread(thread.join)
        assert not errors
        assert list(await pool.exec_query("select 1")) == [(b"1",)]
    await asyncio.get_running_loop().shutdown_default_executor()


@ends_clean()
async def test_a_forked_child_is_refused_and_does_not_disturb_the_parent(postgres: Server) -> None:
    """The child gets a UsageError; the parent's next answers are correct."""
    async with await AsyncPool.connect(postgres.dsn, size=2) as pool:
        async with pool.exclusive() as mine:
            await mine.exec_query("select 1")
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            said = "nothing"
            try:
                pool.exec_query("select 1")
            except UsageError as error:
                said = str(error)
            os.write(writer, said.encode())
            os._exit(0)
        os.close(writer)
        os.waitpid(child, 0)
        with open(reader) as answer:
            assert "process that was forked" in answer.read()
        rows = await asyncio.gather(*[pool.exec_query("select $1::int4", [str(n)]) for n in range(200)])
        assert [int(each[0][0] or b"") for each in rows] == list(range(200))


@ends_clean()
async def test_a_pool_cannot_be_pickled_or_passed_to_a_spawned_process(postgres: Server) -> None:
    async with await AsyncPool.connect(postgres.dsn, size=1) as pool:
        with pytest.raises(TypeError, match="connect in each one"):
            pickle.dumps(pool)
        spawn = multiprocessing.get_context("spawn")
        with pytest.raises(TypeError, match="connect in each one"):
            spawn.Process(target=print, args=(pool,)).start()


PROGRAM = """
import asyncio, sys
from pg_wired import AsyncPool

async def main():
    pool = await AsyncPool.connect(sys.argv[1], size=2)
    waiting = asyncio.ensure_future(pool.exec_query("select pg_sleep(30)"))
    async with pool.exclusive() as mine:
        await mine.exec_query("select 1")
    globals().update(pool=pool, waiting=waiting)
    sys.exit(7)

{run}
"""


@pytest.mark.parametrize("run", ["asyncio.run(main())", "import uvloop; uvloop.run(main())"])
def test_a_program_that_exits_with_an_open_pool_ends_at_once_and_silently(postgres: Server, run: str) -> None:
    """The exit code is the program's, and nothing is printed."""
    source = str(Path(pg_wired.__file__).parents[1])
    command = [sys.executable, "-c", PROGRAM.format(run=run), postgres.dsn]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=20, env=os.environ | {"PYTHONPATH": source})
    assert (ended.returncode, ended.stdout, ended.stderr) == (7, "", "")


def test_two_event_loops_in_succession_can_each_have_a_pool(postgres: Server) -> None:
    async def main() -> bytes | None:
        async with await AsyncPool.connect(postgres.dsn, size=2) as pool:
            return (await pool.exec_query("select 1"))[0][0]

    assert [asyncio.run(main()) for _ in range(2)] == [b"1", b"1"]


def test_use_after_the_pools_loop_has_ended_is_refused(postgres: Server) -> None:
    async def main() -> AsyncPool:
        return await AsyncPool.connect(postgres.dsn, size=1)

    async def later(pool: AsyncPool) -> None:
        with pytest.raises(UsageError, match="another event loop"):
            await pool.exec_query("select 1")

    pool = asyncio.run(main())
    asyncio.run(later(pool))
    with pytest.warns(ResourceWarning, match="unclosed <AsyncPool"):
        del pool
        gc.collect()


@ends_clean()
async def test_an_exception_in_the_block_propagates_unchanged_and_closes_at_once(postgres: Server) -> None:
    begin = time.monotonic()
    with pytest.raises(ValueError, match="mine"):
        async with await AsyncPool.connect(postgres.dsn, size=1) as pool, pool.exclusive() as mine:
            replies = [pool.exec_query("select pg_sleep(60)"), mine.exec_query("select pg_sleep(60)")]
            raise ValueError("mine")
    assert time.monotonic() - begin < SOON - 1  # close() would wait for ten seconds
    for reply in replies:
        ended = await outcome_of(reply)
        assert isinstance(ended, UsageError) or (isinstance(ended, PgError) and ended.code == "57014")


@ends_clean()
async def test_the_constructor_refuses_and_names_the_connect_method(postgres: Server) -> None:
    with pytest.raises(TypeError, match=r"await AsyncPool\.connect"):
        AsyncPool(ConnConfig.parse(postgres.dsn))
