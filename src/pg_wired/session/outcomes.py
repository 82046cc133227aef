"""What the end of a request means for it and for others: errors, sync groups, transactions that were left open."""

from __future__ import annotations

from ..errors import Outcome, PipelineAborted, TransactionError
from .request import SYNC_SCRIPT, Request
from .statements import StatementCache


def end(request: Request) -> None:
    """Give the caller the answer, or the error that came."""
    error = request.refusal or request.error
    if error is None:
        if request.sink is not None and not request.sink.done():
            request.sink.set_result(request.answer())
        return
    if request.refusal is not None:
        request.refusal.__cause__ = request.error
    if request.has_committed:
        error.outcome = Outcome.UNKNOWN
    request.fail(error)


def end_group(cache: StatementCache, group: list[Request], last: Request) -> None:
    """End a sync group. It is an implicit transaction: an error undoes all of it, also what had got its tag already."""
    members = [*group, last]
    error = next((member.error for member in members if member.error is not None), None)
    if error is None:
        for member in members:
            end(member)
        return
    outcome = Outcome.UNKNOWN if any(member.has_committed for member in members) else Outcome.REJECTED
    for member in members:
        if member.script == SYNC_SCRIPT:
            end(member)
        elif member.error is not None:
            drop_stale(cache, member)
            member.error.outcome = outcome
            member.fail(member.error)
        else:
            what = "was skipped" if member.is_skipped else "was rolled back"
            aborted = PipelineAborted(f"the request {what}: another one of its sync group failed", outcome)
            aborted.__cause__ = error
            member.fail(aborted)


def drop_stale(cache: StatementCache, query: Request) -> bool:
    """If the query failed because its statement is stale, have it prepared anew the next time. Returns whether so."""
    if not _is_stale(query):
        return False
    statement = query.statement
    assert statement is not None
    if statement.has_failed and not query.parses:
        query.is_unnamed = True  # the Parse that it relied on failed; its caller gets an answer of its own
    else:
        cache.drop(statement, close=False)
        cache.close(statement.name)
    return True


def _is_stale(query: Request) -> bool:
    """Whether the server knew the statement differently or not at all, so that nothing of the query ran."""
    statement, error = query.statement, query.error
    if statement is None or error is None or query.is_bound or not statement.name:
        return False
    return error.code in ("26000", "42P05") or (error.code == "0A000" and error.routine == "RevalidateCachedQuery")


class ForeignTransaction:
    """A transaction on a shared connection, from the request that left it open until ReadyForQuery says idle.

    The answers of requests that ran inside are withheld until it has ended. None of them succeeds.
    """

    def __init__(self, sql: str) -> None:
        self.sql = sql
        self.withheld: list[Request] = []

    def withhold(self, request: Request) -> None:
        """Keep the answer of a request that ran inside."""
        self.withheld.append(request)

    def settle(self, last_tag: str) -> None:
        """It has ended with `last_tag`. It was certainly rolled back if that says so and nothing committed before."""
        committed = any(request.has_committed for request in self.withheld)
        outcome = Outcome.UNKNOWN if committed or last_tag != "ROLLBACK" else Outcome.REJECTED
        offender, *others = self.withheld
        self._fail(offender, "the request left a transaction open on a shared connection", outcome)
        for request in others:
            self._fail(request, "the request ran inside the transaction that another one left open", outcome)

    def _fail(self, request: Request, what: str, outcome: Outcome) -> None:
        end = "it was rolled back" if outcome is Outcome.REJECTED else "how it ended is not certain"
        error = TransactionError(f"{what}: {self.sql!r}; {end}; use exclusive() for transactions", outcome)
        error.__cause__ = request.error
        request.fail(error)
