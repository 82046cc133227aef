"""What a transport reads into and drains: one conversation's bytes, in both directions."""

from __future__ import annotations

from ..error import PgWireError
from . import octets


class Receiver:
    """`size` is that of the buffer at first, in bytes; a message that is longer makes it grow."""

    def __init__(self, size: int) -> None:
        self.buffer = bytearray(size)  # one read goes behind `tail`
        self.tail = 0
        self.out = bytearray()  # what waits for the socket
        self.handed = 0  # bytes that the socket has taken, ever
        self.failure: PgWireError | None = None  # nothing more comes, or is sent
        self.is_complete = False  # the last bytes have answered all there was to answer

    def received(self, n: int) -> None:
        """`n` bytes have come into `buffer` behind `tail`; both may be new afterwards."""
        raise NotImplementedError

    def sent(self, n: int) -> None:
        """The socket has taken the first `n` bytes of `out`."""
        self.handed += n
        octets.drop(self.out, n)

    def lost(self, cause: BaseException | None) -> None:
        """The connection has ended."""
        raise NotImplementedError
