"""How a session ends: it takes no more requests, or the connection is lost; and what all who wait are told."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING

from ..error import ConnectionClosed, Outcome, PgWireError, ProtocolError
from .receiver import ended_by

if TYPE_CHECKING:
    from . import requests
    from .session import Session

FAREWELL = "the server has said why it ends"


def lose(session: Session, cause: BaseException | None) -> None:
    """Tell everybody who waits; nothing is left to be sent or answered."""
    session.failure = error = failure(session, cause)
    waiting = session.waiting()
    session.foreign = None
    session.group = []
    session.pending.clear()
    session.inflight.clear()
    if session.window is not None:
        session.window.inside.clear()
    session.out = bytearray()
    session.notifications.wake()
    tell(session, waiting, error)


def failure(session: Session, cause: BaseException | None) -> PgWireError:
    """The error that all who wait get: the server's last words explain more than how the socket failed."""
    if isinstance(cause, ProtocolError):
        return cause
    if (session.is_terminated or session.is_ours) and session.retired != FAREWELL:
        error = ConnectionClosed(f"the connection was closed: {session.retired or 'by abort()'}")
    elif session.last_words is not None:
        error = ConnectionClosed(f"the server closed the connection: {session.last_words.message}")
        cause = session.last_words
    else:
        return ended_by(cause)
    error.__cause__ = cause
    return error


def refused(session: Session) -> PgWireError:
    """Why no further request is taken."""
    if session.failure is not None:
        return session.failure.with_outcome(Outcome.NOT_SENT)
    if session.retired == FAREWELL:
        return failure(session, None).with_outcome(Outcome.NOT_SENT)
    return ConnectionClosed(
        f"the connection takes no more requests: {session.retired}; connect again", Outcome.NOT_SENT
    )


def retire(session: Session, reason: str) -> None:
    """Take no further request; what is encoded is still answered."""
    session.retired = reason
    pending, session.pending = session.pending, deque()
    tell(session, pending, refused(session))


def tell(session: Session, waiting: Iterable[requests.Request], error: PgWireError) -> None:
    """Nothing more comes for those who wait: `error`, and whether each may have run. What never left may move."""
    if session.keeper is not None:
        session.keeper.ended()
    for request in waiting:
        outcome = request.fate(session.handed)
        if outcome is not Outcome.NOT_SENT or not _move(session, request):
            request.fail(error.with_outcome(outcome))


def _move(session: Session, request: requests.Request) -> bool:
    """Let another connection have it, once; says whether one does. The parts of a unit go with its query."""
    unit = request.unit
    if unit is not None and request is not unit.query:
        return True
    whole = request if unit is None else unit.whole
    if session.keeper is None or not whole.may_move or whole.sink is None or whole.sink.done():
        return False
    whole.may_move = False
    request.forget_encoding()
    if unit is not None:
        unit.compose()
    return session.keeper.unsent(whole)
