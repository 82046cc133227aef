"""The buffers of one connection: the bytes that a transport has received, and the bytes that it is to send."""

from __future__ import annotations

from ..errors import ConnectionClosed, IoError, PgWireError
from . import octets
from .server_error import PgError


class Buffers:
    """A transport reads into `buffer` and sends the bytes in `out`. `size` is the normal size of `buffer` in bytes.

    This class discards received bytes. Its subclasses decode them as messages.
    """

    def __init__(self, size: int) -> None:
        self.least = size
        self.buffer = bytearray(size)  # the next read writes after the first `tail` bytes
        self.tail = 0
        self.out = bytearray()  # encoded bytes that wait for the socket
        self.handed = 0  # total number of bytes that the socket has taken
        self.failure: PgWireError | None = None  # set once; from then on nothing is received or sent
        self.is_complete = False  # the last bytes received completed the answers to all requests

    def received(self, n: int) -> None:
        """Process the `n` bytes just received. Afterwards `buffer` and `tail` may have changed."""
        self.keep(self.tail + n, self.tail + n)

    def keep(self, i: int, end: int) -> None:
        """Move the incomplete message, from `i` to `end`, to the front of `buffer`.

        If the message fills the buffer, the buffer grows, at most to twice its size, so that memory is used only as
        bytes arrive. It shrinks again when it is empty.
        """
        size = len(self.buffer)
        n = end - i
        if n == size:  # one message fills the buffer; its length has been checked
            whole = 1 + octets.get_i32(self.buffer, i + 1)
            more = min(size, whole - size)
            try:
                octets.grow(self.buffer, more)  # in place if possible, so that a large buffer is not copied
            except BufferError:  # TLS holds a view of the buffer
                self.buffer = self.buffer + bytearray(more)
        elif n == 0 and size > self.least:
            self.buffer = bytearray(self.least)
        elif i and n:
            self.buffer[:n] = self.buffer[i:end]
        self.tail = n

    def feed(self, data: bytes) -> None:
        """Process bytes that were received in another way than by reading into `buffer`."""
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
        """Remove the first `n` bytes of `out`: the socket has taken them."""
        self.handed += n
        octets.drop(self.out, n)

    def lost(self, cause: BaseException | None) -> None:
        """Note that the connection has ended. The error for the first cause becomes `failure`."""
        if self.failure is None:
            self.failure = ended_by(cause)


def ended_by(cause: BaseException | None, last_words: PgError | None = None) -> PgWireError:
    """The error for a connection that has ended: the server's reason in `last_words`, or else the socket error."""
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
