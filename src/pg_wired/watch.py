"""One timer a connection: deadlines, and the cancelling of a request that nobody waits for. It knows no sockets.

A timer, a task or a callback for each request would cost a tenth of a pipelined request. So the watch looks on while
something is unanswered: at the next deadline; every INTERVAL while several requests are, of which none can be
cancelled; and not at all while one is, because that one request it gives a callback.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from .error import PgWireError
from .protocol import endings
from .protocol.requests import Request, Sink
from .protocol.session import Session
from .transport import Transport

# Seconds. How late an abandoned request may be noticed; 50 looks a second cost nothing that can be measured.
INTERVAL = 0.02
# Seconds. What a request in a window may still take to end, once the server was asked to stop it.
GRACE = 5.0
_NEVER = float("inf")


class Watch:
    """Looks after the requests of one session; `cancel` sends a CancelRequest and waits for its end."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        session: Session,
        cancel: Callable[[], Awaitable[None]],
        transport: Transport,
    ) -> None:
        self._loop = loop
        self._session = session
        self._cancel = cancel
        self._transport = transport
        self._timer: asyncio.TimerHandle | None = None
        self._deadline = _NEVER
        self._hooked: Sink | None = None
        self._task: asyncio.Task[None] | None = None
        self.is_armed = False  # whether it looks within INTERVAL

    def arm(self) -> None:
        """Look before long: there is something unanswered."""
        self._at(min(self._loop.time() + INTERVAL, self._deadline))

    def arm_for(self, deadline: float) -> None:
        """Look at `deadline`, too."""
        if deadline < self._deadline:
            self._deadline = deadline
            self._at(min(self._loop.time() + INTERVAL, deadline))

    def stop(self) -> None:
        """The connection has ended."""
        if self._timer is not None:
            self._timer.cancel()
        if self._task is not None:
            self._task.cancel()
        self.is_armed = False

    async def ended(self) -> None:
        """Stop, and wait for a cancel connection that is under way."""
        self.stop()
        if self._task is not None:
            await asyncio.wait([self._task])

    def _at(self, when: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self.is_armed = when <= self._loop.time() + INTERVAL
        self._timer = self._loop.call_at(when, self._look) if when != _NEVER else None

    def _look(self) -> None:
        now = self._loop.time()
        if self._deadline <= now:
            self._transport.read_now()  # an answer that is there already beats its deadline
            self._deadline = endings.expire(self._session, now) or _NEVER
        is_several = len(self._session.inflight) > 1
        request = endings.sole(self._session)
        sole = request.sink if request is not None else None
        if isinstance(sole, asyncio.Future) and not sole.done() and sole is not self._hooked:
            self._hooked = sole
            sole.add_done_callback(self._sole_done)
        self.cancel_abandoned()
        self._at(min(now + INTERVAL if is_several else _NEVER, self._deadline))

    def _sole_done(self, _: object) -> None:
        self._hooked = None
        self.cancel_abandoned()

    def cancel_abandoned(self) -> None:
        """Have the server stop the only unanswered request, if nobody waits for it any more."""
        sole = endings.sole(self._session)
        if sole is not None and sole.sink is not None and sole.sink.done() and self._task is None:
            endings.disown(self._session, sole)
            self._session.holds += 1
            self._task = self._loop.create_task(self._run_cancel())

    def _give_up(self, abandoned: Request) -> None:
        """In a window others wait for its end: no longer than this."""
        if abandoned in self._session.inflight:
            self._transport.abort()

    async def _run_cancel(self) -> None:
        """Nothing is written until the cancel connection has ended: a late cancel would hit the next request."""
        abandoned = self._session.inflight[-1]
        try:
            await self._cancel()
        except PgWireError:
            pass  # the server's answer to the request is awaited all the same
        finally:
            if self._session.window is not None:
                self._loop.call_later(GRACE, self._give_up, abandoned)
            self._task = None
            self._session.release()
            self._transport.flush()
