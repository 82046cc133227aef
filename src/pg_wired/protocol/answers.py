"""The answers that are not hot: what each message does to its request and to the session. Sends only repairs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..error import Outcome, PgError, ProtocolError, UsageError
from . import messages, octets, requests, statements
from .foreign import ForeignTransaction
from .types import Action, FieldDescription, State, TransactionStatus

if TYPE_CHECKING:
    from .session import Session

# A server reports some fifteen parameters; a stream of new names is an attack on our memory.
MAX_PARAMETERS = 1000
# Once one of these changes, the connection means something else to every other task that shares it.
RETIRING = frozenset({"client_encoding", "standard_conforming_strings", "session_authorization", "in_hot_standby"})
_IDLE = ord(TransactionStatus.IDLE.value)
# On a crash or an immediate shutdown the reason comes as a notice: crash_shutdown, admin_shutdown.
SHUTDOWN_NOTICES = ("57P02", "57P01")


def take(session: Session, action: int, tag: int, body: bytes) -> None:
    """Handle a message that is decoded whole, by its description."""
    message: Any = messages.decode_backend(tag, body)
    if action == Action.NOTICE:
        notice = PgError(message.fields)
        if notice.code in SHUTDOWN_NOTICES:
            session.last_words = session.last_words or notice
    elif action == Action.NOTIFICATION:
        session.dropped_notifications += 1
    elif action == Action.PARAMETER:
        _parameter(session, message.name, message.value)
    elif action == Action.LAST_WORDS:
        session.last_words = session.last_words or PgError(message.fields)
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
    else:
        _refuse_copy(session, request, action)


def _parameter(session: Session, name: str, value: str) -> None:
    parameters = session.parameters
    if name not in parameters and len(parameters) >= MAX_PARAMETERS:
        raise ProtocolError(f"the server reports more than {MAX_PARAMETERS} parameters")
    if name in RETIRING and parameters.get(name, value) != value:
        session.retire(f"{name} changed from {parameters[name]!r} to {value!r}")
    parameters[name] = value


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
    if tag in ("COMMIT", "PREPARE TRANSACTION"):
        request.has_committed = True
    elif tag in ("DISCARD ALL", "DEALLOCATE ALL"):
        session.statements.drop_older(request.number)


def _fail(session: Session, request: requests.Request, error: PgError) -> None:
    """ErrorResponse: the request fails at its ReadyForQuery, with the first error it got."""
    if error.is_fatal:
        session.last_words = session.last_words or error
    if request.error is not None:
        request.error.add_note(f"then: {error}")
        return
    request.error = error
    error.partial = request.results or []
    statement = request.statement
    if statement is not None and request.parses and not statement.is_described and not request.is_bound:
        statement.has_failed = not statement.is_parsed
        session.statements.drop(statement, close=statement.is_parsed)


def settle(session: Session, request: requests.Request, status: int) -> None:
    """The end of a request that is not a plain success."""
    if session.foreign is None and status != _IDLE:
        session.foreign = ForeignTransaction(request.sql)
        _roll_back(session)
    if session.foreign is not None:
        session.foreign.withhold(request)
        if status == _IDLE:
            session.foreign.settle(request.tag)
            session.foreign = None
    elif request.error is not None and _is_repairable(session, request):
        request.again()
        # Before all that was never sent, and behind the repairs that came before it.
        session.pending.insert(sum(waiting.is_repaired for waiting in session.pending), request)
    elif request.refusal is not None:
        request.refusal.__cause__ = request.error
        if request.has_committed:
            request.refusal.outcome = Outcome.UNKNOWN
        request.fail(request.refusal)
    elif request.error is not None:
        if request.has_committed:
            request.error.outcome = Outcome.UNKNOWN
        request.fail(request.error)
    if request.sink is None:
        session.holds -= 1
        if request is session.rollback and status != _IDLE:
            raise ProtocolError("the server kept a transaction open after ROLLBACK")


def _roll_back(session: Session) -> None:
    """Send ROLLBACK behind all that is encoded already; nothing else leaves until it is answered."""
    session.holds += 1
    session.rollback = requests.simple_query(None, "ROLLBACK", 0.0)
    session.encode(session.rollback)


def _is_repairable(session: Session, request: requests.Request) -> bool:
    """Whether a stale statement was the cause, which is dropped then. Once a request, and before anything of it ran."""
    statement, error = request.statement, request.error
    if statement is None or error is None or request.is_bound or not statement.name or request.is_repaired:
        return False
    is_stale = error.code in ("26000", "42P05") or (error.code == "0A000" and error.routine == "RevalidateCachedQuery")
    if not is_stale:
        return False
    if statement.has_failed and not request.parses:
        request.is_unnamed = True  # the Parse it relied on failed; its caller wants its own answer
    else:
        session.statements.drop(statement, close=False)
        session.statements.close(statement.name)
    return request.sink is not None and not request.sink.done()


def _refuse_copy(session: Session, request: requests.Request, action: int) -> None:
    """A COPY that came in as a query: end it, so that the connection lives if nothing is pipelined behind it."""
    if action == Action.COPY_OUT:
        request.refusal = UsageError(
            "COPY TO STDOUT as a query: use copy_out(); it ran, and its data was thrown away", Outcome.UNKNOWN
        )
        return
    text = "COPY FROM STDIN as a query: use copy_in()"
    if len(session.inflight) > 1:
        # What follows, the server takes for a loss of synchronisation, and closes.
        refusal = UsageError(f"{text}; requests were behind it, so the connection had to be closed", Outcome.UNKNOWN)
        request.fail(refusal)
        session.lost(refusal)
        return
    request.refusal = UsageError(text, Outcome.REJECTED)
    # In the extended protocol the server has swallowed our Sync as a part of the COPY.
    sync = () if request.script[0] == octets.QUERY else (messages.Sync(),)
    session.append(messages.encode(messages.CopyFail(text), *sync))
