"""What tests with sockets share: a deadline and a clean end, and randomness that can be had again. Starts nothing."""

from __future__ import annotations

import asyncio
import functools
import itertools
import os
import random
import secrets
import socket
import struct
import time
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ParamSpec, TypeAlias, TypeVar

from pg_wired import AsyncConn, WireConn

P = ParamSpec("P")
R = TypeVar("R")
Test: TypeAlias = Callable[P, Coroutine[Any, Any, R]]

POLL = 0.005  # seconds
# Seconds. No timing decides a test: what happens at once happens within SOON, however busy the machine; what it must
# not wait for takes a minute. A deadline is as late as the loop is; `test_watch` compares it with a bare timer.
SOON = 10.0
LATE = 5.0
SEED = "PG_WIRED_SEED"
SOAK = bool(os.environ.get("PG_WIRED_SOAK"))  # whether tests with a long version run that: `make soak`
TCP_INFO_DATA_SEGS_OUT = 156  # linux/tcp.h, struct tcp_info: where tcpi_data_segs_out stands


def ends_clean(seconds: float = 30.0) -> Callable[[Test[P, R]], Test[P, R]]:
    """Give an asynchronous test a deadline; it leaves no new task, no new socket, and no callback that has failed."""

    def decorate(test: Test[P, R]) -> Test[P, R]:
        @functools.wraps(test)
        async def checked(*args: P.args, **kwargs: P.kwargs) -> R:
            before = open_sockets()
            with failed_callbacks() as failed:
                async with asyncio.timeout(seconds):
                    result = await test(*args, **kwargs)
                await nothing_left(before)
            assert not failed, failed
            return result

        return checked

    return decorate


@contextmanager
def failed_callbacks() -> Iterator[list[dict[str, Any]]]:
    """What the loop tells of while this lasts, except for what depends on the garbage collector."""
    loop, failed = asyncio.get_running_loop(), []

    def tell(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if "future" not in context and "task" not in context:
            failed.append(context)
        loop.default_exception_handler(context)

    loop.set_exception_handler(tell)
    try:
        yield failed
    finally:
        loop.set_exception_handler(None)


async def nothing_left(before: set[str]) -> None:
    """No other task, and no other sockets than those."""
    await until(lambda: asyncio.all_tasks() == {asyncio.current_task()}, "all tasks to end")
    await until(lambda: open_sockets() <= before, "all sockets to be closed")


def open_sockets() -> set[str]:
    """The sockets of this process, as /proc names them."""
    names = set()
    for entry in Path("/proc/self/fd").iterdir():
        try:
            names.add(os.readlink(entry))
        except FileNotFoundError:  # the folder's own descriptor
            continue
    return {name for name in names if name.startswith("socket:")}


async def until(is_so: Callable[[], bool], what: str, seconds: float = SOON) -> float:
    """Let the loop run until `is_so`; returns how many seconds that took."""
    begin = time.monotonic()
    while not is_so():
        assert time.monotonic() - begin < seconds, f"waited {seconds} s for {what}"
        await asyncio.sleep(POLL)
    return time.monotonic() - begin


async def until_sql(conn: AsyncConn, sql: str, seconds: float = SOON) -> None:
    """Ask the server until `sql` returns true."""
    begin = time.monotonic()
    while (await conn.exec_query(sql))[0] != (b"t",):
        assert time.monotonic() - begin < seconds, f"waited {seconds} s for {sql}"
        await asyncio.sleep(POLL)


async def answers(conn: AsyncConn) -> None:
    """The connection has to answer with what was asked just now."""
    nonce = secrets.token_hex(8)
    assert list(await conn.exec_query("select $1::text", (nonce,))) == [(nonce.encode(),)]
    assert conn.in_flight == 0 and conn.is_alive


async def prepared(conn: AsyncConn) -> set[str]:
    """The statements that the server keeps for this session."""
    [rows] = await conn.simple_query("select name from pg_prepared_statements")
    return {(name or b"").decode() for (name,) in rows}


async def cache_in_step(conn: AsyncConn) -> None:
    """With nothing in flight the server has exactly what the cache believes it has."""
    await conn.exec_query("select 'this takes along what is to be closed'")
    cache = conn._session.statements
    names = {statement.name: statement.sql for statement in cache.entries.values() if statement.number}
    server = await prepared(conn)
    assert server == set(names), f"only the server has {server - set(names)}, only the cache {names}"
    assert len(cache.entries) <= cache.capacity and not cache.closing


class Cancelled:
    """Work in a task of its own, which is cancelled the moment the work is suspended for the time `at`."""

    def __init__(self, work: Coroutine[Any, Any, Any], at: int) -> None:
        self.work = work
        self.left = at

    @property
    def was_cancelled(self) -> bool:
        return self.left <= 0

    def run(self) -> asyncio.Task[Any]:
        async def await_it() -> Any:
            return await self

        return asyncio.get_running_loop().create_task(await_it())

    def __await__(self) -> Generator[Any, Any, Any]:
        task = asyncio.current_task()
        assert task
        resume: Callable[[], Any] = functools.partial(self.work.send, None)
        while True:
            try:
                awaited = resume()
            except StopIteration as end:
                return end.value
            self.left -= 1
            if self.left == 0:
                asyncio.get_running_loop().call_soon(task.cancel)
            try:
                yield awaited
                resume = functools.partial(self.work.send, None)
            except BaseException as error:
                resume = functools.partial(self.work.throw, error)


async def cancelled_at_every_await(connect: Callable[[], Coroutine[Any, Any, AsyncConn | WireConn]]) -> int:
    """Cancel it at its first await, then at its second, and so on: nothing may be left. How many there are."""
    for n in itertools.count(1):
        before = open_sockets()
        attempt = Cancelled(connect(), at=n)
        result = await outcome_of(attempt.run())
        if isinstance(result, AsyncConn | WireConn):
            await result.close()
        else:
            assert isinstance(result, asyncio.CancelledError), result
        await nothing_left(before)
        if not attempt.was_cancelled:
            break
    return n


async def outcome_of(awaited: Awaitable[Any]) -> Any:
    """What it returns, or the exception it raises."""
    return (await asyncio.gather(awaited, return_exceptions=True))[0]


def repeatable() -> random.Random:
    """Random numbers; the seed is printed, and PG_WIRED_SEED gives the same ones again."""
    seed = int(os.environ.get(SEED) or secrets.randbits(32))
    print(f"{SEED}={seed}")
    return random.Random(seed)


def segments_sent(sock: socket.socket) -> int:
    """TCP segments with data that have left this socket; over loopback, with TCP_NODELAY, one for each small write."""
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, TCP_INFO_DATA_SEGS_OUT + 4)
    return int(struct.unpack_from("I", info, TCP_INFO_DATA_SEGS_OUT)[0])
