"""CancelToken: asks the server, over a connection of its own, to stop what a session runs."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, closing, nullcontext, suppress
from dataclasses import dataclass, field
from typing import ClassVar

from ..auth.hidden import HidesSecrets
from ..errors import IoError, RequestTimeout, UsageError
from ..loop.clock import seconds
from ..protocol import messages
from . import dial
from .tls_handshake import send_all, until_done

CANCEL_TIMEOUT_SECONDS = 5.0
# Cancel requests of tokens that are sent to an address at once, by one pool or one connection: a server of 100
# connections (its default) needs room for sessions while a hundred of them are cancelled.
MAX_CANCELS_AT_ONCE = 32
# Among the cancel requests under way: one whose end was not seen. The server may act on it at any time.
LOST = "lost"


@dataclass(frozen=True, repr=False)
class CancelToken(HidesSecrets):
    """The right to cancel whatever a session runs at that moment, which is a race by nature.

    `address` is where the server listens, `pid` its process. The secret key is never shown. Tokens are made by
    `cancel_token()`. Source: protocol chapter, "Canceling Requests in Progress".
    """

    hidden: ClassVar[frozenset[str]] = frozenset({"secret_key"})
    address: dial.Address
    pid: int
    secret_key: bytes
    _is_live: Callable[[], bool] = field(compare=False, repr=False)
    _route: dial.Route = field(compare=False, repr=False)
    _under_way: set[object] = field(compare=False, repr=False)  # the requests being sent, and LOST

    async def cancel(self, timeout: float = CANCEL_TIMEOUT_SECONDS) -> None:
        """Send CancelRequest, and wait until the server has closed that connection.

        It goes the way of the session: to the same address, and with the same TLS where that has TLS. It does nothing
        once the session has ended, because the process id may belong to another session then. Of the tokens of a pool,
        32 are sent to an address at once by each event loop. Whether the query was cancelled shows in its own result.
        Raises RequestTimeout after `timeout` seconds, IoError where the server cannot be reached.
        """
        semaphores = self._route.cancels
        loop = id(asyncio.get_running_loop())
        await self._cancel(timeout, semaphores.setdefault(loop, asyncio.Semaphore(MAX_CANCELS_AT_ONCE)))

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
            with closing(await dial.follow(self._route._replace(address=self.address))) as sock:
                answer = bytearray(64)
                try:
                    await send_all(sock, messages.encode(messages.CancelRequest(self.pid, self.secret_key)))
                    # Some servers close with our packet unread, or without TLS's closure alert: both are an end.
                    with suppress(ConnectionResetError, ssl.SSLEOFError):
                        while await until_done(sock, lambda: sock.recv_into(answer)):
                            pass
                except BaseException:  # the request may have arrived, and its end was not seen
                    self._under_way.add(LOST)
                    raise
        finally:
            self._under_way.discard(mark)


def known(token: CancelToken | None) -> CancelToken:
    """The token of a session; UsageError where the server gave no key for it."""
    if token is None:
        raise UsageError("the server sent no BackendKeyData: its queries cannot be cancelled")
    return token


def narrowed(token: CancelToken, is_live: Callable[[], bool], under_way: set[object]) -> CancelToken:
    """A token that also becomes inert once `is_live` returns False, and notes its requests in `under_way`."""
    was_live = token._is_live
    return CancelToken(
        token.address, token.pid, token.secret_key, lambda: is_live() and was_live(), token._route, under_way
    )


async def cancel_at_once(token: CancelToken) -> None:
    """Cancel without waiting for other tokens: for the library itself, which sends one for each session at most."""
    await token._cancel(CANCEL_TIMEOUT_SECONDS, nullcontext())
