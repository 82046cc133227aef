"""A plain socket on the loop: the cost of a client that parses no messages. No driver can need less."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from typing import Any

from pg_wired import WireConn
from pg_wired.protocol import messages

from .work import POINTS, SCAN, SELECT, VALUE_LENGTH, Fetch, Task

BUFFER_SIZE = 256 * 1024  # as large as pg_wired's own
SCAN_REQUEST = messages.encode(
    messages.Parse("", SCAN), messages.Bind(result_formats=(1,)), messages.Execute(), messages.Sync()
)
PREPARATION = messages.encode(messages.Parse("select", SELECT.format("$1")), messages.Sync())
# Offset of the only value of an answer: after BindComplete, and DataRow's type and length, count and first length.
VALUE_AT = 5 + 5 + 2 + 4
READY_SIZE = 6


@contextmanager
def logged_in() -> Iterator[socket.socket]:
    """Yield a blocking socket on which psycopg has logged in, so that the server waits for a request."""
    import psycopg  # imported here, because the samples of pgbench do not need it

    with psycopg.connect() as login, socket.socket(fileno=os.dup(login.fileno())) as sock:
        sock.setblocking(True)
        yield sock


@asynccontextmanager
async def one() -> AsyncIterator[Task]:
    """Send requests that were encoded beforehand; a future is done when the answer has arrived."""
    with logged_in() as sock:
        sock.sendall(PREPARATION)
        sock.recv(BUFFER_SIZE)
        sock.setblocking(False)
        with _asking(sock.fileno(), sock.send, sock.recv_into) as task:
            yield task


@asynccontextmanager
async def one_tls() -> AsyncIterator[Task]:
    """The same over TLS, without the checks of SSLSocket. pg_wired logs in; then its transport stops reading."""
    async with await WireConn.connect() as wire:
        await wire.send_raw(PREPARATION)
        await wire.drain_until_ready()
        wire._transport.pause()
        sock: Any = wire._transport._sock  # private: only a benchmark should do this
        tls = sock._sslobj
        with _asking(sock.fileno(), tls.write, lambda buffer: tls.read(len(buffer), buffer)) as task:
            yield task
        wire.abort()


@contextmanager
def _asking(fd: int, send: Callable[[bytes], int], receive: Callable[[bytearray], int]) -> Iterator[Task]:
    loop = asyncio.get_running_loop()
    requests = [_request(key) for key in range(POINTS + 1)]
    buffer = bytearray(BUFFER_SIZE)
    answer: asyncio.Future[int] = loop.create_future()

    def arrived() -> None:
        answer.set_result(receive(buffer))

    async def task(keys: Iterable[int]) -> str:
        nonlocal answer
        for key in keys:
            answer = loop.create_future()
            send(requests[key])
            size = await answer
        assert buffer[size - READY_SIZE] == ord("Z"), "an answer came in pieces"
        return buffer[VALUE_AT : VALUE_AT + VALUE_LENGTH].decode()

    loop.add_reader(fd, arrived)
    yield task
    loop.remove_reader(fd)


def _request(key: int) -> bytes:
    bind = messages.Bind(statement="select", params=(str(key).encode(),))
    return messages.encode(bind, messages.Execute(), messages.Sync())


def drain() -> AbstractAsyncContextManager[Fetch]:
    """Read all rows in binary into one buffer, which each read overwrites."""
    return _taking(None)


def keep() -> AbstractAsyncContextManager[Fetch]:
    """The same, but append each read to a bytearray: the cost of a result's memory. Nothing is checked."""
    return _taking(bytearray())


@asynccontextmanager
async def _taking(kept: bytearray | None) -> AsyncIterator[Fetch]:
    loop = asyncio.get_running_loop()
    with logged_in() as sock:
        sock.setblocking(False)
        buffer = bytearray(BUFFER_SIZE)
        view = memoryview(buffer)

        async def take() -> Sequence[Any]:
            end: asyncio.Future[int] = loop.create_future()

            def arrived() -> None:
                size = sock.recv_into(buffer)
                if kept is not None:
                    kept.extend(view[:size])
                if buffer[size - READY_SIZE : size] == b"Z\0\0\0\x05I":
                    end.set_result(size)

            loop.add_reader(sock, arrived)
            sock.send(SCAN_REQUEST)
            size = await end
            loop.remove_reader(sock)
            return Drained(int(buffer[:size].rpartition(b"SELECT ")[2].partition(b"\0")[0]))

        yield take


class Drained(Sequence[Any]):
    """A sequence with the length that the command tag says, but without the rows."""

    def __init__(self, count: int) -> None:
        self._count = count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: Any) -> Any:
        raise IndexError(index)
