"""A transaction on a shared connection: whose it was, and the answers that wait for how it ends."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..error import Outcome, TransactionError

if TYPE_CHECKING:
    from .requests import Request


class ForeignTransaction:
    """From the request that left it open until ReadyForQuery says idle. What ran inside never succeeds."""

    def __init__(self, sql: str) -> None:
        self.sql = sql
        self.withheld: list[Request] = []

    def withhold(self, request: Request) -> None:
        """Keep the answer of a request that ran inside."""
        self.withheld.append(request)

    def settle(self, last_tag: str) -> None:
        """It has ended with `last_tag`: rolled back for certain only if that says so, and nothing committed before."""
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
