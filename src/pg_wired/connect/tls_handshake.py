"""TLS over a connected socket: SSLRequest, its answer of one byte, the handshake."""

from __future__ import annotations

import asyncio
import errno
import functools
import os
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from ..errors import IoError, Outcome
from ..protocol import messages

# The protocol chapter, "SSL Session Encryption": the name of PostgreSQL's protocol for ALPN.
ALPN = "postgresql"

T = TypeVar("T")


@dataclass(frozen=True)
class TlsSettings:
    """How TLS is to be done, the same for a session and for its cancel requests.

    SNI asks for `server_hostname`, and the certificate is checked for it where the context says so. `is_direct`: TLS
    begins without an SSLRequest (PostgreSQL 17 and later).
    """

    context: ssl.SSLContext
    server_hostname: str | None
    is_direct: bool


async def until_done(sock: socket.socket, step: Callable[[], T], reads: bool = True) -> T:
    """Call `step` until the non-blocking socket lets it finish. `reads`: whether a plain socket waits for data."""
    while True:
        try:
            return step()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError) as error:
            await _ready(sock, isinstance(error, ssl.SSLWantReadError))
        except (BlockingIOError, InterruptedError):
            await _ready(sock, reads)


async def _ready(sock: socket.socket, reads: bool) -> None:
    """Wait until the socket can be read, or written."""
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    fd = sock.fileno()

    def wake() -> None:
        if not ready.done():
            ready.set_result(None)

    (loop.add_reader if reads else loop.add_writer)(fd, wake)
    try:
        await ready
    finally:
        (loop.remove_reader if reads else loop.remove_writer)(fd)


async def send_all(sock: socket.socket, data: bytes) -> None:
    """Write it all, over TLS or not."""
    left = memoryview(data)
    while left:
        step = functools.partial(sock.send, left)
        left = left[await until_done(sock, step, reads=False) :]


async def is_offered(sock: socket.socket) -> bool:
    """Send SSLRequest; returns whether the server does TLS. Exactly one byte is read: nothing in clear may follow "S".

    Raises IoError for every other answer. Its bytes are not shown, because they are not authenticated (CVE-2024-10977).
    """
    await send_all(sock, messages.encode(messages.SSLRequest()))
    room = bytearray(1)
    n = await until_done(sock, lambda: sock.recv_into(room))
    answer = bytes(room[:n])
    if answer in (b"S", b"N"):
        return answer == b"S"
    raise _failed(_ANSWERS.get(answer, "the server answered SSLRequest with neither S nor N: is it PostgreSQL?"))


_ANSWERS = {
    b"": "the server closed the connection instead of answering SSLRequest",
    b"E": "the server answered SSLRequest with an error, whose text is not authenticated (see its log)",
}


async def encrypted(sock: socket.socket, settings: TlsSettings) -> ssl.SSLSocket:
    """The TLS handshake over `sock`, which this takes over. Raises IoError."""
    try:
        sock.getpeername()  # else wrap_socket finds out, with the descriptor in a socket of its own
        wrapped = settings.context.wrap_socket(
            sock,
            server_hostname=settings.server_hostname,
            do_handshake_on_connect=False,
            suppress_ragged_eofs=False,  # a cut stream is an error, never an end
        )
    except OSError as error:
        sock.close()
        # Without the traceback, whose frames would keep such a socket.
        raise _failed(describe(error)) from error.with_traceback(None)
    try:
        await until_done(wrapped, wrapped.do_handshake)
        _check_alpn(wrapped, settings.is_direct)
    except BaseException as error:
        wrapped.close()
        if isinstance(error, IoError) or not isinstance(error, OSError):
            raise
        raise _failed(describe(error)) from error
    return wrapped


def _check_alpn(sock: ssl.SSLSocket, is_direct: bool) -> None:
    """Refuse another protocol than PostgreSQL's. A direct connection has no other way to recognise it."""
    chosen = sock.selected_alpn_protocol()
    if chosen not in (None, ALPN):
        raise _failed("the server chose another protocol than PostgreSQL's by ALPN")
    if chosen is None and is_direct:
        raise _failed(
            "the server chose no protocol by ALPN, which a direct connection needs: is it PostgreSQL 17 or later? "
            "(a ready-made SSLContext needs set_alpn_protocols(['postgresql']))"
        )


def describe(error: OSError) -> str:
    """An error of TLS or the operating system as text, without any bytes of the peer."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"TLS: the server's certificate was refused: {error.verify_message.rstrip('.')}"
    if (
        isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError | ConnectionResetError)
        or error.errno == errno.ENOTCONN
    ):
        return "TLS: the server closed the connection during the handshake"
    if isinstance(error, ssl.SSLError):
        return f"TLS: {str(error.reason or error.strerror).replace('_', ' ').lower()}"
    return os.strerror(error.errno) if error.errno else str(error)


def _failed(reason: str) -> IoError:
    return IoError(reason, Outcome.NOT_SENT)
