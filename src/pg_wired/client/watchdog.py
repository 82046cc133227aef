"""The watchdog: one timer a connection, for deadlines and for cancelling a request that no caller waits for.

A timer, a task or a callback for each request would cost a tenth of a pipelined request. Instead the watchdog looks at
the session while something is unanswered: at the next deadline; every WATCH_INTERVAL_SECONDS while several requests are
unanswered, none of which can be cancelled; and not at all while one is, because it adds a callback to that one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from ..errors import PgWireError
from ..loop.clock import Clock
from ..loop.transport import Transport
from ..session.request import Request
from ..session.session import Reason, Session

if TYPE_CHECKING:
    from ..session.request import Sink

# How late an abandoned request may be noticed. 50 looks a second cost nothing that can be measured.
WATCH_INTERVAL_SECONDS = 0.02
# Time for an abandoned request to end after the server was asked to stop it. Then the connection is closed.
CANCEL_GRACE_SECONDS = 5.0
# The longest pause between two CancelRequests for one query.
MAX_CANCEL_PAUSE_SECONDS = 1.0
_NEVER = float("inf")


class Watchdog:
    """Watches one session's requests. `cancel` asks the server to stop what it runs, if there is a key for that."""

    def __init__(
        self, clock: Clock, session: Session, cancel: Callable[[], Awaitable[None]], transport: Transport
    ) -> None:
        self._loop = clock.loop
        self._now = clock.now
        self._session = session
        self._cancel = cancel
        self._transport = transport
        self._timer: asyncio.TimerHandle | None = None
        self._deadline = _NEVER
        self._hooked: Sink | None = None
        self._seen = 0  # the number of the oldest request at an earlier look, and when that was
        self._seen_at = 0.0
        self._task: asyncio.Task[None] | None = None
        self.is_armed = False  # whether it looks within WATCH_INTERVAL_SECONDS

    def arm(self) -> None:
        """A request is unanswered: look soon."""
        self._at(min(self._now() + WATCH_INTERVAL_SECONDS, self._deadline))

    def arm_for(self, deadline: float) -> None:
        """Look at `deadline`, too."""
        if deadline < self._deadline:
            self._deadline = deadline
            self._at(min(self._now() + WATCH_INTERVAL_SECONDS, deadline))

    def stop(self) -> None:
        """The connection has ended."""
        if self._timer is not None:
            self._timer.cancel()
        if self._task is not None:
            self._task.cancel()
        self.is_armed = False

    def closed(self, _: object) -> None:
        """The transport was closed. A timer for a distant deadline would keep the connection's objects until then."""
        self.stop()

    async def ended(self) -> None:
        """Stop, and wait for a cancel connection that is under way."""
        self.stop()
        if self._task is not None:
            await asyncio.wait([self._task])

    def _at(self, when: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self.is_armed = when <= self._now() + WATCH_INTERVAL_SECONDS
        self._timer = self._loop.call_at(when, self._look) if when != _NEVER else None

    def _look(self) -> None:
        now = self._now()
        if self._deadline <= now:
            self._transport.read_now()  # an answer that has arrived already beats its deadline
            self._deadline = self._session.expire(now) or _NEVER
            self._transport.flush()
        looks_on = self._note_slow(now) or len(self._session.inflight) > 1
        request = self._session.sole()
        sole = request.sink if request is not None else None
        if isinstance(sole, asyncio.Future) and not sole.done() and sole is not self._hooked:
            self._hooked = sole
            sole.add_done_callback(self._sole_done)
        self.cancel_abandoned()
        self._at(min(now + WATCH_INTERVAL_SECONDS if looks_on else _NEVER, self._deadline))

    def _note_slow(self, now: float) -> bool:
        """Mark the oldest request as slow if it has been so for some time. Returns whether that is still open."""
        session = self._session
        oldest = session.head.number
        if session.supervisor is None or not oldest:
            return False
        if oldest != self._seen:
            self._seen, self._seen_at = oldest, now
        elif now - self._seen_at > WATCH_INTERVAL_SECONDS / 2:  # looks for deadlines come in between
            session.mark_slow()
        return session.slow != oldest

    def _sole_done(self, _: object) -> None:
        self._hooked = None
        self.cancel_abandoned()

    def cancel_abandoned(self) -> None:
        """Have the server stop the only unanswered request, if no caller waits for it."""
        sole = self._session.sole()
        if sole is None or sole.sink is None or not sole.sink.done() or self._task is not None:
            return
        last = self._session.hold_for_cancel(sole)
        self._task = self._loop.create_task(self._stop_server(last))

    async def _stop_server(self, last: Request) -> None:
        """Cancel until the request is answered. Nothing is written before the cancel connection has ended.

        A late cancel would hit the next request. One that arrived before the query had begun was lost, so there may be
        several.
        """
        pause = WATCH_INTERVAL_SECONDS
        grace = self._loop.call_later(CANCEL_GRACE_SECONDS, self._give_up, last)
        try:
            while last in self._session.inflight:
                with suppress(PgWireError):  # the answer to the request is awaited all the same
                    await self._cancel()
                await self._answered(last, pause)
                pause = min(2 * pause, MAX_CANCEL_PAUSE_SECONDS)
        finally:
            grace.cancel()
            self._task = None
            self._session.release()
            self._transport.flush()

    async def _answered(self, last: Request, pause: float) -> None:
        """Wait until the request is answered, `pause` seconds at most."""
        if last in self._session.inflight:
            answered: asyncio.Future[None] = self._loop.create_future()
            self._session.tell_when_answered(answered)
            await asyncio.wait([answered], timeout=pause)
            answered.cancel()

    def _give_up(self, abandoned: Request) -> None:
        """Other tasks wait for the answer to the request, but no longer than this."""
        if abandoned in self._session.inflight:
            if self._session.reason is not Reason.SERVER_ENDS:  # which explains more
                self._session.retire(Reason.UNANSWERED)
            self._transport.abort()
