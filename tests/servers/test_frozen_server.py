"""Processes that acknowledge packets but do not answer: a stopped backend, a stopped postmaster, a slow resolver; and
no free file descriptors. Deadlines hold, no stale answer is delivered, and everything works afterwards."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from pg_wired import AsyncConn, AsyncPool, IoError, Outcome, PoolExhausted, RequestTimeout
from pg_wired.client.watchdog import CANCEL_GRACE_SECONDS
from rig.checks import LATE, SOON, answers, ends_clean, outcome_of, until
from rig.postgres import Postgres

pytestmark = pytest.mark.both_loops

SHORT = 0.2  # seconds: the timeout of a request


@contextmanager
def stopped(pid: int | None) -> Iterator[None]:
    """Stop the process inside the block. The kernel still acknowledges data for it and completes connects."""
    assert pid
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@ends_clean()
async def test_deadlines_hold_on_a_stopped_backend_and_late_answers_are_dropped(launched: Postgres) -> None:
    """A late answer is discarded, and other requests get their own answers."""
    async with await AsyncConn.connect(launched.dsn) as conn:
        with stopped(conn.backend_pid):
            begin = time.monotonic()
            late = await outcome_of(conn.exec_query("select 'late'", timeout=SHORT))
            assert type(late) is RequestTimeout and late.outcome is Outcome.UNKNOWN
            assert SHORT * 0.99 <= time.monotonic() - begin < SHORT + LATE
            waiting = [conn.exec_query("select $1::text", (str(n),)) for n in range(100)]
            impatient = await outcome_of(conn.exec_query("select 'later'", timeout=SHORT))
            assert type(impatient) is RequestTimeout
        rows = await asyncio.gather(*waiting)
        assert [row[0][0] for row in rows] == [str(n).encode() for n in range(100)]
        await answers(conn)


@ends_clean(60)
async def test_a_connection_whose_backend_is_stopped_is_not_lent_again(launched: Postgres) -> None:
    """Leaving the block takes a bounded time; the next block gets another connection."""
    async with await AsyncPool.connect(launched.dsn, size=1, max_exclusive=1) as pool:
        with ExitStack() as stack:
            async with pool.exclusive() as mine:
                pid = mine.backend_pid
                stack.enter_context(stopped(pid))
                assert type(await outcome_of(mine.exec_query("select 1", timeout=SHORT))) is RequestTimeout
                begin = time.monotonic()
            assert time.monotonic() - begin < 2 * CANCEL_GRACE_SECONDS + LATE
            async with pool.exclusive() as another:
                assert another.backend_pid != pid
                assert await another.exec_query("select 2") == [(b"2",)]


@ends_clean(60)
async def test_the_probe_replaces_an_idle_connection_whose_backend_is_stopped(
    launched: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The probe finds it, and the pool makes another connection."""
    monkeypatch.setattr("pg_wired.pool.connections.PROBE_TIMEOUT_SECONDS", SHORT)
    async with await AsyncPool.connect(launched.dsn, size=1, probe_interval=0.1) as pool:
        with stopped(pid := pool.get().backend_pid):
            await until(lambda: pool.alive_count == 1 and pool.get().backend_pid != pid, "another connection")
            await answers(pool.get())


@ends_clean(60)
async def test_connects_time_out_while_the_postmaster_is_stopped(launched: Postgres) -> None:
    """Existing sessions work meanwhile, and new connections succeed afterwards."""
    async with await AsyncPool.connect(launched.dsn, size=1, max_exclusive=1) as pool:
        with stopped(launched.pid):
            begin = time.monotonic()
            for options in ({"timeout": SHORT}, {"connect_timeout": SHORT}):
                refused = await outcome_of(AsyncConn.connect(launched.dsn, **options))
                assert type(refused) is RequestTimeout and refused.outcome is Outcome.NOT_SENT
            assert type(await outcome_of(take(pool, SHORT))) is PoolExhausted
            assert time.monotonic() - begin < 3 * SHORT + LATE
            await answers(pool.get())
        assert await take(pool, SOON)


async def take(pool: AsyncPool, seconds: float) -> int | None:
    async with pool.exclusive(acquire_timeout=seconds) as mine:
        return mine.backend_pid


@ends_clean()
async def test_a_connect_with_a_hanging_resolver_times_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """The resolver's thread cannot be stopped, but connect() does not wait for it."""
    if "uvloop" in type(asyncio.get_running_loop()).__module__:
        return  # uvloop has its own resolver
    answer = threading.Event()

    def hanging(*args: object, flags: int = 0, **options: object) -> list[object]:
        if not flags & socket.AI_NUMERICHOST:
            answer.wait(SOON)
        raise socket.gaierror(socket.EAI_AGAIN, "at last")

    monkeypatch.setattr(socket, "getaddrinfo", hanging)
    begin = time.monotonic()
    refused = await outcome_of(AsyncConn.connect("host=slow.example user=tester", timeout=SHORT))
    assert type(refused) is RequestTimeout and refused.outcome is Outcome.NOT_SENT
    assert time.monotonic() - begin < SHORT + LATE
    answer.set()


@ends_clean()
async def test_without_free_descriptors_connects_and_acquires_fail_with_the_reason(launched: Postgres) -> None:
    """The pool keeps its connections and waits; a connect fails with the reason; neither leaks anything."""
    async with await AsyncPool.connect(launched.dsn, size=1, max_exclusive=1) as pool:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
        try:
            refused = await outcome_of(AsyncConn.connect(launched.dsn))
            exhausted = await outcome_of(take(pool, SHORT))
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert type(refused) is IoError and "Too many open files" in str(refused)
        assert type(exhausted) is PoolExhausted and exhausted.outcome is Outcome.NOT_SENT
        assert "Too many open files" in str(exhausted.__cause__ or exhausted)
        await answers(pool.get())
        assert await take(pool, SOON)
