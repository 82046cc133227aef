"""A transport with a blocking socket at its other end, plain or TLS, and buffers that keep all data. No protocol."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import threading
from collections.abc import Callable
from typing import TypeAlias

import trustme

from pg_wired.loop.transport import Transport
from pg_wired.protocol.buffers import Buffers

from .checks import until

Sockets: TypeAlias = tuple[socket.socket, socket.socket]

VERSIONS = {"TLSv1.2": ssl.TLSVersion.TLSv1_2, "TLSv1.3": ssl.TLSVersion.TLSv1_3}
KINDS = ["plain", *VERSIONS]


class Kept(Buffers):
    """Buffers that keep all received data; the receive buffer has the given size."""

    def __init__(self, size: int = 65536) -> None:
        super().__init__(size)
        self.data = bytearray()
        self.reads: list[int] = []
        self.ends: list[BaseException | None] = []
        self.on_data: Callable[[], None] = lambda: None

    def received(self, n: int) -> None:
        self.data += self.buffer[self.tail : self.tail + n]
        self.reads.append(n)
        self.on_data()

    def lost(self, cause: BaseException | None) -> None:
        self.ends.append(cause)


class Pair:
    """A transport, and the blocking socket at its other end."""

    def __init__(self, ours: socket.socket, theirs: socket.socket) -> None:
        self.receiver = Kept()
        self.theirs = theirs
        self.raw = socket.socket(fileno=os.dup(theirs.fileno()))  # below TLS
        self.transport = Transport(asyncio.get_running_loop(), ours, self.receiver)

    def write(self, data: bytes) -> None:
        self.receiver.out += data
        self.transport.flush()

    @property
    def is_tls(self) -> bool:
        return isinstance(self.theirs, ssl.SSLSocket)

    async def hear(self, size: int, at_once: int = 65536) -> bytes:
        """Read this many bytes at the other end."""

        def read() -> bytes:
            heard = b""
            while len(heard) < size and (part := self.theirs.recv(min(at_once, size - len(heard)))):
                heard += part
            return heard

        return await asyncio.to_thread(read)

    async def say(self, data: bytes) -> None:
        await asyncio.to_thread(self.theirs.sendall, data)

    async def got(self, size: int) -> bytes:
        await until(lambda: len(self.receiver.data) >= size or bool(self.receiver.ends), f"{size} bytes")
        return bytes(self.receiver.data)

    def close(self) -> None:
        self.transport.abort()
        self.theirs.close()
        self.raw.close()


def encrypted(pair: Sockets, authority: trustme.CA, kind: str) -> Sockets:
    """Both ends, after a blocking handshake."""
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.issue_cert("localhost").configure_cert(server)
    authority.configure_trust(client)
    for context in (server, client):
        context.minimum_version = context.maximum_version = VERSIONS[kind]
    ours, theirs = pair
    found: list[ssl.SSLSocket] = []
    handshake = threading.Thread(target=lambda: found.append(server.wrap_socket(theirs, server_side=True)))
    handshake.start()
    wrapped = client.wrap_socket(ours, server_hostname="localhost", suppress_ragged_eofs=False)
    handshake.join()
    return wrapped, found[0]


def connected(kind: str, authority: trustme.CA) -> Pair:
    """Make a pair of this kind; needs a running loop."""
    ours, theirs = socket.socketpair()
    if kind != "plain":
        ours, theirs = encrypted((ours, theirs), authority, kind)
    ours.setblocking(False)
    return Pair(ours, theirs)
