"""CancelToken: ask the server, over a connection of its own, to stop what a session runs. Knows no requests."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, nullcontext, suppress
from typing import ClassVar

from ..errors import IoError, RequestTimeout
from ..frozen import Frozen
from ..loop.clock import seconds
from ..protocol import messages
from . import dial
from .tls_handshake import send_all, until_done

# Seconds for a cancel request, by default.
CANCEL_TIMEOUT_SECONDS = 5.0
# Cancel requests of tokens that an address is sent at once, by one pool or one connection made alone: a server of 100
# connections (its default) needs room for sessions while a hundred of them are cancelled.
MAX_CANCELS_AT_ONCE = 32
# Among those under way: one whose end nobody has seen. The server may act on it whenever it comes to it.
LOST = "lost"


class CancelToken(Frozen):
    """The right to cancel whatever the session runs at that moment; a race by nature. The secret never shows."""

    hidden: ClassVar = frozenset({"secret_key"})
    address: dial.Address
    pid: int
    secret_key: bytes
    _is_live: Callable[[], bool]
    _route: dial.Route
    _under_way: set[object]  # those that are sent just now, and LOST

    def bound_to(self, is_so: Callable[[], bool], under_way: set[object]) -> CancelToken:
        """One that does nothing any more either once `is_so` returns False, and shows what of it is under way then."""
        is_live = self._is_live

        def may_be_sent() -> bool:
            return is_so() and is_live()

        return CancelToken(self.address, self.pid, self.secret_key, may_be_sent, self._route, under_way)

    async def cancel(self, timeout: float = CANCEL_TIMEOUT_SECONDS) -> None:
        """Send CancelRequest, and wait until the server has closed that connection ("Canceling Requests in Progress").

        It goes the way of the session: the same address, and where that has TLS, the same TLS, never without.
        Does nothing once the session has ended: its process id may be another's by then. Of a pool's tokens, 32 are
        sent to an address at once by each event loop. Raises RequestTimeout after `timeout` seconds, IoError where the
        server cannot be reached.
        """
        rooms = self._route.cancels
        await self._cancel(
            timeout, rooms.setdefault(id(asyncio.get_running_loop()), asyncio.Semaphore(MAX_CANCELS_AT_ONCE))
        )

    async def cancel_at_once(self) -> None:
        """The same without waiting for others: for the library itself, which sends one for each session at most."""
        await self._cancel(CANCEL_TIMEOUT_SECONDS, nullcontext())

    async def _cancel(self, timeout: float, room: AbstractAsyncContextManager[None]) -> None:
        limit = seconds(timeout)
        try:
            async with asyncio.timeout(limit), room:
                if self._is_live():  # still, after a wait
                    await self._send()
        except TimeoutError as error:
            raise RequestTimeout(f"the server did not take the cancel request within {timeout} s") from error
        except OSError as error:
            raise IoError(f"the cancel request could not be sent: {error}") from error

    async def _send(self) -> None:
        mark = object()
        self._under_way.add(mark)
        try:
            with await dial.follow(self._route._replace(address=self.address)) as sock:
                try:
                    await send_all(sock, messages.encode(messages.CancelRequest(self.pid, self.secret_key)))
                    # Closing with our packet unread, as some servers do, is an end; so is one without TLS's goodbye.
                    with suppress(ConnectionResetError, ssl.SSLEOFError):
                        while await until_done(sock, lambda: sock.recv(64)):
                            pass
                except asyncio.CancelledError:
                    self._under_way.add(LOST)
                    raise
        finally:
            self._under_way.discard(mark)
