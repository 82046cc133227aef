"""The bytes of one connection: what a transport has received, and what it is to send."""

from __future__ import annotations

from ..errors import ConnectionClosed, IoError, PgWireError
from . import octets
from .server_error import PgError


class Buffers:
    """A transport reads into `buffer`, and sends what is in `out`. `size`: bytes of the buffer between messages.

    This class throws received bytes away. Its subclasses make messages of them.
    """

    def __init__(self, size: int) -> None:
        self.least = size
        self.buffer = bytearray(size)  # a read puts its bytes after the first `tail` ones
        self.tail = 0
        self.out = bytearray()  # encoded bytes that wait for the socket
        self.handed = 0  # bytes that the socket has taken, ever
        self.failure: PgWireError | None = None  # set once: nothing more is received or sent
        self.is_complete = False  # the bytes received last have answered all requests

    def received(self, n: int) -> None:
        """Process the `n` bytes just received. Afterwards `buffer` and `tail` may have changed."""
        self.keep(self.tail + n, self.tail + n)

    def keep(self, i: int, end: int) -> None:
        """Move the incomplete message to the front. The buffer grows as bytes really arrive, and shrinks back later."""
        size = len(self.buffer)
        n = end - i
        if n == size:  # full of one message: its length has been checked
            whole = 1 + octets.get_i32(self.buffer, i + 1)
            more = min(size, whole - size)
            try:
                octets.grow(self.buffer, more)  # in place if possible: a large buffer need not be copied then
            except BufferError:  # TLS reads into a view of it
                self.buffer = self.buffer + bytearray(more)
        elif n == 0 and size > self.least:
            self.buffer = bytearray(self.least)
        elif i and n:
            self.buffer[:n] = self.buffer[i:end]
        self.tail = n

    def feed(self, data: bytes) -> None:
        """Process bytes that were received elsewhere."""
        view = memoryview(data)
        while view and self.failure is None:
            part = view[: len(self.buffer) - self.tail]
            self.buffer[self.tail : self.tail + len(part)] = part
            self.received(len(part))
            view = view[len(part) :]

    def append(self, data: bytes) -> None:
        """Append encoded bytes to `out`."""
        self.out += data

    def sent(self, n: int) -> None:
        """The socket has taken the first `n` bytes of `out`."""
        self.handed += n
        octets.drop(self.out, n)

    def lost(self, cause: BaseException | None) -> None:
        """The connection has ended. The first cause becomes the `failure`."""
        if self.failure is None:
            self.failure = ended_by(cause)


def ended_by(cause: BaseException | None, last_words: PgError | None = None) -> PgWireError:
    """The error for a connection that has ended: the server's last words, or else how the socket failed."""
    error: PgWireError
    if last_words is not None:
        error = ConnectionClosed(f"the server closed the connection: {last_words.message}")
        error.__cause__ = last_words
        return error
    if isinstance(cause, OSError):
        error = IoError(f"the connection failed: {cause}")
    else:
        error = ConnectionClosed(f"the connection was closed: {cause or 'the server sent no reason'}")
    error.__cause__ = cause
    return error
