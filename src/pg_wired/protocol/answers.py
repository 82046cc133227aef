"""The answers that are not hot: what each message does to its request and to the session."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..error import Outcome, PgError, ProtocolError, UsageError
from . import octets, requests, statements, termination
from .types import ACTIONS, LONG_LIMIT, LONG_MESSAGES, SHORT_LIMIT, Action, State, names_of

if TYPE_CHECKING:
    from .records import FieldDescription
    from .session import Session

# A server reports some fifteen parameters; a stream of new names is an attack on our memory.
MAX_PARAMETERS = 1000
# Tags of what has committed, whatever follows in its group: PreventInTransactionBlock() makes a command commit at once.
# CALL, DO and what is CONCURRENTLY do not show it (docs/queries.md).
COMMITTING = frozenset(["COMMIT", "PREPARE TRANSACTION", "VACUUM", "ALTER SYSTEM"]) | frozenset(
    f"{verb} {kind}" for verb in ("CREATE", "DROP") for kind in ("DATABASE", "TABLESPACE")
)
# A server that gives up adds an error or two to the one it fails with; a flood of them is not kept.
MAX_NOTES = 10
# Once one of these changes, the connection means something else to every other task that shares it.
RETIRING = frozenset({"client_encoding", "standard_conforming_strings", "session_authorization", "in_hot_standby"})
# On a crash or an immediate shutdown the reason comes as a notice: crash_shutdown, admin_shutdown.
SHUTDOWN_NOTICES = ("57P02", "57P01")


def check(session: Session, i: int, stop: int) -> None:
    """Raise for a message that is out of place, or whose length its type cannot have; before its body has come."""
    tag = session.buffer[i]
    n = stop - i - 1
    if ACTIONS[session.state * 256 + tag] == Action.DESYNC:
        raise misfit(session, i, "is out of place")
    if n < 4 or n > LONG_LIMIT or (n > SHORT_LIMIT and chr(tag) not in LONG_MESSAGES):
        raise misfit(session, i, f"has a length of {n}")


def misfit(session: Session, i: int, what: str) -> ProtocolError:
    """The error for the message at `i`, which does not fit."""
    tag = bytes([session.buffer[i]])
    return ProtocolError(f"the server's message {tag!r} {what} in state {names_of(State)[session.state]}")


def check_status(status: int) -> None:
    """Raise for what is no transaction status."""
    if chr(status) not in "ITE":
        raise ProtocolError(f"ReadyForQuery has the transaction status {chr(status)!r}")


def take(session: Session, action: int, tag: int, body: bytes) -> None:
    """Handle a message that is decoded whole, by its description."""
    from . import messages

    message: Any = messages.decode_backend(tag, body)
    if action == Action.NOTICE:
        notice = PgError(message.fields)
        if notice.code in SHUTDOWN_NOTICES:
            session.last_words = session.last_words or notice
        if session.on_notice is not None:
            session.on_notice(notice)
    elif action == Action.PARAMETER:
        _parameter(session, message.name, message.value)
    elif action == Action.LAST_WORDS:
        error = PgError(message.fields)
        if session.last_words is None:
            session.last_words = error
        else:
            _note(session.last_words, error)
        if error.is_fatal and not session.retired:  # it is about to close: what came now would be lost
            termination.retire(session, termination.FAREWELL)
    elif action != Action.SKIP:
        _answer(session, action, session.head, message)


def _answer(session: Session, action: int, request: requests.Request, message: Any) -> None:
    if action == Action.DESCRIBE_PARAMETERS:
        request.param_oids = message.param_oids
    elif action == Action.DESCRIBE_FIELDS:
        if session.state == State.STATEMENT_ROWS:
            request.end_result("")
        _describe(request, message.fields, len(message.fields))
    elif action == Action.NO_FIELDS:
        _describe(request, (), octets.NO_ROWS)
    elif action in (Action.EMPTY, Action.SUSPENDED):
        request.end_result("")
    elif action == Action.FAIL:
        _fail(session, request, PgError(message.fields, Outcome.REJECTED, request.sql or None))
    elif action == Action.COPY_HEADER:
        if request.sink is None or request.sink.done():
            _give_up_copy(session, request)
        else:
            assert request.taker is not None  # a COPY of the verbs has one
            request.taker.header(message)
    else:
        _refuse_copy(session, request, action)


def _parameter(session: Session, name: str, value: str) -> None:
    parameters = session.parameters
    if name not in parameters and len(parameters) >= MAX_PARAMETERS:
        raise ProtocolError(f"the server reports more than {MAX_PARAMETERS} parameters")
    # A window is reset behind itself, and looks then.
    in_window = session.window is not None and session.window.has_state
    if name in RETIRING and parameters.get(name, value) != value and not in_window:
        termination.retire(session, f"{name} changed from {parameters[name]!r} to {value!r}")
    parameters[name] = value


def check_parameters(session: Session) -> None:
    """Behind the reset of a window: a setting that others rely on must be what it was when they connected."""
    for name in RETIRING & session.parameters.keys():
        value = session.parameters[name]
        if session.first_parameters.get(name, value) != value:
            termination.retire(session, f"{name} was left at {value!r}")


def _describe(request: requests.Request, fields: tuple[FieldDescription, ...], columns: int) -> None:
    """The columns of what follows. A described statement shows text everywhere, a portal what was asked for."""
    if request.columns != octets.ANY_COUNT:
        request.columns = columns
    statement = request.statement
    if statement is not None and request.parses and not request.is_bound:
        statement.describe(request.param_oids, fields, columns)
        fields = statements.formatted(fields, request.result_formats)
    request.fields = fields


def special_tag(session: Session, request: requests.Request, tag: str) -> None:
    """Command tags that change more than their own result."""
    if tag in COMMITTING:
        request.has_committed = True
    elif tag in ("DISCARD ALL", "DEALLOCATE ALL"):
        session.statements.drop_older(request.number)


def _fail(session: Session, request: requests.Request, error: PgError) -> None:
    """ErrorResponse: the request fails at its ReadyForQuery, with the first error it got."""
    if error.is_fatal:
        session.last_words = session.last_words or error
    if request.error is not None:
        _note(request.error, error)
        return
    request.error = error
    error.partial = request.results or []
    statement = request.statement
    if statement is not None and request.parses and not statement.is_described and not request.is_bound:
        statement.has_failed = not statement.is_parsed
        session.statements.drop(statement, close=statement.is_parsed)


def _note(first: PgError, further: PgError) -> None:
    """A pooler has something to add when the server behind it has said why it ends."""
    if len(getattr(first, "__notes__", ())) < MAX_NOTES:
        first.add_note(f"then: {further}")


def _give_up_copy(session: Session, request: requests.Request) -> None:
    """A COPY begins that nobody waits for any more. What Syncs stand behind it the server has swallowed already."""
    from . import messages

    if request.script == requests.COPY_IN:
        text = "the client has given up"
        session.append(messages.encode(messages.CopyFail(text), *[messages.Sync()] * (len(session.inflight) - 1)))


def _refuse_copy(session: Session, request: requests.Request, action: int) -> None:
    """A COPY that came in as a query: end it, so that the connection lives if nothing is pipelined behind it."""
    from . import messages

    if action == Action.COPY_OUT:
        request.refusal = UsageError(
            "COPY TO STDOUT as a query: use copy_out(); it ran, and its data was thrown away", Outcome.UNKNOWN
        )
        return
    text = "COPY FROM STDIN as a query: use copy_in()"
    if len(session.inflight) > 1 or request.is_item:
        # What follows, the server takes for a loss of synchronisation, and closes.
        refusal = UsageError(f"{text}; requests were behind it, so the connection had to be closed", Outcome.UNKNOWN)
        request.fail(refusal)
        session.lost(refusal)
        return
    request.refusal = UsageError(text, Outcome.REJECTED)
    # In the extended protocol the server has swallowed our Sync as a part of the COPY.
    sync = (messages.Sync(),) if session.state == State.EXECUTE else ()
    session.append(messages.encode(messages.CopyFail(text), *sync))
