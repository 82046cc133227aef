"""What went wrong on the way to a connection: the error of every attempt, and the one that is raised for them all."""

from __future__ import annotations

from ..errors import AuthenticationError, ConfigError, IoError, Outcome, PgWireError, RequestTimeout
from ..protocol.server_error import PgError

# SQLSTATE cannot_connect_now: starting up, shutting down or in recovery. Another host may be up (as libpq).
CANNOT_CONNECT_NOW = "57P03"


def is_final(error: PgWireError) -> bool:
    """Whether other hosts are not to be tried: a refusal would be the same there, and must not be hidden by luck.

    As libpq's, "Specifying Multiple Hosts", where the server refuses; unlike it, a host that hangs up is passed over.
    """
    if isinstance(error, PgError):
        return error.code != CANNOT_CONNECT_NOW
    return isinstance(error, AuthenticationError | ConfigError)


class Failures:
    """In order, each with the place where it happened."""

    def __init__(self) -> None:
        self._failed: list[tuple[str, PgWireError]] = []

    def add(self, place: str, error: PgWireError) -> None:
        """`place` is empty where the error's text says all."""
        self._failed.append((place, error))

    def lines(self) -> list[str]:
        """As psql prints them."""
        return [
            text if (text := str(error)).startswith(place) else f"{place} failed: {text}"
            for place, error in self._failed
        ]

    def late(self, timeout: float | None) -> RequestTimeout:
        """What to raise where `timeout` seconds were over first; the attempts that had failed by then are its notes."""
        error = RequestTimeout(f"no connection within {timeout} s", Outcome.NOT_SENT)
        for line in self.lines():
            error.add_note(line)
        return error

    def error(self, last: PgWireError | None = None) -> PgWireError:
        """What to raise; `last` has ended the search. Of several errors the first refusal by a server, else `last`.

        Where there is neither: RequestTimeout if that was all of them, or IoError, with one line for each attempt. What
        the text does not have is in the notes.
        """
        errors = [error for _, error in self._failed]
        refused = [error for error in errors if isinstance(error, PgError)]
        chosen = next((error for error in refused if is_final(error)), last) or next(iter(refused), None)
        if chosen is None and len(errors) > 1:
            kind = RequestTimeout if all(isinstance(error, RequestTimeout) for error in errors) else IoError
            chosen = kind("\n".join(self.lines()), Outcome.NOT_SENT)
            chosen.__cause__ = errors[-1]
            return chosen
        chosen = chosen or errors[0]
        for line in self.lines():
            if line != str(chosen):
                chosen.add_note(line)
        return chosen
