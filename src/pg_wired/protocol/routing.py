"""Which of several sessions a request goes to. It sends nothing."""

from __future__ import annotations

from .session import Session

# So many encoded bytes that wait for the socket weigh as one request: 16 KiB, as a shift.
SHIFT = 14
# More than any load: a session that holds back what it gets comes behind all others.
HELD = 1 << 40


def choose(sessions: list[Session]) -> int:
    """The index of the session with the least to do, of several the first; there has to be one.

    One that is held up, by a request that was the oldest for some time or by a window, has its turn when all are so.
    """
    best = -1
    least = 0
    for i in range(len(sessions)):
        session = sessions[i]
        load = len(session.inflight) + len(session.pending) + (len(session.out) >> SHIFT)
        if session.head.number == session.slow or session.holds or session.window is not None:
            load += HELD
        if best < 0 or load < least:
            best, least = i, load
    return best
