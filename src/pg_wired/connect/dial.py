"""From a host to a connected socket: names, addresses, socket options, TLS."""

from __future__ import annotations

import asyncio
import functools
import pwd
import socket
import ssl
import struct
from typing import TYPE_CHECKING, Any, NamedTuple

from ..config.config import ConnConfig
from ..config.hosts import HostConfig
from ..errors import AuthenticationError, IoError, Outcome
from ..loop.runtime import Runtime
from .tls_handshake import TlsSettings, describe, encrypted, is_offered

if TYPE_CHECKING:
    from weakref import WeakValueDictionary

    # By the id of their loop. A semaphore is kept alive by those who use it, so its loop runs, and no other has its id.
    CancelSemaphores = WeakValueDictionary[int, asyncio.Semaphore]


class Address(NamedTuple):
    """Where a server listens, as the socket module has it."""

    family: int
    sockaddr: Any

    def __str__(self) -> str:
        if isinstance(self.sockaddr, str):
            return self.sockaddr.replace("\0", "@")
        host, port = self.sockaddr[:2]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class Route(NamedTuple):
    """One way to a server: the address, with TLS or without. A cancel request goes the same way as its session.

    `cancels` limits how many cancel requests of tokens are sent to this address at once, for each event loop.
    """

    config: ConnConfig
    host: HostConfig
    address: Address
    tls: TlsSettings | None
    cancels: CancelSemaphores
    runtime: Runtime

    @property
    def place(self) -> str:
        """The server's place in the words of psql's messages."""
        if self.address.family == socket.AF_UNIX:
            return f'connection to server on socket "{self.address}"'
        name, (number, port) = self.host.host, self.address.sockaddr[:2]
        also = f" ({number})" if name not in ("", number) else ""
        return f'connection to server at "{name or number}"{also}, port {port}'

    def failed(self, error: OSError) -> IoError:
        """The error as an IoError that names the place."""
        reason = str(error) if isinstance(error, IoError) else describe(error)
        return IoError(f"{self.place} failed: {reason}", Outcome.NOT_SENT)


async def reach(route: Route) -> socket.socket:
    """A connected, non-blocking socket, without TLS. Raises IoError, and AuthenticationError for `requirepeer`."""
    prepare = functools.partial(_set_options, config=route.config)
    try:
        sock = await route.runtime.connect(route.address.family, route.address.sockaddr, prepare)
    except OSError as error:
        raise route.failed(error) from error
    try:
        _check_peer(sock, route.config.requirepeer)
    except BaseException as error:
        sock.close()
        if isinstance(error, OSError):
            raise route.failed(error) from error
        raise
    return sock


async def secure(route: Route, sock: socket.socket) -> ssl.SSLSocket:
    """TLS over a socket whose server has agreed to it. Raises IoError."""
    assert route.tls is not None
    try:
        return await encrypted(sock, route.tls)
    except OSError as error:
        raise route.failed(error) from (error.__cause__ or error)


async def offers_tls(route: Route, sock: socket.socket) -> bool:
    """Whether the server agrees to TLS; a direct connection does not ask. Closes the socket if that fails."""
    assert route.tls is not None
    if route.tls.is_direct:
        return True
    try:
        return await is_offered(sock)
    except BaseException as error:
        sock.close()
        if isinstance(error, OSError):
            raise route.failed(error) from error
        raise


def no_tls(route: Route) -> IoError:
    """The error for a server without TLS where nothing may be sent in clear."""
    return route.failed(IoError(f"the server does not support TLS, which sslmode={route.config.sslmode.value} demands"))


async def follow(route: Route) -> socket.socket:
    """A socket to exactly this address, with TLS if the route has it; it never falls back. Raises IoError."""
    sock = await reach(route)
    if route.tls is None:
        return sock
    if not await offers_tls(route, sock):
        sock.close()
        raise no_tls(route)
    return await secure(route, sock)


def _set_options(sock: socket.socket, config: ConnConfig) -> None:
    """Set keepalive and the other options of TCP. Unix sockets have none of them."""
    if sock.family == socket.AF_UNIX:
        return
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    tcp = {"TCP_USER_TIMEOUT": config.tcp_user_timeout or None}
    if config.keepalives:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        tcp["TCP_KEEPIDLE"] = config.keepalives_idle
        tcp["TCP_KEEPINTVL"] = config.keepalives_interval
        tcp["TCP_KEEPCNT"] = config.keepalives_count
    for name, value in tcp.items():
        if value is not None and hasattr(socket, name):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _check_peer(sock: socket.socket, wanted: str | None) -> None:
    """Check libpq's `requirepeer`: the user that the process at the other end of a Unix socket runs as."""
    if wanted is None or sock.family != socket.AF_UNIX:
        return
    credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    uid = struct.unpack("3i", credentials)[1]  # unix(7), struct ucred
    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:
        name = f"user ID {uid}"
    if name != wanted:
        text = f"requirepeer specifies {wanted!r}, but the server at the other end of the socket runs as {name!r}"
        raise AuthenticationError(text, Outcome.NOT_SENT)


async def addresses(host: HostConfig) -> list[Address]:
    """All addresses of a host, in the resolver's order. Raises IoError."""
    if host.is_unix:
        return [Address(socket.AF_UNIX, host.address)]
    name = host.hostaddr or host.host
    flags = socket.AI_NUMERICHOST if host.hostaddr else 0
    loop = asyncio.get_running_loop()
    try:
        found = _numeric(name, host.port) or await loop.getaddrinfo(
            name, host.port, type=socket.SOCK_STREAM, flags=flags
        )
    except (OSError, UnicodeError) as error:  # UnicodeError: a name that cannot be looked up
        reason = getattr(error, "strerror", None) or "it is no name"
        raise IoError(f"could not translate host name {name!r} to address: {reason}", Outcome.NOT_SENT) from error
    return [Address(family, sockaddr) for family, _, _, _, sockaddr in found]


def _numeric(name: str, port: int) -> list[Any]:
    """The addresses that digits stand for, found without the thread that looks up names; empty for a name."""
    try:
        return socket.getaddrinfo(name, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    except (OSError, UnicodeError):
        return []
