"""What a transport reads into and drains: one conversation's bytes, in both directions."""

from __future__ import annotations

from ..errors import ConnectionClosed, IoError, PgWireError
from . import octets


class Buffers:
    """By itself it throws away what comes. `size`: bytes of the buffer between messages."""

    def __init__(self, size: int) -> None:
        self.least = size
        self.buffer = bytearray(size)  # one read goes behind `tail`
        self.tail = 0
        self.out = bytearray()  # what waits for the socket
        self.handed = 0  # bytes that the socket has taken, ever
        self.failure: PgWireError | None = None  # nothing more comes, or is sent
        self.is_complete = False  # the last bytes have answered all there was to answer

    def received(self, n: int) -> None:
        """`n` bytes have come into `buffer` behind `tail`; both may be new afterwards."""
        self.keep(self.tail + n, self.tail + n)

    def keep(self, i: int, end: int) -> None:
        """Move the incomplete message to the front; the buffer grows as bytes really arrive, and shrinks back."""
        size = len(self.buffer)
        n = end - i
        if n == size:  # full of one message: its length has been checked
            whole = 1 + octets.get_i32(self.buffer, i + 1)
            more = min(size, whole - size)
            try:
                octets.grow(self.buffer, more)  # where it is, if it can: a large one need not be copied then
            except BufferError:  # TLS reads into a view of it
                self.buffer = self.buffer + bytearray(more)
        elif n == 0 and size > self.least:
            self.buffer = bytearray(self.least)
        elif i and n:
            self.buffer[:n] = self.buffer[i:end]
        self.tail = n

    def feed(self, data: bytes) -> None:
        """Take bytes that somebody else has received."""
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
        """The connection has ended; what said so first is the `failure`."""
        if self.failure is None:
            self.failure = ended_by(cause)


def ended_by(cause: BaseException | None) -> PgWireError:
    """The error for a connection that ended like this, without a word of the server's."""
    error: PgWireError
    if isinstance(cause, OSError):
        error = IoError(f"the connection failed: {cause}")
    else:
        error = ConnectionClosed(f"the connection was closed: {cause or 'the server sent no reason'}")
    error.__cause__ = cause
    return error
