"""A transaction in one write: BEGIN, setup, query and COMMIT.

It fails closed: the query runs only if every statement of the setup has run. BEGIN is followed by a SET LOCAL of a
guard setting. The first command of the query's sync group, the guard, checks that setting. It fails if the setup failed
or ended the transaction in any way, and the server then skips to Sync, so the query does not run. COMMIT is in a
separate sync group, and rolls back a failed transaction.
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
# Divides by zero if the setting is gone. The names are qualified, so that they are the server's built-in functions
# whatever search_path the setup has set.
GUARD = (
    "SELECT 1 OPERATOR(pg_catalog./) (coalesce(pg_catalog.current_setting('pg_wired.setup', true), '') "
    "OPERATOR(pg_catalog.=) 'open')::pg_catalog.int4"
)
DIVISION_BY_ZERO = "22012"
PARTS = 5  # BEGIN, setup, guard, query, COMMIT


class Transaction:
    """The parts of one exec_transaction, and the meaning of their answers.

    `query` is the caller's query, with its sink and its deadline. `whole` is the request that holds all parts.
    """

    def __init__(self, setup_sql: str, query: Request) -> None:
        self.setup_sql = setup_sql
        self.query = query
        self.whole = Request(query.sink, query.sql, query.deadline)
        self.compose()

    def compose(self) -> None:
        """Create the parts anew. None of the old parts may be in flight."""
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
        """Handle the ReadyForQuery of one part. After COMMIT, the last one, give the caller its Rows or the error."""
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
        for part in self.whole.parts or ():  # break reference cycles, so that no garbage collection is needed
            part.unit = None
        if error is None:
            if self.query.sink is not None and not self.query.sink.done():
                self.query.sink.set_result(self.query.answer())
        else:
            self.query.fail(error)

    def _was_stale(self, session: Session) -> bool:
        """Whether the first failure came from a stale prepared statement. If so, drop that statement from the cache."""
        failed = next((part for part in self.whole.parts or () if part.error is not None), self.commit)
        return outcomes.drop_stale(session.statements, failed)

    def _is_rolled_back(self) -> bool:
        """Whether the transaction left no effects. A COMMIT inside the setup cannot be undone."""
        return not self.setup.has_committed and (self.commit.tag == "ROLLBACK" or self.commit.error is not None)

    def _error(self) -> PgWireError | None:
        """The first failure; None if everything was committed and the query was not a COPY."""
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
