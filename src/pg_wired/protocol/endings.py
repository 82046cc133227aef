"""How requests end that are not plain success: at ReadyForQuery, or at their deadline."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING

from ..error import Outcome, PipelineAborted, ProtocolError, RequestTimeout
from . import requests, termination
from .foreign import ForeignTransaction
from .types import TransactionStatus

if TYPE_CHECKING:
    from .session import Session

IDLE = ord(TransactionStatus.IDLE.value)
# read_only_sql_transaction: a server that was the primary may have become a standby.
READ_ONLY = "25006"
REFUSES = f"the server refuses to write ({READ_ONLY})"
# What a server that takes writes reports of itself, from PostgreSQL 14 on: then its owner wished for a read-only one.
WRITABLE = {"in_hot_standby": "off", "default_transaction_read_only": "off"}.items()


def settle(session: Session, request: requests.Request, status: int) -> None:
    """ReadyForQuery has come for `request`, and for the items of its sync group."""
    group, session.group = session.group, []
    if request.holds:
        session.holds -= 1
    if session.must_write and not session.retired and _refuses_to_write(session, (*group, request)):
        termination.retire(session, REFUSES)
    if request is session.rollback and status != IDLE:
        raise ProtocolError("the server kept a transaction open after ROLLBACK")
    if session.foreign is None and status != IDLE and not request.may_stay_open:
        session.foreign = ForeignTransaction(request.sql)
        _roll_back(session)
    if session.foreign is not None:
        for each in (*group, request):
            session.foreign.withhold(each)
        if status == IDLE:
            session.foreign.settle(request.tag)
            session.foreign = None
    elif request.unit is not None:
        request.unit.settle(session, request, group)
    elif group:
        _end_group(session, group, request)
    elif not (drop_stale(session, request) and send_again(session, request, request)):
        _end(request)


def _refuses_to_write(session: Session, members: Iterable[requests.Request]) -> bool:
    """Whether it is the server that is read-only. Its reports come behind the error, and before ReadyForQuery."""
    is_refused = any(member.error is not None and member.error.code == READ_ONLY for member in members)
    return is_refused and not session.parameters.items() >= WRITABLE


def _end(request: requests.Request) -> None:
    if request.refusal is not None:
        request.refusal.__cause__ = request.error
        if request.has_committed:
            request.refusal.outcome = Outcome.UNKNOWN
        request.fail(request.refusal)
    elif request.error is not None:
        if request.has_committed:
            request.error.outcome = Outcome.UNKNOWN
        request.fail(request.error)
    elif request.sink is not None and not request.sink.done():
        request.sink.set_result(request.answer())


def _end_group(session: Session, group: list[requests.Request], last: requests.Request) -> None:
    """A sync group is an implicit transaction: one error undoes all of it, what had got its tag already as well."""
    members = [*group, last]
    error = next((member.error for member in members if member.error is not None), None)
    if error is None:
        for member in members:
            _end(member)
        return
    outcome = Outcome.UNKNOWN if any(member.has_committed for member in members) else Outcome.REJECTED
    for member in members:
        if member.script == requests.SYNC_SCRIPT:
            _end(member)
        elif member.error is not None:
            drop_stale(session, member)
            member.error.outcome = outcome
            member.fail(member.error)
        else:
            what = "was skipped" if member.is_skipped else "was rolled back"
            aborted = PipelineAborted(f"the request {what}: another one of its sync group failed", outcome)
            aborted.__cause__ = error
            member.fail(aborted)


def _roll_back(session: Session) -> None:
    """Send ROLLBACK behind all that is encoded already; nothing else leaves until it is answered."""
    session.holds += 1
    session.rollback = requests.simple_query(None, "ROLLBACK", 0.0)
    session.rollback.holds = True
    session.encode(session.rollback)


def drop_stale(session: Session, query: requests.Request) -> bool:
    """If the server did not know the statement as we do, prepare it anew the next time; says whether it was so."""
    if not _is_stale(query):
        return False
    statement = query.statement
    assert statement is not None
    if statement.has_failed and not query.parses:
        query.is_unnamed = True  # the Parse it relied on failed; its caller wants its own answer
    else:
        session.statements.drop(statement, close=False)
        session.statements.close(statement.name)
    return True


def send_again(session: Session, query: requests.Request, whole: requests.Request) -> bool:
    """Queue the `whole` that `query` belongs to once more, if somebody waits for it. Says whether it did."""
    if session.status != IDLE or query.is_repaired or query.sink is None or query.sink.done():
        return False
    query.again()
    whole.is_repaired = True
    # Before all that was never sent, and behind the repairs that came before it.
    queue = session.pending if session.window is None else session.window.inside
    queue.insert(sum(waiting.is_repaired for waiting in queue), whole)
    return True


def skip(session: Session, request: requests.Request) -> None:
    """The server passes over it: what it was to parse is not there."""
    request.is_skipped = True
    statement = request.statement
    if statement is not None and request.parses and not statement.is_parsed:
        session.statements.drop(statement, close=False)


def sole(session: Session) -> requests.Request | None:
    """The request that alone is unanswered, and on which nobody else depends; of a unit, its query."""
    inflight = session.inflight
    if len(inflight) == 1:
        return None if session.head.is_item else session.head
    unit = session.head.unit if inflight else None  # a lost session keeps its head
    return unit.query if unit is not None and all(part.unit is unit for part in inflight) else None


def disown(session: Session, request: requests.Request) -> None:
    """Nobody waits for the sole request any more: nothing is written until it has ended."""
    request.sink = None
    session.inflight[len(session.inflight) - 1].holds = True  # compiled, an index counts from the front alone
    session.holds += 1


def _is_stale(query: requests.Request) -> bool:
    """Whether the server did not know the statement as we do, and nothing of the query ran."""
    statement, error = query.statement, query.error
    if statement is None or error is None or query.is_bound or not statement.name:
        return False
    return error.code in ("26000", "42P05") or (error.code == "0A000" and error.routine == "RevalidateCachedQuery")


def expire(session: Session, now: float) -> float:
    """Fail what is overdue and drop what nobody waits for; returns the next deadline, 0 where there is none."""
    following = 0.0
    waiting = session.waiting()
    outside = len(waiting) - len(session.pending)
    before = counted = 0  # only where somebody is told
    for n, request in enumerate(waiting):
        if not request.deadline or request.sink is None or request.sink.done():
            continue
        if request.deadline > now:
            following = min(following or request.deadline, request.deadline)
        else:
            ahead = before + sum(_counts(waiting[k], k >= outside) for k in range(counted, n))
            before, counted = ahead + _counts(request, n >= outside), n + 1
            late = f"the request's deadline has passed{_behind(session, n >= outside, ahead)}"
            # What is encoded will be sent: as good as handed over.
            request.fail(RequestTimeout(late, request.fate(session.encoded)))
    session.pending = deque([r for r in session.pending if r.sink is None or not r.sink.done()])
    session.pump()  # a window that gave up was in the way of others
    return following


def _counts(request: requests.Request, is_pending: bool) -> bool:
    """Whether it is a request to those behind it: a unit is one, a Sync is none, nor is what will not be sent."""
    if request.script == requests.SYNC_SCRIPT or (is_pending and (request.sink is None or request.sink.done())):
        return False
    parts = request.unit.whole.parts if request.unit is not None else None
    return not parts or request is parts[len(parts) - 1]  # compiled, an index counts from the front alone


def _behind(session: Session, is_outside: bool, ahead: int) -> str:
    """What a request waited behind."""
    if session.window is not None and is_outside:
        return f": {session.window.sql} has the connection"
    return f", behind {ahead} unanswered request{'s' * (ahead > 1)}" if ahead else ""
