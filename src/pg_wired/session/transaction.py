"""BEGIN, setup, query and COMMIT as one unit, in one write. It fails closed: without every setup statement, no query.

The query is guarded by a setting that is local to the transaction, made before the setup. The first command of the
query's sync group looks for it: that fails if the setup failed, or ended the transaction in whatever way, and the
server skips to Sync then. COMMIT stands in a group of its own, and rolls back what failed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import Outcome, PgWireError, TransactionError
from ..protocol.server_error import PgError
from . import outcomes, table
from .request import Request, simple_query_request

if TYPE_CHECKING:
    from .session import Session

BEGIN = "BEGIN; SET LOCAL pg_wired.setup = 'open'"
# Divides by zero where the setting is gone. Whatever search_path the setup has set, these are the server's own.
GUARD = (
    "SELECT 1 OPERATOR(pg_catalog./) (coalesce(pg_catalog.current_setting('pg_wired.setup', true), '') "
    "OPERATOR(pg_catalog.=) 'open')::pg_catalog.int4"
)
DIVISION_BY_ZERO = "22012"
PARTS = 5  # BEGIN, setup, guard, query, COMMIT


class Transaction:
    """The parts of one exec_transaction, and what their answers mean. `query` brings the sink and the deadline."""

    def __init__(self, setup_sql: str, query: Request) -> None:
        self.setup_sql = setup_sql
        self.query = query
        self.whole = Request(query.sink, query.sql, query.deadline)
        self.compose()

    def compose(self) -> None:
        """Make the parts anew; nothing of them is on the way."""
        self._is_open = False
        self.begin = simple_query_request(None, BEGIN, 0.0)
        self.setup = simple_query_request(None, self.setup_sql, 0.0)
        self.guard = Request(None, GUARD, 0.0)
        self.guard.is_item = True
        self.commit = simple_query_request(self.query.sink, "COMMIT", self.query.deadline)
        self.whole.parts = [self.begin, self.setup, self.guard, self.query, self.commit]
        for part in self.whole.parts:
            part.unit = self
            part.may_stay_open = part is not self.commit

    def settle(self, session: Session, part: Request, group: list[Request]) -> None:
        """All parts are answered with the last one."""
        if part is self.query:
            self._is_open = session.status != table.STATUS_IDLE
        if part is not self.commit:
            return
        error = self._error()
        if (
            error is not None
            and self._is_rolled_back()
            and self._was_stale(session)
            and session.send_again(self.query, self.whole)
        ):
            self.compose()
            return
        for part in self.whole.parts or ():  # else each one would have to wait for the garbage collector
            part.unit = None
        if error is None:
            if self.query.sink is not None and not self.query.sink.done():
                self.query.sink.set_result(self.query.answer())
        else:
            self.query.fail(error)

    def _was_stale(self, session: Session) -> bool:
        """Whether it failed first for a statement, the guard or the query, that the server did not know as we do."""
        failed = next((part for part in self.whole.parts or () if part.error is not None), self.commit)
        return outcomes.drop_stale(session.statements, failed)

    def _is_rolled_back(self) -> bool:
        """Whether nothing of it remains. A COMMIT that the setup said itself cannot be taken back."""
        return not self.setup.has_committed and (self.commit.tag == "ROLLBACK" or self.commit.error is not None)

    def _error(self) -> PgWireError | None:
        """What went wrong first; None if all is committed."""
        outcome = Outcome.REJECTED if self._is_rolled_back() else Outcome.UNKNOWN
        for part in (self.begin, self.setup):
            if part.error is not None:
                return _with(part.error, outcome)
        if self.guard.error is not None and self.guard.error.code == DIVISION_BY_ZERO:
            ended = TransactionError("the setup ended the transaction itself: the query was not run", outcome)
            ended.__cause__ = self.guard.error
            return ended
        if self.guard.error is not None:
            return _with(self.guard.error, outcome)
        if self.query.error is not None:
            return _with(self.query.error, outcome)
        if not self._is_open:
            outcome = Outcome.UNKNOWN if self.query.has_committed or self.setup.has_committed else Outcome.REJECTED
            return TransactionError("the query ended the transaction itself", outcome)
        if self.commit.error is not None:
            return _with(self.commit.error, outcome)
        if self.commit.tag != "COMMIT":
            return TransactionError("COMMIT rolled back", outcome)
        return self.query.refusal


def _with(error: PgError, outcome: Outcome) -> PgError:
    error.outcome = outcome
    return error
