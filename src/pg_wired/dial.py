"""From a ConnConfig to a connected socket: names, addresses, socket options. It speaks no protocol."""

from __future__ import annotations

import asyncio
import os
import socket
from typing import Any, NamedTuple

from .conninfo import ConnConfig
from .error import IoError, Outcome

# The crate's keepalive: a silent peer is found after 60 s and the kernel's nine probes 15 s apart.
_KEEPALIVE = (
    ("SO_KEEPALIVE", socket.SOL_SOCKET, 1),
    ("TCP_KEEPIDLE", socket.IPPROTO_TCP, 60),
    ("TCP_KEEPINTVL", socket.IPPROTO_TCP, 15),
)


class Address(NamedTuple):
    """Where a server listens, as the socket module has it."""

    family: int
    sockaddr: Any

    def __str__(self) -> str:
        if isinstance(self.sockaddr, str):
            return self.sockaddr.replace("\0", "@")
        host, port = self.sockaddr[:2]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


async def dial(config: ConnConfig) -> tuple[socket.socket, Address]:
    """A connected, non-blocking socket to the first address that answers. Raises IoError with what each one said."""
    failures: list[str] = []
    for address in await _addresses(config):
        try:
            return await connect_to(address), address
        except OSError as error:
            failures.append(f"{address}: {os.strerror(error.errno) if error.errno else error}")
    raise IoError(f"cannot connect to {config.host!r}: " + "; ".join(failures), Outcome.NOT_SENT)


async def connect_to(address: Address) -> socket.socket:
    """A connected, non-blocking socket to exactly this address. Raises OSError."""
    loop = asyncio.get_running_loop()
    sock = socket.socket(address.family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        if address.family in (socket.AF_INET, socket.AF_INET6):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for name, level, value in _KEEPALIVE:
                if hasattr(socket, name):
                    sock.setsockopt(level, getattr(socket, name), value)
        await loop.sock_connect(sock, address.sockaddr)
    except BaseException:
        sock.close()
        raise
    return sock


async def _addresses(config: ConnConfig) -> list[Address]:
    host = config.hosts[0]
    if host.is_unix:
        return [Address(socket.AF_UNIX, host.address)]
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(*host.address, type=socket.SOCK_STREAM)
    except OSError as error:
        raise IoError(f"cannot resolve host {config.host!r}: {error.strerror or error}", Outcome.NOT_SENT) from error
    return [Address(family, sockaddr) for family, _, _, _, sockaddr in found]
