"""What the library takes from outside: sockets, randomness, threads and time.

A simulator hands in a Runtime of its own, and runs the whole library without a network, a wall clock or chance. Sockets
are then anything with `recv_into`, `send`, `fileno`, `close` and `family`, whose loop knows their file descriptors.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from typing import Any, Protocol, TypeAlias, TypeVar

from .clock import Clock

T = TypeVar("T")

# Connects a non-blocking socket: address family, address, and what to call with the socket before it connects.
Dialler: TypeAlias = Callable[[int, Any, Callable[[socket.socket], None]], Awaitable[socket.socket]]


async def connect_socket(family: int, sockaddr: Any, prepare: Callable[[socket.socket], None]) -> socket.socket:
    """A connected, non-blocking socket; `prepare` sets its options before it connects. Raises OSError."""
    loop = asyncio.get_running_loop()
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        prepare(sock)
        await loop.sock_connect(sock, sockaddr)
    except BaseException:
        sock.close()
        raise
    return sock


class Randomness(Protocol):
    """What is needed of a `random.Random`."""

    def random(self) -> float:
        """A number from 0 up to 1, for backing off."""
        ...

    def randbytes(self, n: int, /) -> bytes:
        """Bytes that cannot be guessed: a nonce must not be."""
        ...

    def shuffle(self, items: list[Any], /) -> None:
        """Put a list into random order."""
        ...


class SystemRandomness:
    """The operating system's. The module `random` is loaded only where it is needed."""

    def random(self) -> float:
        """A number from 0 up to 1."""
        from random import random

        return random()

    def randbytes(self, n: int, /) -> bytes:
        """Bytes that cannot be guessed."""
        return os.urandom(n)

    def shuffle(self, items: list[Any], /) -> None:
        """Put a list into random order."""
        from random import SystemRandom

        SystemRandom().shuffle(items)


class Runtime:
    """Everything that comes from outside, in one object. `executor` is None for the loop's own threads."""

    def __init__(
        self,
        *,
        connect: Dialler = connect_socket,
        randomness: Randomness | None = None,
        executor: Executor | None = None,
        clock: Callable[[asyncio.AbstractEventLoop], Clock] = Clock,
    ) -> None:
        self.connect = connect
        self.randomness = randomness or SystemRandomness()
        self.executor = executor
        self.clock = clock

    async def in_thread(self, work: Callable[..., T], *arguments: Any) -> T:
        """Do in a thread what would block the loop for too long."""
        return await asyncio.get_running_loop().run_in_executor(self.executor, work, *arguments)


# The one of every program that is not a simulator.
SYSTEM = Runtime()
