"""The buffers of a WireConn: they cut the stream into messages, and keep them until the owner asks."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from weakref import WeakMethod

from ..errors import ConnectionClosed, PgWireError, ProtocolError
from ..protocol import messages
from ..protocol.buffers import Buffers, ended_by
from ..protocol.octets import LONG_LIMIT_BYTES, LONG_MESSAGES, SHORT_LIMIT_BYTES
from ..protocol.server_error import SHUTDOWN_NOTICES, PgError

# One read. A longer message grows the buffer as its bytes really arrive.
BUFFER_BYTES = 64 * 1024


class MessageQueue(Buffers):
    """Messages that have arrived and were not asked for yet, as (tag, body); `size` counts their bytes.

    `on_arrival` is called after each read. `waiter` is the future of a task that waits for more.
    """

    def __init__(self, on_arrival: WeakMethod[Callable[[], None]]) -> None:
        super().__init__(BUFFER_BYTES)
        self.on_arrival = on_arrival
        self.waiter: asyncio.Future[None] | None = None
        self.size = 0
        self.frames: deque[tuple[int, bytes]] = deque()
        self.last_words: PgError | None = None
        self.is_logged_in = False  # before the login no long message is accepted

    def received(self, n: int) -> None:
        """Cut off the complete messages."""
        end, i = self.tail + n, 0
        while end - i >= 5:
            length = int.from_bytes(self.buffer[i + 1 : i + 5], "big", signed=True)
            is_long = self.is_logged_in and chr(self.buffer[i]) in LONG_MESSAGES
            if not 4 <= length <= (LONG_LIMIT_BYTES if is_long else SHORT_LIMIT_BYTES):
                tag = bytes([self.buffer[i]])
                self.failure = ProtocolError(f"the server's message {tag!r} has a length of {length}")
                self._wake()
                return
            if i + 1 + length > end:
                break
            self._keep(self.buffer[i], bytes(self.buffer[i + 5 : i + 1 + length]))
            self.size += length + 1
            i += 1 + length
        self.keep(i, end)
        self._wake()
        on_arrival = self.on_arrival()
        if on_arrival is not None:
            on_arrival()

    def _keep(self, tag: int, body: bytes) -> None:
        """Keep a message until it is asked for. An error or notice that ends the session is noted at once."""
        self.frames.append((tag, body))
        if chr(tag) in "EN" and self.last_words is None:
            with suppress(ProtocolError):  # raised when the message is taken
                message = messages.decode_backend(tag, body)
                assert isinstance(message, messages.ErrorResponse | messages.NoticeResponse)
                words = PgError(message.fields)
                if words.is_fatal or words.code in SHUTDOWN_NOTICES:
                    self.last_words = words

    def fail(self, error: ProtocolError) -> None:
        """A message made no sense, so messages that were cut off after it cannot be trusted either."""
        self.failure = error
        self.frames.clear()
        self._wake()

    def _wake(self) -> None:
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_result(None)

    def take(self) -> messages.BackendMessage:
        """The next message, decoded. Raises ProtocolError where its body does not fit."""
        tag, body = self.frames.popleft()
        self.size -= len(body) + 5
        return messages.decode_backend(tag, body)

    def take_rest(self) -> bytes:
        """All bytes that have arrived and were not taken."""
        whole = [bytes([tag]) + (len(body) + 4).to_bytes(4, "big") + body for tag, body in self.frames]
        rest = b"".join(whole) + bytes(self.buffer[: self.tail])
        self.frames.clear()
        self.size = self.tail = 0
        return rest

    def lost(self, cause: BaseException | None) -> None:
        """The connection has ended. Messages that have arrived can still be taken."""
        if self.failure is not None:
            return
        if isinstance(cause, ConnectionClosed):
            self.failure = cause
        super().lost(cause)
        self._wake()

    def ended(self) -> PgWireError:
        """Why nothing more arrives: the server's last words, if it sent any."""
        assert self.failure is not None
        if self.last_words is None or isinstance(self.failure, ProtocolError):
            return self.failure
        return ended_by(None, self.last_words)
