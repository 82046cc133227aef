"""The exception tree: what went wrong, and whether the request ran. Knows nothing of sockets or sessions."""

from __future__ import annotations

from enum import Enum


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
