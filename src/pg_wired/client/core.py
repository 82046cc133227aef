"""Core: the session, transport and watchdog of one connection, as its verbs and a pool use them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from ..errors import Outcome, PgWireError, RequestTimeout, UsageError
from ..loop.clock import seconds
from ..protocol.rows import Rows
from ..session.request import Request, Window, simple_query_request
from ..session.session import Reason, Session
from ..session.transaction import PARTS
from .watchdog import WATCH_INTERVAL_SECONDS, Watchdog

if TYPE_CHECKING:
    from ..connect.cancel import CancelToken
    from ..connect.wire_conn import Parts

# A pipeline is written once so many bytes of it are encoded, though more may follow: some eight small requests, which
# the server runs while the next eight are encoded (decision 0013).
EARLY_WRITE_BYTES = 512
# Time for the server to stop what it runs on a connection that is given up.
PARTING_CANCEL_SECONDS = 1.0


class Core:
    """Carries requests over one connection. It is made from the parts of a WireConn."""

    def __init__(self, parts: Parts, statement_cache_size: int) -> None:
        self.runtime = parts.runtime
        self.transport = parts.transport
        self.loop = parts.transport.loop
        self.clock = parts.runtime.clock(self.loop)
        self.deadline = self.clock.deadline
        self.address = parts.address
        self.pid = parts.pid
        self._token = parts.token
        self.session = Session(parts.parameters, statement_cache_size, parts.config.max_in_flight)
        self.watchdog = Watchdog(self.clock, self.session, self.cancel_running, self.transport)
        self.transport.closed.add_done_callback(self.watchdog.closed)
        self._gathers = False
        self.channels: set[str] = set()  # quoted, as LISTEN was sent
        self.born = self.clock.now()
        self.is_marked_broken = False
        self.is_set_up = False  # by a pool's on_connect
        self.cleanups: set[asyncio.Task[None]] = set()  # of owners that have left

    # ---- requests

    def submit(self, request: Request) -> None:
        """Submit a request of the shared connection, or a window. It is written now, or at the end of this iteration.

        Raises UsageError from another thread, loop or process, or inside a window of the calling task.
        """
        transport, session = self.transport, self.session
        transport.check_owner()
        if request.deadline < 0:
            request.fail(RequestTimeout("the timeout is 0", Outcome.NOT_SENT))
            return
        if session.window is not None:
            self._check_window(session.window)
        self._cancel_abandoned()
        session.submit(request)
        self._send(request)

    def submit_inside(self, window: Window, request: Request) -> None:
        """Submit a request of this window's owner."""
        self.transport.check_owner()
        if request.deadline < 0:
            request.fail(RequestTimeout("the timeout is 0", Outcome.NOT_SENT))
            return
        self._cancel_abandoned()
        self.session.submit_inside(window, request)
        self._send(request)

    def simple_query(self, sql: str, timeout: float | None = None) -> asyncio.Future[list[Rows]]:
        """Submit a simple Query; its answer is a Rows for each statement."""
        reply: asyncio.Future[list[Rows]] = self.loop.create_future()
        self.submit(simple_query_request(reply, sql, self.deadline(timeout)))
        return reply

    def _cancel_abandoned(self) -> None:
        """Cancel a request that no caller waits for, before another request makes it one of two."""
        session = self.session
        n = len(session.inflight)
        if n == 1 or (n <= PARTS and session.head.unit is not None):
            self.watchdog.cancel_abandoned()

    def _send(self, request: Request) -> None:
        watchdog = self.watchdog
        if request.deadline:
            watchdog.arm_for(request.deadline)
        if not watchdog.is_armed:
            watchdog.arm()
        at_once = len(self.session.out) >= EARLY_WRITE_BYTES if request.is_item else len(self.session.inflight) == 1
        if at_once and not self._gathers:
            self.transport.flush()
        else:
            self.transport.flush_soon()

    @contextmanager
    def in_one_write(self) -> Iterator[Callable[[Request], None]]:
        """Requests that are submitted inside, by the function that this gives, are written together at its end."""
        self.transport.check_owner()
        self._gathers = True
        try:
            yield self.submit
        finally:
            self._gathers = False
            self.transport.flush()

    @staticmethod
    def _check_window(window: Window) -> None:
        """Raise UsageError where the caller would deadlock waiting for its own window."""
        if window.owner is not None and window.owner is asyncio.current_task():
            raise UsageError(f"this task is inside {window.sql}: use what that gave you, or leave it first")

    # ---- cancelling

    def cancel_token(self) -> CancelToken:
        """A token that cancels whatever the session runs. UsageError where the server gave no key for it."""
        from ..connect.cancel import known

        return known(self._token)

    async def cancel_running(self) -> None:
        """Ask the server to stop what it runs, if it gave a key for that."""
        if self._token is None:
            return
        from ..connect.cancel import cancel_at_once, narrowed

        under_way: set[object] = set()
        try:
            await cancel_at_once(narrowed(self._token, self.transport.is_open, under_way))
        finally:
            self.may_be_hit(under_way)

    def may_be_hit(self, cancels: set[object]) -> bool:
        """Whether one of these cancel requests may still hit what runs here; then no more requests are taken."""
        if cancels:
            from ..connect.cancel import LOST

            if LOST in cancels:
                if self.session.reason is None:
                    self.session.retire(Reason.CANCEL_UNCONFIRMED)
                return True
        return False

    # ---- state

    @property
    def is_alive(self) -> bool:
        """Whether it takes requests."""
        return self.session.takes_requests

    @property
    def is_broken(self) -> bool:
        """Whether it must not be used any more: it has ended, was retired, or was marked."""
        return self.is_marked_broken or not self.session.takes_requests

    def mark_broken(self) -> None:
        """It must not be used again, although it may seem to work. UsageError while the loop runs in another thread."""
        self.transport.owner.check_thread()
        self.must_not_be_reused()
        self.session.tell_supervisor()

    def must_not_be_reused(self) -> None:
        """Its session has a state that others must not get; the pool knows."""
        self.is_marked_broken = True

    def mark_set_up(self) -> None:
        """A pool's on_connect has set it up: after a reset it has to be set up again, or replaced."""
        self.is_set_up = True

    # ---- the end

    async def close(self, timeout: float | None) -> None:
        """Take no more requests, wait for the answers to those submitted, send Terminate, and close.

        Whether the server closes its side makes no difference. After `timeout` seconds the connection is closed all the
        same, with RequestTimeout if requests were unanswered then.
        """
        limit = seconds(timeout)
        session, transport = self.session, self.transport
        if transport.is_closed:
            return
        transport.check_owner()
        if session.reason is None:
            session.drain(Reason.CLOSED)
            session.tell_supervisor()
        session.closed_by_client()
        session.finish()
        transport.flush()
        try:
            async with asyncio.timeout(limit):
                while session.waiting() or session.window is not None:
                    answered: asyncio.Future[None] = self.loop.create_future()
                    session.tell_when_answered(answered)
                    await answered
                await transport.drain()  # Terminate is sent, or the connection has ended
                await self.watchdog.ended()
        except TimeoutError:
            unanswered = len(session.waiting())
            if unanswered:
                raise RequestTimeout(f"close() gave up on {unanswered} requests after {timeout} s") from None
        finally:
            self.abort()

    async def part(self) -> None:
        """Close soon, after the server has stopped what it still runs for a caller that leaves by an exception."""
        try:
            with suppress(PgWireError, TimeoutError):
                async with asyncio.timeout(PARTING_CANCEL_SECONDS):
                    while self.session.inflight and self._token is not None:
                        answered: asyncio.Future[None] = self.loop.create_future()
                        self.session.tell_when_answered(answered)
                        await self.cancel_running()
                        # A cancel request that came before the query had begun was lost: try again.
                        await asyncio.wait([answered], timeout=WATCH_INTERVAL_SECONDS)
        finally:
            self.abort()

    def abort(self) -> None:
        """Close at once, on the client's own decision: all waiting requests fail. Idempotent.

        Raises UsageError while the loop runs in another thread.
        """
        if not self.transport.is_closed:
            self.transport.owner.check_thread()
        self.session.closed_by_client()
        self.give_up()

    def give_up(self) -> None:
        """Close at once because the connection is in an unknown state, or its server does not answer."""
        self.transport.abort()
        self.watchdog.stop()
