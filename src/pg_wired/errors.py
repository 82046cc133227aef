"""The exceptions of the library. Each has an Outcome, which says whether the request may have run.

This module knows no sockets and no sessions.
"""

from __future__ import annotations

from enum import Enum


class Outcome(Enum):
    """Whether a failed request may have run on the server.

    - NOT_SENT: no byte of the request was handed to the socket, so it is safe to repeat it.
    - REJECTED: the server refused the request, and it left no effects.
    - UNKNOWN: the request may have run. A lost connection does not show whether it did.
    """

    NOT_SENT = "not sent"
    REJECTED = "rejected"
    UNKNOWN = "unknown"


class PgWireError(Exception):
    """The base class of all errors of this library.

    `outcome` says whether the request may have run. `str()` is the message.
    """

    outcome: Outcome = Outcome.UNKNOWN  # the default of the class

    def __init__(self, message: str = "", outcome: Outcome | None = None) -> None:
        super().__init__(message, outcome)
        self.outcome = outcome or self.outcome
        if isinstance(self, OSError):  # OSError took the two arguments for errno and strerror
            OSError.__setattr__(self, "errno", None)
            OSError.__setattr__(self, "strerror", message)

    def with_outcome(self, outcome: Outcome) -> PgWireError:
        """Return a copy of the error with this outcome, for another request that the same failure has ended."""
        twin = type(self)(str(self), outcome)
        twin.__cause__ = self.__cause__
        return twin

    def __str__(self) -> str:
        return str(self.args[0])


class PipelineAborted(PgWireError):
    """Another request of the same sync group failed, so the server skipped this one or rolled it back.

    `__cause__` is the error of the request that failed.
    """


class TransactionError(PgWireError):
    """A transaction did not end as it should.

    A request left a transaction open on a shared connection or in a pipeline, or ran inside such a transaction; the
    statements of an `exec_transaction` ended the transaction themselves; or COMMIT rolled it back.
    """


class ProtocolError(PgWireError):
    """The server sent bytes that violate the protocol. The connection has been closed and cannot be used again."""


class ConnectionClosed(PgWireError):
    """The connection was closed, or takes no more requests; or no connection of the pool is up.

    If the server gave its reason before it closed, `__cause__` is that PgError.
    """


class IoError(PgWireError, OSError):
    """The socket or TLS failed, or no server could be reached.

    `__cause__` is the error of the operating system, if there was one.
    """


class RequestTimeout(PgWireError, TimeoutError):
    """The timeout of a request, of connecting, of a cancel request or of `close` expired."""


class PoolExhausted(PgWireError, TimeoutError):
    """The pool had no connection for the request, and nothing was sent.

    None became available within `acquire_timeout` seconds, too many requests were waiting already, or `max_exclusive`
    is 0.
    """


class AuthenticationError(PgWireError):
    """The client refused to log in. A refusal by the server is a PgError instead.

    The server asked for a method that the settings do not allow, could not prove that it knows the password, or does
    not run as the user in `requirepeer`; or the password callable failed.
    """

    outcome = Outcome.NOT_SENT


class ConfigError(PgWireError, ValueError):
    """An option or an argument is unknown, malformed or out of range. The message names it. Nothing was sent."""

    outcome = Outcome.NOT_SENT


class UsageError(PgWireError, RuntimeError):
    """An object was used in a way that is not allowed.

    Examples are the wrong event loop, thread or process, use after close, and the wrong method for a statement, such as
    a COPY in `exec_query`.
    """

    outcome = Outcome.NOT_SENT
