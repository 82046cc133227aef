"""Requests that wait for a shared connection to come up: in order, a limited number, and each for a limited time."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from ..errors import Outcome, PgWireError, RequestTimeout
from ..loop.clock import Clock
from ..session.request import Request

# The shortest time between looks for overdue requests. A deadline may be a quarter of a second late (I9).
EXPIRY_INTERVAL_SECONDS = 0.02


class _Waiting(NamedTuple):
    request: Request
    latest: float


class WaitQueue:
    """At most `limit` requests, each for `acquire_timeout` seconds unless it has a deadline of its own.

    `exhausted` makes the error for a request without one.
    """

    def __init__(
        self, clock: Clock, limit: int, acquire_timeout: float | None, exhausted: Callable[[], PgWireError]
    ) -> None:
        self._clock = clock
        self._limit = limit
        self._acquire_timeout = acquire_timeout
        self._exhausted = exhausted
        self._queue: deque[_Waiting] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0  # the handle of a timer that is due at once does not know when, on uvloop

    def __len__(self) -> int:
        return len(self._queue)

    def add(self, request: Request) -> bool:
        """Let a request wait; returns whether there is room."""
        if len(self._queue) >= self._limit:
            self._drop_abandoned()
            if len(self._queue) >= self._limit:
                return False
        latest = request.deadline or self._clock.deadline(self._acquire_timeout) or float("inf")
        self._queue.append(_Waiting(request, latest))
        if latest != float("inf"):
            self._look_at(latest)
        return True

    def drain(self, submit: Callable[[Request], None], is_open: Callable[[], bool]) -> None:
        """Submit the waiting requests in order, while it `is_open`."""
        self._drop_abandoned()
        while self._queue and is_open():
            submit(self._queue.popleft().request)
        self._stop_if_empty()

    def fail(self, error: PgWireError) -> None:
        """Fail all waiting requests."""
        while self._queue:
            self._queue.popleft().request.fail(error.with_outcome(Outcome.NOT_SENT))
        self._stop_if_empty()

    def _drop_abandoned(self) -> None:
        """Drop the requests that no caller waits for."""
        alive = [each for each in self._queue if each.request.sink is not None and not each.request.sink.done()]
        if len(alive) < len(self._queue):
            self._queue = deque(alive)

    def _look_at(self, when: float) -> None:
        if self._timer is not None:
            if self._due <= when:
                return
            self._timer.cancel()
        self._timer, self._due = self._clock.loop.call_at(when, self._look), when

    def _look(self) -> None:
        self._timer = None
        now = self._clock.now()
        for request, latest in self._queue:
            if latest <= now and request.deadline:
                request.fail(
                    RequestTimeout("the request's deadline has passed: no connection was up", Outcome.NOT_SENT)
                )
            elif latest <= now:
                request.fail(self._exhausted())
        self._drop_abandoned()
        following = min((each.latest for each in self._queue), default=float("inf"))
        if following != float("inf"):
            self._look_at(max(following, now + EXPIRY_INTERVAL_SECONDS))

    def _stop_if_empty(self) -> None:
        if self._timer is not None and not self._queue:
            self._timer.cancel()
            self._timer = None
