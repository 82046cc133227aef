"""Link: session, transport and watch of one connection, as its verbs use them. It knows no verb itself."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from ..errors import Outcome, PgWireError, RequestTimeout, UsageError
from ..loop.clock import Clock
from ..session.request import Request, Window
from ..session.session import Reason, Session
from ..session.transaction import PARTS
from .watchdog import WATCH_INTERVAL_SECONDS, Watchdog

if TYPE_CHECKING:
    from ..connect.wire_conn import WireConn

# Bytes of a pipeline behind which it is written, though more may follow: some eight small requests, which the server
# runs while the next eight are encoded (decision 0013).
EARLY_WRITE_BYTES = 512
# Seconds in which the server has to stop what it runs on a connection that is given up.
PARTING_CANCEL_SECONDS = 1.0


class Core(Clock):
    """Takes a WireConn over, and carries requests."""

    def __init__(self, wire: WireConn, statement_cache_size: int) -> None:
        self.wire = wire
        self.session = Session(wire.parameters, statement_cache_size, wire.config.max_in_flight)
        wire.take_over(self.session, self.session.feed)
        self.transport = wire.transport
        super().__init__(wire.transport.loop)
        self.watchdog = Watchdog(
            self.loop, self.session, self.cancel_running if wire.facts.secret_key else None, self.transport
        )
        self.transport.closed.add_done_callback(self.watchdog.closed)
        self._gathers = False
        self.channels: set[str] = set()  # quoted, as LISTEN was told
        self.born = self.loop.time()
        self.is_broken = False  # somebody has said so
        self.is_set_up = False  # by a pool's on_connect
        self.tasks: set[asyncio.Task[None]] = set()  # what is left to do behind owners that have gone

    def submit(self, request: Request) -> None:
        """Submit a request of the shared connection, or a window; write it now, or at the end of this turn."""
        transport, session = self.transport, self.session
        transport.check_owner()
        if request.deadline < 0:
            request.fail(RequestTimeout("the timeout is 0", Outcome.NOT_SENT))
            return
        if session.window is not None:
            self._check_window(session.window)
        self._look_for_abandoned()
        session.submit(request)
        self._send(request)

    def submit_inside(self, window: Window, request: Request) -> None:
        """Submit a request of this window's owner."""
        self.transport.check_owner()
        if request.deadline < 0:
            request.fail(RequestTimeout("the timeout is 0", Outcome.NOT_SENT))
            return
        self._look_for_abandoned()
        self.session.submit_inside(window, request)
        self._send(request)

    def _look_for_abandoned(self) -> None:
        """What nobody waits for is cancelled before another request makes it one of two."""
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
        """What is submitted inside, by what it gives, leaves together at its end."""
        self.transport.check_owner()
        self._gathers = True
        try:
            yield self.submit
        finally:
            self._gathers = False
            self.transport.flush()

    @staticmethod
    def _check_window(window: Window) -> None:
        """Its owner would wait for himself."""
        if window.owner is not None and window.owner is asyncio.current_task():
            raise UsageError(f"this task is inside {window.sql}: use what that gave you, or leave it first")

    def mark_broken(self) -> None:
        """It must not be used again, however well it looks."""
        self.is_broken = True
        self.session.tell_supervisor()

    async def cancel_running(self) -> None:
        """Ask the server to stop what it runs, if it gave a key for that."""
        if self.wire.facts.secret_key is None:
            return
        under_way: set[object] = set()
        token = self.wire.cancel_token().bound_to(self.transport.is_open, under_way)
        try:
            await token.cancel_at_once()
        finally:
            self.may_be_hit(under_way)

    def may_be_hit(self, cancels: set[object]) -> bool:
        """Whether one of these cancel requests may still hit what runs here; then nothing more is taken."""
        if cancels:
            from ..connect.cancel import LOST

            if LOST in cancels:
                if self.session.reason is None:
                    self.session.retire(Reason.CANCEL_UNCONFIRMED)
                return True
        return False

    async def part(self) -> None:
        """Close soon, but have the server stop what it still runs for somebody who goes."""
        try:
            with suppress(PgWireError, TimeoutError):
                async with asyncio.timeout(PARTING_CANCEL_SECONDS):
                    while self.session.inflight and self.wire.facts.secret_key is not None:
                        await self.cancel_running()
                        await asyncio.sleep(WATCH_INTERVAL_SECONDS)  # one that came before the query had begun was lost
        finally:
            self.session.closed_by_client()
            self.abort()

    def abort(self) -> None:
        """Close at once: whoever waits is told. Idempotent."""
        self.transport.abort()
        self.watchdog.stop()
