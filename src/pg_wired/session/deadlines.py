"""Which requests are overdue, and which one is alone unanswered. It reads no clock and changes no session."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import RequestTimeout
from .request import SYNC_SCRIPT, Request


def expire(waiting: Sequence[Request], outside: int, now: float, encoded: int, holder: str) -> float:
    """Fail the requests whose deadline is not after `now`; returns the next deadline, 0 where there is none.

    `waiting` are all unanswered requests, oldest first; from index `outside` on they were not encoded, and while
    `holder` names a window they wait for its end. `encoded` bytes have been encoded: they will be sent.
    """
    following = 0.0
    before = counted = 0  # requests ahead are counted only where an error says how many there were
    for n, request in enumerate(waiting):
        if not request.deadline or request.sink is None or request.sink.done():
            continue
        if request.deadline > now:
            following = min(following or request.deadline, request.deadline)
            continue
        ahead = before + sum(_counts(waiting[k], k >= outside) for k in range(counted, n))
        before, counted = ahead + _counts(request, n >= outside), n + 1
        reason = _reason(ahead, holder if n >= outside else "")
        request.fail(RequestTimeout(f"the request's deadline has passed{reason}", request.outcome(encoded)))
    return following


def _counts(request: Request, is_pending: bool) -> bool:
    """Whether later requests count this one.

    A transaction counts once. A Sync does not count, nor does a request that will not be sent.
    """
    if request.script == SYNC_SCRIPT or (is_pending and (request.sink is None or request.sink.done())):
        return False
    parts = request.unit.whole.parts if request.unit is not None else None
    return not parts or request is parts[len(parts) - 1]  # compiled, an index counts from the front only


def _reason(ahead: int, holder: str) -> str:
    """What the request waited for."""
    if holder:
        return f": {holder} has the connection"
    return f", behind {ahead} unanswered request{'s' * (ahead > 1)}" if ahead else ""


def sole(inflight: Sequence[Request]) -> Request | None:
    """The only unanswered request, on which no other depends; of a transaction, its query. Else None."""
    if len(inflight) == 1:
        return None if inflight[0].is_item else inflight[0]
    unit = inflight[0].unit if inflight else None
    if unit is None:
        return None
    for part in inflight:
        if part.unit is not unit:
            return None
    return unit.query
