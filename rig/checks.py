"""Helper functions for tests with sockets: deadlines, a clean end, and repeatable randomness. Starts no servers."""

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
# Seconds. No test depends on exact timing: an immediate event comes within SOON, however busy the machine; an event
# that must not be waited for takes a minute. A deadline may be as late as the loop is; `test_watchdog_deadlines`
# compares it with a bare timer.
SOON = 10.0
LATE = 5.0
SEED = "PG_WIRED_SEED"
SOAK = bool(os.environ.get("PG_WIRED_SOAK"))  # whether tests run their long versions: `make soak`
TCP_INFO_DATA_SEGS_OUT = 156  # linux/tcp.h, struct tcp_info: the offset of tcpi_data_segs_out


def ends_clean(seconds: float = 30.0) -> Callable[[Test[P, R]], Test[P, R]]:
    """Give an async test a deadline, and assert that it leaves no new task, no new socket and no failed callback."""

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
    """Collect what the loop reports inside the block, except for reports that depend on the garbage collector."""
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
    """Wait until there is no other task, and no socket that is not in `before`."""
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
    """Let the loop run until `is_so` returns true; return the seconds that took."""
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
    """Assert that the connection answers a new query correctly, and has nothing else in flight."""
    nonce = secrets.token_hex(8)
    assert list(await conn.exec_query("select $1::text", (nonce,))) == [(nonce.encode(),)]
    assert conn.in_flight == 0 and conn.is_alive


async def prepared(conn: AsyncConn) -> set[str]:
    """The names of the prepared statements that the server has for this session."""
    [rows] = await conn.simple_query("select name from pg_prepared_statements")
    return {(name or b"").decode() for (name,) in rows}


async def cache_in_step(conn: AsyncConn) -> None:
    """Assert that, with nothing in flight, the server has exactly the statements that the cache expects."""
    await conn.exec_query("select 'this takes along what is to be closed'")
    cache = conn._core.session.statements
    names = {statement.name: statement.sql for statement in cache.entries.values() if statement.number}
    server = await prepared(conn)
    assert server == set(names), f"only the server has {server - set(names)}, only the cache {names}"
    assert len(cache.entries) <= cache.capacity and not cache.closing


class Cancelled:
    """Run work in a new task, which is cancelled when the work is suspended for the `at`-th time."""

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
    """Cancel it at its first await, then at its second, and so on; assert that nothing is left. Return their number."""
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
    """The result of an awaitable, or the exception it raises."""
    return (await asyncio.gather(awaited, return_exceptions=True))[0]


def repeatable() -> random.Random:
    """A random number generator. The seed is printed; PG_WIRED_SEED sets it, to repeat a run."""
    seed = int(os.environ.get(SEED) or secrets.randbits(32))
    print(f"{SEED}={seed}")
    return random.Random(seed)


def segments_sent(sock: socket.socket) -> int:
    """The number of TCP data segments sent by this socket; on loopback with TCP_NODELAY, one for each small write."""
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, TCP_INFO_DATA_SEGS_OUT + 4)
    return int(struct.unpack_from("I", info, TCP_INFO_DATA_SEGS_OUT)[0])
