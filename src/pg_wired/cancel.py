"""CancelToken: ask the server, over a connection of its own, to stop what a session runs. Knows no requests."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from typing import ClassVar

from . import dial
from .clock import seconds
from .encrypt import send_all, until_done
from .error import IoError, RequestTimeout
from .frozen import Frozen
from .protocol import messages


class CancelToken(Frozen):
    """The right to cancel whatever the session runs at that moment; a race by nature. The secret never shows."""

    hidden: ClassVar = frozenset({"secret_key"})
    address: dial.Address
    pid: int
    secret_key: bytes
    _is_live: Callable[[], bool]
    _route: dial.Route
    _under_way: set[object]  # those that are sent just now

    def bound_to(self, is_so: Callable[[], bool], under_way: set[object]) -> CancelToken:
        """One that does nothing any more either once `is_so` returns False, and shows what of it is under way then."""
        is_live = self._is_live

        def may_be_sent() -> bool:
            return is_so() and is_live()

        return CancelToken(self.address, self.pid, self.secret_key, may_be_sent, self._route, under_way)

    async def cancel(self, timeout: float = 5.0) -> None:
        """Send CancelRequest, and wait until the server has closed that connection ("Canceling Requests in Progress").

        It goes the way of the session: the same address, and where that has TLS, the same TLS, never without.
        Does nothing once the session has ended: its process id may be another's by then. Raises RequestTimeout after
        `timeout` seconds, IoError where the server cannot be reached.
        """
        limit = seconds(timeout)
        if not self._is_live():
            return
        request = messages.encode(messages.CancelRequest(self.pid, self.secret_key))
        mark = object()
        self._under_way.add(mark)
        try:
            async with asyncio.timeout(limit):
                await self._send(request)
        except TimeoutError as error:
            raise RequestTimeout(f"the server did not take the cancel request within {timeout} s") from error
        except OSError as error:
            raise IoError(f"the cancel request could not be sent: {error}") from error
        finally:
            self._under_way.discard(mark)

    async def _send(self, request: bytes) -> None:
        sock = await dial.follow(self._route._replace(address=self.address))
        try:
            await send_all(sock, request)
            try:
                while await until_done(sock, lambda: sock.recv(64)):
                    pass
            # Closing with our packet unread, as some servers do, is an end as well; so is one without TLS's goodbye.
            except (ConnectionResetError, ssl.SSLEOFError):
                pass
        finally:
            sock.close()
