"""What the library takes from outside comes from one Runtime: sockets, randomness, threads and the clock."""

from __future__ import annotations

import ast
import asyncio
import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import pytest

import pg_wired
from pg_wired import AsyncConn, AsyncPool, RequestTimeout, WireConn
from pg_wired.loop.clock import Clock
from pg_wired.loop.runtime import Runtime, SystemRandomness, connect_socket
from pg_wired.protocol import messages as m
from pg_wired.testing import FakePG, Peer, until_terminate
from rig.checks import ends_clean
from rig.postgres import Server


class BareSocket:
    """A socket that has nothing but what a simulator's has to have."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self.family = sock.family
        self.fileno = sock.fileno
        self.recv_into = sock.recv_into
        self.send = sock.send
        self.close = sock.close


def bare(dialled: list[Any]) -> Runtime:
    """A Runtime whose sockets are bare, and noted in the order in which they were made."""

    async def connect(family: int, sockaddr: Any, prepare: Callable[[socket.socket], None]) -> socket.socket:
        dialled.append(sockaddr)
        return cast(socket.socket, BareSocket(await connect_socket(family, sockaddr, prepare)))

    return Runtime(connect=connect)


@ends_clean()
async def test_any_object_with_recv_into_and_send_is_a_socket(postgres: Server) -> None:
    dialled: list[Any] = []
    async with await AsyncConn.connect(postgres.dsn, sslmode="disable", _runtime=bare(dialled)) as conn:
        assert await conn.exec_query("select $1", ["x" * 1_000_000]) == [(b"x" * 1_000_000,)]
        async with conn.stream("select g from generate_series(1, 100000) g") as rows:
            assert sum([1 async for _ in rows]) == 100_000
        sleeping = conn.exec_query("select pg_sleep(60)")
        while not conn.in_flight:
            await asyncio.sleep(0)
        await conn.cancel_token().cancel()
        sleeping.cancel()
        assert await conn.exec_query("select 1") == [(b"1",)]
    assert len(dialled) >= 2  # the session, and its cancel requests


@ends_clean()
async def test_a_pool_and_a_wire_connection_use_the_same_runtime(postgres: Server) -> None:
    dialled: list[Any] = []
    async with await AsyncPool.connect(postgres.dsn, size=2, sslmode="disable", _runtime=bare(dialled)) as pool:
        assert await pool.exec_query("select 1") == [(b"1",)]
        async with pool.exclusive() as mine:
            assert await mine.exec_query("select 2") == [(b"2",)]
    async with await WireConn.connect(postgres.dsn, sslmode="disable", _runtime=bare(dialled)) as wire:
        await wire.send(m.Query("select 3"))
        assert (await wire.collect_rows())[0] == [(b"3",)]
    assert len(dialled) == 4


class Counted(SystemRandomness):
    """The system's randomness, counted."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def randbytes(self, n: int, /) -> bytes:
        self.sizes.append(n)
        return bytes(n)


@ends_clean()
async def test_a_login_takes_its_nonce_from_the_runtime() -> None:
    counted = Counted()
    async with FakePG(until_terminate) as fake:
        await (await AsyncConn.connect(fake.dsn, _runtime=Runtime(randomness=counted))).close()
    assert counted.sizes == [18]


async def test_long_work_runs_in_the_given_executor() -> None:
    with ThreadPoolExecutor(1, thread_name_prefix="given") as executor:
        name = await Runtime(executor=executor).in_thread(lambda: threading.current_thread().name)
    assert name.startswith("given")


class Fast(Clock):
    """A clock on which a deadline passes a thousand times sooner."""

    def deadline(self, timeout: float | None) -> float:
        return super().deadline(timeout if timeout is None else timeout / 1000)


@ends_clean()
async def test_deadlines_go_by_the_clock_of_the_runtime() -> None:
    async def script(peer: Peer) -> None:
        await peer.startup()
        await peer.group()
        await peer.eof()

    async with FakePG(script) as fake:
        conn = await AsyncConn.connect(fake.dsn, _runtime=Runtime(clock=Fast))
        with pytest.raises(RequestTimeout):
            await conn.simple_query("select 1", timeout=1000.0)
        conn.abort()


SOURCES = sorted(Path(pg_wired.__file__).parent.rglob("*.py"))
# The seams themselves: `os.urandom` and `random` are the system's randomness there.
SEAMS = {"runtime.py"}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_no_module_has_a_clock_or_randomness_of_its_own(path: Path) -> None:
    if path.name in SEAMS:
        return
    tree = ast.parse(path.read_text())
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and not node.level}
    assert not imported & {"time", "random", "secrets"}
    assert "urandom" not in {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
