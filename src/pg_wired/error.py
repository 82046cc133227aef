"""The exception tree: what went wrong, and whether the request ran. Knows nothing of sockets or sessions."""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .protocol.rows import Rows


class Outcome(Enum):
    """What a failure says of the request it ended."""

    NOT_SENT = "not sent"  # no byte of it was handed to the socket
    REJECTED = "rejected"  # the server refused it and nothing of it remains
    UNKNOWN = "unknown"  # it may have run; a lost connection proves nothing


class PgWireError(Exception):
    """Base of all errors; `outcome` says whether the request may have run."""

    outcome: Outcome = Outcome.UNKNOWN  # a class's own is what it means where nothing else is said

    def __init__(self, message: str = "", outcome: Outcome | None = None) -> None:
        super().__init__(message, outcome)
        self.outcome = outcome or self.outcome
        if isinstance(self, OSError):  # it has taken the two arguments for errno and strerror
            OSError.__setattr__(self, "errno", None)
            OSError.__setattr__(self, "strerror", message)

    def with_outcome(self, outcome: Outcome) -> PgWireError:
        """The same error for another waiter, whose request may have fared differently."""
        twin = type(self)(str(self), outcome)
        twin.__cause__ = self.__cause__
        return twin

    def __str__(self) -> str:
        return str(self.args[0])


class PipelineAborted(PgWireError):
    """Skipped by the server, because an earlier item of its sync group failed."""


class TransactionError(PgWireError):
    """A shared request left a transaction open, or ran inside such a one; or a COMMIT rolled back."""


class ProtocolError(PgWireError):
    """The server's stream made no sense; the connection is dead."""


class ConnectionClosed(PgWireError):
    """The connection ended; `__cause__` is the server's last word where there was one."""


class IoError(PgWireError, OSError):
    """The socket or TLS failed; `__cause__` is the operating system's error."""


class RequestTimeout(PgWireError, TimeoutError):
    """The deadline of a request, a connect or a close has passed."""


class PoolExhausted(PgWireError, TimeoutError):
    """No connection became free in time."""


class AuthenticationError(PgWireError):
    """Refused by our own policy, or the server could not prove that it knows the password."""

    outcome = Outcome.NOT_SENT


class ConfigError(PgWireError, ValueError):
    """An option or an argument is unknown, malformed or out of range; names it. Nothing was sent."""

    outcome = Outcome.NOT_SENT


class UsageError(PgWireError, RuntimeError):
    """Used in a way that cannot work: wrong loop, thread or process, after close, or the wrong method for the job."""

    outcome = Outcome.NOT_SENT


# Protocol chapter, "Error and Notice Message Fields": the letter of each field, and its name here.
FIELD_NAMES = {
    "S": "severity_localized",
    "V": "severity",
    "C": "code",
    "M": "message",
    "D": "detail",
    "H": "hint",
    "P": "position",
    "p": "internal_position",
    "q": "internal_query",
    "W": "where",
    "s": "schema_name",
    "t": "table_name",
    "c": "column_name",
    "d": "data_type_name",
    "n": "constraint_name",
    "F": "file",
    "L": "line",
    "R": "routine",
}


class PgError(PgWireError):
    """The server's ErrorResponse: SQLSTATE in `code`, and all eighteen fields; `str()` reads like psql.

    Every field may be missing (poolers leave some out): then `severity` is "ERROR", `code` and `message` are empty and
    the others None. `fields` keeps what came, by letter. `partial` holds the results of a simple query's earlier
    statements.
    """

    partial: list[Rows]

    def __init__(
        self, fields: Iterable[tuple[str, str]], outcome: Outcome = Outcome.UNKNOWN, sql: str | None = None
    ) -> None:
        self.fields: dict[str, str] = {}
        for letter, text in fields:
            self.fields.setdefault(letter, text.encode("utf-8", "surrogateescape").decode("utf-8", "replace"))
        super().__init__(outcome=outcome)
        self.args = (tuple(self.fields.items()), outcome, sql)
        self.sql = sql
        self.partial = []
        get = self.fields.get
        self.severity_localized = get("S", "ERROR")
        self.severity = get("V", self.severity_localized)
        self.code = get("C", "")
        self.message = get("M", "")
        self.detail = get("D")
        self.hint = get("H")
        self.position = _int(get("P"))
        self.internal_position = _int(get("p"))
        self.internal_query = get("q")
        self.where = get("W")
        self.schema_name = get("s")
        self.table_name = get("t")
        self.column_name = get("c")
        self.data_type_name = get("d")
        self.constraint_name = get("n")
        self.file = get("F")
        self.line = get("L")
        self.routine = get("R")

    @property
    def is_fatal(self) -> bool:
        """Whether the server ends the session with it."""
        return self.severity in ("FATAL", "PANIC")

    def __str__(self) -> str:
        from .error_position import point_at

        lines = [f"{self.severity_localized}:  {self.message}"]
        lines += point_at(self.sql, self.position) or point_at(self.internal_query, self.internal_position)
        more = (("DETAIL", self.detail), ("HINT", self.hint), ("QUERY", self.internal_query), ("CONTEXT", self.where))
        lines += [f"{label}:  {text}" for label, text in more if text]
        return "\n".join(lines)


def _int(text: str | None) -> int | None:
    return int(text) if text is not None and text.isascii() and text.isdigit() and len(text) < 10 else None
