"""The session: one connection's conversation after the login. Requests in, bytes out; bytes in, answers out.

Requests wait in `pending` until there is room for them. They are then encoded into `out`, and wait in `inflight` for
their answers, which arrive in the same order. The script of the oldest request says which state the session is in, and
THE TABLE (`table.py`) says what each message does in that state. A session knows no sockets, tasks or clocks: the owner
of the socket calls the methods of Buffers. A session reaches a caller only through the sink of its request (`done`,
`set_result`, `set_exception`), which must not call back into the session.

Other modules read a session. They change it through its methods, each of which says what happened.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable
from enum import Enum
from typing import TYPE_CHECKING, Any, cast

from ..errors import ConnectionClosed, Outcome, PgWireError, ProtocolError, UsageError
from ..protocol import frontend, octets
from ..protocol.buffers import Buffers, ended_by
from ..protocol.server_error import SHUTDOWN_NOTICES, PgError
from ..protocol.types import TransactionStatus
from . import deadlines, extended_query, notification_queue, outcomes, table
from .request import COMMITTING_TAGS, COPY_IN, SYNC_SCRIPT, Request, Window, add_note, simple_query_request
from .statements import StatementCache, formatted
from .table import ACTIONS, NEXT_STATES, Action, State

if TYPE_CHECKING:
    from ..protocol.records import FieldDescription
    from .request import Sink, Supervisor

# The receive buffer between messages. 64 KiB to 1 MiB made no difference on bulk scans.
BUFFER_BYTES = 256 * 1024
# A server reports some fifteen settings; a stream of new names would be an attack on our memory.
MAX_SETTINGS = 1000
# When one of these settings changes, the connection means something else to every task that shares it.
RETIRING_SETTINGS = frozenset(
    {"client_encoding", "standard_conforming_strings", "session_authorization", "in_hot_standby"}
)
# SQLSTATE read_only_sql_transaction: a server that was the primary may have become a standby.
READ_ONLY = "25006"
# SQLSTATE query_canceled.
QUERY_CANCELED = "57014"
# What a server that takes writes reports, from PostgreSQL 14 on. Where it does, the transaction was read-only because
# its owner asked for that.
WRITABLE_SETTINGS = {"in_hot_standby": "off", "default_transaction_read_only": "off"}.items()
# This many encoded bytes that wait for the socket weigh as much as one request: 16 KiB, as a shift.
REQUEST_WEIGHT_SHIFT = 14
# More than any load: a session that holds requests back is chosen after all others.
HELD_BACK_LOAD = 1 << 40


class Reason(Enum):
    """Why a connection takes no more requests."""

    CLOSED = "it was closed by close()"
    SERVER_ENDS = "the server has said why it ends"
    REPLACED = "the pool has another one in its place"
    READ_ONLY = f"the server refuses to write ({READ_ONLY})"
    SETTING_CHANGED = "a setting that other requests rely on changed"
    SETTINGS_RESET = "its settings were reset"
    UNANSWERED = "the server did not answer a request that no caller waits for any more, nor stop it when asked"
    CANCEL_UNCONFIRMED = "the server did not confirm a cancel request, which may hit whatever runs here next"


class Session(Buffers):
    """One connection's conversation after the login, shared by many tasks."""

    def __init__(self, parameters: dict[str, str], statement_cache_size: int, max_in_flight: int) -> None:
        super().__init__(BUFFER_BYTES)
        self.parameters = parameters
        self.first_parameters = dict(parameters)
        self.statements = StatementCache(statement_cache_size)
        self.max_in_flight = max_in_flight
        self.encoded = 0  # bytes, ever
        self.numbers = 0  # requests encoded, ever
        self.holds = 0  # while it is not 0, nothing is encoded
        self.pending: deque[Request] = deque()
        self.inflight: deque[Request] = deque()
        self.no_request = Request(None, "", 0.0)  # the head where nothing is in flight
        self.no_request.script = bytes([State.IDLE])
        self.head = self.no_request  # the oldest request in flight
        self.window: Window | None = None
        self.groups = 0  # sync groups encoded, ever
        self.is_in_group = False  # the last encoded request was an item
        self.group: list[Request] = []  # items that wait for their ReadyForQuery
        self.is_skipping = False  # an item failed: the server answers nothing up to the next Sync
        self.foreign: outcomes.ForeignTransaction | None = None
        self.rollback: Request | None = None
        self.actions = ACTIONS
        self.next_states = NEXT_STATES
        self.state = self.head.script[0]
        self.status = table.STATUS_IDLE
        self.notifications = notification_queue.NotificationQueue()
        self.notice_handler: Callable[[PgError], None] | None = None
        self.supervisor: Supervisor | None = None
        self.answered_sinks: list[Sink] = []  # see `tell_when_answered`
        self.must_write = False  # a server that refuses to write is the wrong one
        self.slow = -1  # the number of a request that has been the oldest for some time
        self.last_words: PgError | None = None
        self.reason: Reason | None = None  # why it takes no more requests
        self.reason_text = ""
        self.is_terminated = False  # Terminate is in `out`
        self.is_closed_by_client = False

    # ---- requests in

    def submit(self, request: Request) -> None:
        """Encode the request if there is room, else keep it until there is."""
        if self.failure is not None or self.reason is not None:
            raise self.refusal()
        if not self.pending and self.window is None and not request.is_window and self.has_room():
            self.encode(request)
        else:
            self.pending.append(request)
            if request.is_window:
                self.pump()

    def submit_inside(self, window: Window, request: Request) -> None:
        """The same for a request of the window's owner."""
        if self.failure is not None or self.reason is Reason.SERVER_ENDS:
            raise self.refusal()
        if self.window is not window:
            raise UsageError(f"{window.sql} has ended: use the connection, or open another one")
        request.may_stay_open = window.has_state
        if not window.inside and self.has_room():
            self.encode(request)
        else:
            window.inside.append(request)

    def leave(self, window: Window) -> None:
        """The window has ended and all its requests are answered: requests outside it may run."""
        if self.window is window:
            self.window = None
            self._tell_answered()
            self.pump()
            if self.reason is not None and self.failure is None:
                self.finish()

    def abandon_inside(self, window: Window, name: str) -> None:
        """The owner of the window has left. Requests that were not sent fail; answers to the others are discarded."""
        for request in window.inside:
            request.fail(UsageError(f"{name} has ended before the request was sent"))
        window.inside.clear()
        for request in (*self.group, *self.inflight):
            request.fail(UsageError(f"{name} has ended before the answer came", request.outcome(self.handed)))
            request.sink = None

    def has_room(self) -> bool:
        """Whether a request may be encoded now."""
        # Items are not counted: the server need not answer one before their Sync.
        return (
            self.holds == 0
            and (len(self.inflight) < self.max_in_flight or self.is_in_group)
            and (len(self.out) < octets.HIGH_WATER_BYTES or not self.inflight)  # else no answer would ask again
        )

    def pump(self) -> None:
        """Encode waiting requests as far as there is room, and drop those that no caller waits for."""
        while self.has_room():
            queue = self.pending if self.window is None else self.window.inside
            if not queue:
                return
            request = queue[0]
            if request.sink is not None and request.sink.done() and request.script is not SYNC_SCRIPT:
                queue.popleft()  # a Sync stays, because it separates two groups
                continue
            if request.is_window and self.inflight:
                return
            queue.popleft()
            if request.is_window:
                window = cast("Window", request)
                self.window = window
                window.open()
                continue
            try:
                self.encode(request)
            except Exception as error:
                if request.sink is None or request.script is SYNC_SCRIPT:  # without it, no answer would be complete
                    raise
                request.fail(error)

    # ---- bytes out

    def encode(self, request: Request) -> None:
        """Append the request to `out`, whole or not at all, for example when memory runs out."""
        size, encoded, groups, is_in_group = len(self.out), self.encoded, self.groups, self.is_in_group
        closing, count = self.statements.closing, len(self.inflight)
        try:
            if request.parts is None:
                self._append_request(request)
            else:
                for part in request.parts:
                    self._append_request(part)
                    part.start = encoded  # the parts succeed or fail together
        except BaseException:
            del self.out[size:]
            self.encoded, self.groups, self.is_in_group = encoded, groups, is_in_group
            self.statements.not_closed(closing)
            self._take_back(request, count)
            raise

    def _append_request(self, request: Request) -> None:
        self.numbers += 1
        request.number = self.numbers
        request.start = self.encoded
        n = len(self.out)
        if request.data is None:
            extended_query.append(self.out, request, self.statements, self.groups, self.is_in_group)
        else:
            if request.is_item and self.statements.closing and not self.is_in_group:
                request.script = extended_query.close_evicted(self.out, self.statements) + request.script
            self.out += request.data
        self.inflight.append(request)
        self.encoded += len(self.out) - n
        self.is_in_group = request.is_item
        if not request.is_item:
            self.groups += 1
        if self.head is self.no_request:
            self.next_head()

    def _take_back(self, request: Request, count: int) -> None:
        """Nothing of the request is sent, so a statement that it was to parse does not exist."""
        while len(self.inflight) > count:
            self.inflight.pop()
        for part in request.parts or [request]:
            if part.statement is not None and part.statement.number == part.number:
                self.statements.drop(part.statement, close=False)
            part.reset()
        if count == 0:
            self.next_head()

    def sent(self, n: int) -> None:
        """Encode what had no room once there is some: inside a sync group, no answer need come to ask for it."""
        before = len(self.out)
        Buffers.sent(self, n)
        if len(self.out) < octets.LOW_WATER_BYTES <= before:
            self.pump()

    def append(self, data: bytes) -> None:
        """Append encoded bytes to `out`, and count them."""
        self.out += data
        self.encoded += len(data)

    # ---- COPY from the client

    @property
    def is_copying_in(self) -> bool:
        """Whether the server is waiting for data of a COPY."""
        return self.state == State.COPYING_IN

    def send_copy_data(self, data: bytes | bytearray | memoryview) -> None:
        """Append a CopyData. A memoryview is one of bytes."""
        n = len(self.out)
        frontend.copy_data(self.out, data)
        self.encoded += len(self.out) - n

    def send_copy_done(self) -> None:
        """End the data of a COPY: the server answers with its command tag."""
        from ..protocol import messages

        self.append(messages.encode(messages.CopyDone()))
        self.state = State.COPIED

    def send_copy_fail(self, reason: str) -> None:
        """Give a COPY up: the server answers with an error that quotes the `reason`."""
        from ..protocol import messages

        self.append(messages.encode(messages.CopyFail(reason.replace("\0", "")[:1000])))
        self.state = State.COPY_REFUSED

    # ---- bytes in

    def received(self, n: int) -> None:
        """Process the `n` bytes just received. Afterwards `buffer` and `tail` may have changed."""
        if self.failure is not None:
            return
        was_idle = self.head is self.no_request
        try:
            self.keep(self.take(self.tail + n), self.tail + n)
        except ProtocolError as error:
            self.lost(error)
        else:
            self.is_complete = self.head is self.no_request and not was_idle
            if self.answered_sinks and self.head is self.no_request:
                self._tell_answered()
            self.pump()
            if self.reason is not None and self.failure is None:
                self.finish()

    def take(self, end: int) -> int:
        """Handle the complete messages before `end`; returns where the first incomplete one begins."""
        p = self.buffer
        i = 0
        while end - i >= 5 and self.failure is None:
            cell = self.state * 256 + p[i]
            action = self.actions[cell]
            if action == table.ROW or action == table.DATA:
                if action == table.ROW:
                    at = self.head.take_rows(p, i, end, self.state == table.EXECUTE)
                else:
                    at = self.head.take_data(p, i, end)
                if at != i:
                    i = at
                    continue
            stop = i + 1 + octets.get_i32(p, i + 1)
            if action == 0 or stop < i + 5 or stop - i > octets.SHORT_LIMIT_BYTES:
                table.check(self.state, p[i], stop - i - 1)
            if stop > end:
                break
            if action == table.TAG:
                self.take_tag(i + 5, stop)
            elif action == table.READY or action == table.NEXT:
                if stop - i != 5 + (action == table.READY):
                    raise table.misfit(self.state, p[i], "has a body of the wrong length")
                if action == table.READY:
                    self.ready(p[i + 5])
                    i = stop
                    continue
                self.acknowledged()
            elif action == table.NOTIFICATION:
                self.notifications.arrived(octets.get_bytes(p, i + 5, stop - i - 5))
            else:
                self._take_message(action, p[i], octets.get_bytes(p, i + 5, stop - i - 5))
            self.advance(self.next_states[cell])
            i = stop
        return i

    def take_tag(self, i: int, stop: int) -> None:
        """CommandComplete: one result is whole."""
        p = self.buffer
        if stop == i or p[stop - 1] != 0:
            raise ProtocolError("CommandComplete without its final NUL")
        if octets.find_nul(p, i, stop - 1) >= 0:
            raise ProtocolError("CommandComplete with bytes after its NUL")
        tag = octets.get_text(p, i, stop - i - 1, "replace")
        request = self.head
        request.tag = tag
        if self.window is not None:
            is_empty = request.columns == octets.ANY_COUNT and request.body is None and not request.made
            if is_empty or request.columns == octets.NO_ROWS or tag != self.window.last_tag:
                self.window.saw(tag, is_empty or request.columns == octets.NO_ROWS)
        if p[i] in (65, 67, 68, 80, 86):  # the first letters of COMMITTING_TAGS, DISCARD ALL and DEALLOCATE ALL
            self._special_tag(request, tag)
        request.end_result(tag)

    def _special_tag(self, request: Request, tag: str) -> None:
        """Command tags that change more than their own result."""
        if tag in COMMITTING_TAGS:
            request.has_committed = True
        elif tag in ("DISCARD ALL", "DEALLOCATE ALL"):
            self.statements.drop_older(request.number)

    def acknowledged(self) -> None:
        """ParseComplete: the name exists, whatever becomes of the request. BindComplete: no more repairs."""
        request = self.head
        if self.state == table.BIND:
            request.is_bound = True
        elif self.state == table.PARSE and request.statement is not None:
            request.statement.is_parsed = True

    def advance(self, target: int) -> None:
        """Enter the state that THE TABLE names."""
        if target < table.STAY:
            self.state = target
        elif target != table.STAY:
            request = self.head
            request.step = request.step + 1 if target == table.STEP else len(request.script) - 1
            if request.is_item and (target == table.END or request.step == len(request.script)):
                self.end_item(target == table.END)
                return
            self.state = request.script[request.step]
            if request.consumer is not None and self.state == table.EXECUTE:
                request.consumer.header(request.fields)

    def end_item(self, has_failed: bool) -> None:
        """An item is answered. Whether it has succeeded is known at ReadyForQuery."""
        self.group.append(self.inflight.popleft())
        self.is_skipping = has_failed
        self.next_head()

    def next_head(self) -> None:
        """The oldest request in flight is answered next; after a failed item, the request that ends its group."""
        while self.is_skipping and self.inflight and self.inflight[0].is_item:
            self._skip(self.inflight[0])
            self.group.append(self.inflight.popleft())
        self.head = self.inflight[0] if self.inflight else self.no_request
        if self.is_skipping and self.inflight:
            self._skip(self.head)
            self.head.step = len(self.head.script) - 1
        self.state = self.head.script[self.head.step]

    def _skip(self, request: Request) -> None:
        """The server skips the request, so a statement that it was to parse does not exist."""
        request.is_skipped = True
        statement = request.statement
        if statement is not None and request.parses and not statement.is_parsed:
            self.statements.drop(statement, close=False)

    def ready(self, status: int) -> None:
        """ReadyForQuery: the oldest request is answered."""
        if status != table.STATUS_IDLE:
            table.check_status(status)
        request = self.inflight.popleft()
        self.is_skipping = False
        self.next_head()
        self.status = status
        if (
            status != table.STATUS_IDLE
            or request.error is not None
            or self.foreign is not None
            or self.group
            or request.unit is not None
            or request.sink is None
            or request.refusal is not None
        ):
            self._settle(request, status)
        elif not request.sink.done():
            request.sink.set_result(request.answer())

    # ---- messages that are not hot

    def _take_message(self, action: int, tag: int, body: bytes) -> None:
        """Handle a message that is decoded whole, by its description."""
        from ..protocol import messages

        message: Any = messages.decode_backend(tag, body)
        if action == Action.NOTICE:
            notice = PgError(message.fields)
            if notice.code in SHUTDOWN_NOTICES:
                self.last_words = self.last_words or notice
            if self.notice_handler is not None:
                self.notice_handler(notice)
        elif action == Action.PARAMETER:
            self._take_setting(message.name, message.value)
        elif action == Action.LAST_WORDS:
            self._take_last_words(PgError(message.fields))
        elif action != Action.SKIP:
            self._take_answer(action, self.head, message)

    def _take_setting(self, name: str, value: str) -> None:
        """ParameterStatus."""
        parameters = self.parameters
        if name not in parameters and len(parameters) >= MAX_SETTINGS:
            raise ProtocolError(f"the server reports more than {MAX_SETTINGS} parameters")
        # A window with state is reset when it ends, and `check_settings` looks then.
        in_window = self.window is not None and self.window.has_state
        if name in RETIRING_SETTINGS and parameters.get(name, value) != value and not in_window:
            self.retire(Reason.SETTING_CHANGED, f"{name} changed from {parameters[name]!r} to {value!r}")
        parameters[name] = value

    def _take_last_words(self, error: PgError) -> None:
        """An error that answers no request: the server is about to close, so what is sent now would be lost."""
        if self.last_words is None:
            self.last_words = error
        else:
            add_note(self.last_words, error)
        if error.is_fatal and self.reason is None:
            self.retire(Reason.SERVER_ENDS)

    def _take_answer(self, action: int, request: Request, message: Any) -> None:
        if action == Action.DESCRIBE_PARAMETERS:
            request.param_oids = message.param_oids
        elif action == Action.DESCRIBE_FIELDS:
            if self.state == State.STATEMENT_ROWS:
                request.end_result("")
            self._describe(request, message.fields, len(message.fields))
        elif action == Action.NO_FIELDS:
            self._describe(request, (), octets.NO_ROWS)
        elif action in (Action.EMPTY, Action.SUSPENDED):
            request.end_result("")
        elif action == Action.FAIL:
            self._fail(request, PgError(message.fields, Outcome.REJECTED, request.sql or None))
        elif action == Action.COPY_HEADER:
            if request.sink is None or request.sink.done():
                self._give_up_copy(request)
            else:
                assert request.consumer is not None  # a COPY of the verbs has one
                request.consumer.header(message)
        else:
            self._refuse_copy(request, action)

    def _describe(self, request: Request, fields: tuple[FieldDescription, ...], columns: int) -> None:
        """The columns of what follows. Describe of a statement always says text; of a portal, what was asked for."""
        if request.columns != octets.ANY_COUNT:
            request.columns = columns
        statement = request.statement
        if statement is not None and request.parses and not request.is_bound:
            statement.describe(request.param_oids, fields, columns)
            fields = formatted(fields, request.result_formats)
        request.fields = fields

    def _fail(self, request: Request, error: PgError) -> None:
        """ErrorResponse: the request fails at its ReadyForQuery, with the first error it got."""
        if error.is_fatal:
            self.last_words = self.last_words or error
        if request.error is not None:
            add_note(request.error, error)
            return
        request.error = error
        error.partial = request.results or []
        statement = request.statement
        if statement is not None and request.parses and not statement.is_described and not request.is_bound:
            statement.has_failed = not statement.is_parsed
            self.statements.drop(statement, close=statement.is_parsed)

    def _give_up_copy(self, request: Request) -> None:
        """A COPY begins that no caller waits for. The server has consumed the Syncs sent after it: send them again."""
        from ..protocol import messages

        if request.script == COPY_IN:
            text = "the client has given up"
            self.append(messages.encode(messages.CopyFail(text), *[messages.Sync()] * (len(self.inflight) - 1)))

    def _refuse_copy(self, request: Request, action: int) -> None:
        """A COPY was sent as a query. End it, so that the connection lives if nothing was pipelined after it."""
        from ..protocol import messages

        if action == Action.COPY_OUT:
            request.refusal = UsageError(
                "COPY TO STDOUT as a query: use copy_out(); it ran, and its data was thrown away", Outcome.UNKNOWN
            )
            return
        text = "COPY FROM STDIN as a query: use copy_in()"
        if len(self.inflight) > 1 or request.is_item:
            # The server takes what follows for a loss of synchronisation, and closes.
            refusal = UsageError(f"{text}; requests followed it, so the connection had to be closed", Outcome.UNKNOWN)
            request.fail(refusal)
            self.lost(refusal)
            return
        request.refusal = UsageError(text, Outcome.REJECTED)
        # In the extended protocol the server has consumed our Sync as a part of the COPY, unless that failed
        # before it read any data: then it answers the Sync, too. Its answer to Close tells.
        resync = (messages.Sync(), messages.Close("P", ""), messages.Sync()) if self.state == State.EXECUTE else ()
        self.append(messages.encode(messages.CopyFail(text), *resync))

    # ---- requests end

    def _settle(self, request: Request, status: int) -> None:
        """ReadyForQuery has come for `request` and the items of its sync group, and something is not plain success."""
        group, self.group = self.group, []
        is_idle = status == table.STATUS_IDLE
        if request.releases_hold:
            self.holds -= 1
        if self.must_write and self.reason is None and self._refuses_to_write((*group, request)):
            self.retire(Reason.READ_ONLY)
        if request is self.rollback and not is_idle:
            if request.error is None or request.error.code != QUERY_CANCELED:
                raise ProtocolError("the server kept a transaction open after ROLLBACK")
            self._roll_back()  # a cancel request meant for an earlier statement has hit the ROLLBACK
            return
        if self.foreign is None and not is_idle and not request.may_stay_open:
            self.foreign = outcomes.ForeignTransaction(request.sql)
            self._roll_back()
        if self.foreign is not None:
            for each in (*group, request):
                self.foreign.withhold(each)
            if is_idle:
                self.foreign.settle(request.tag)
                self.foreign = None
        elif request.unit is not None:
            request.unit.settle(self, request, group)
        elif group:
            outcomes.end_group(self.statements, group, request)
        elif not (outcomes.drop_stale(self.statements, request) and self.send_again(request, request)):
            outcomes.end(request)

    def _refuses_to_write(self, members: Iterable[Request]) -> bool:
        """Whether the server itself is read-only. Its reports come after the error and before ReadyForQuery."""
        is_refused = any(member.error is not None and member.error.code == READ_ONLY for member in members)
        return is_refused and not self.parameters.items() >= WRITABLE_SETTINGS

    def _roll_back(self) -> None:
        """Send ROLLBACK after all that is encoded already. Nothing else is sent until it is answered."""
        self.hold()
        self.rollback = simple_query_request(None, "ROLLBACK", 0.0)
        self.rollback.releases_hold = True
        self.encode(self.rollback)

    def send_again(self, query: Request, whole: Request) -> bool:
        """Queue `whole`, to which `query` belongs, once more if a caller still waits. Returns whether it did."""
        if self.status != table.STATUS_IDLE or query.is_repaired or query.sink is None or query.sink.done():
            return False
        query.again()
        whole.is_repaired = True
        # Before all that was never sent, and after earlier repairs.
        queue = self.pending if self.window is None else self.window.inside
        queue.insert(sum(waiting.is_repaired for waiting in queue), whole)
        return True

    # ---- deadlines and cancelling

    def waiting(self) -> list[Request]:
        """All requests that are not answered yet, oldest first."""
        withheld = self.foreign.withheld if self.foreign is not None else []
        inside = self.window.inside if self.window is not None else []
        return [*withheld, *self.group, *self.inflight, *inside, *self.pending]

    def expire(self, now: float) -> float:
        """Fail overdue requests, and drop those that no caller waits for. Returns the next deadline, 0 for none."""
        waiting = self.waiting()
        holder = self.window.sql if self.window is not None else ""
        following = deadlines.expire(waiting, len(waiting) - len(self.pending), now, self.encoded, holder)
        self.pending = deque([r for r in self.pending if r.sink is None or not r.sink.done()])
        self.pump()  # a window that gave up was in the way of others
        return following

    def sole(self) -> Request | None:
        """The request that is the only one unanswered, so that cancelling it affects no other; of a unit, its query."""
        return deadlines.sole(self.inflight)

    def hold_for_cancel(self, request: Request) -> Request:
        """No caller waits for the sole request: encode nothing until it is answered and `release` was called.

        Returns the request whose answer ends it.
        """
        request.sink = None
        last = self.inflight[len(self.inflight) - 1]  # compiled, an index counts from the front only
        last.releases_hold = True
        self.holds += 1
        self.hold()
        return last

    def tell_when_answered(self, sink: Sink) -> None:
        """Set `sink` when next all encoded requests are answered, a window is left, or the connection has ended."""
        self.answered_sinks.append(sink)

    def _tell_answered(self) -> None:
        sinks, self.answered_sinks = self.answered_sinks, []
        for sink in sinks:
            if not sink.done():
                sink.set_result(None)

    def hold(self) -> None:
        """Encode nothing until `release` is called."""
        self.holds += 1

    def release(self) -> None:
        """End one `hold`: the cancel connection has ended."""
        self.holds -= 1
        self.pump()

    def mark_slow(self) -> None:
        """The oldest request has been so for some time: a pool prefers other connections."""
        self.slow = self.head.number

    # ---- settings of the connection's owner

    @property
    def transaction_status(self) -> TransactionStatus:
        """As of the last ReadyForQuery."""
        return TransactionStatus(chr(self.status))

    @property
    def takes_requests(self) -> bool:
        """Whether a request can be submitted."""
        return self.failure is None and self.reason is None

    def supervise(self, supervisor: Supervisor) -> None:
        """A pool has taken the connection: tell it of its end, and offer it the requests that were never sent."""
        self.supervisor = supervisor

    def require_writes(self) -> None:
        """Retire the connection once its server refuses to write."""
        self.must_write = True

    def handle_notices(self, handler: Callable[[PgError], None] | None) -> None:
        """Call `handler` with each notice, which must not call back into the session."""
        self.notice_handler = handler

    def deliver_notifications(self, queue: notification_queue.NotificationQueue) -> None:
        """Put notifications into another queue."""
        self.notifications = queue

    def check_settings(self) -> None:
        """After the reset of a window: retire if a setting that others rely on is not what it was at the login."""
        for name in RETIRING_SETTINGS & self.parameters.keys():
            value = self.parameters[name]
            if self.first_parameters.get(name, value) != value:
                self.retire(Reason.SETTING_CHANGED, f"{name} was left at {value!r}")

    # ---- the end

    def drain(self, reason: Reason) -> None:
        """Take no more requests, and answer those that were submitted. The supervisor is not told by this."""
        self.reason, self.reason_text = reason, reason.value

    def retire(self, reason: Reason, text: str = "") -> None:
        """Take no more requests, and answer those that were encoded. The others move to another connection, or fail.

        `text` says more than the reason does.
        """
        self.reason, self.reason_text = reason, text or reason.value
        pending, self.pending = self.pending, deque()
        self._tell(pending, self.refusal())

    def closed_by_client(self) -> None:
        """The client ends the connection on purpose: the error for those who wait says so."""
        self.is_closed_by_client = True

    def finish(self) -> None:
        """Send Terminate once all is answered, and the server closes. One that has said why it ends, closes anyway."""
        is_over = not self.inflight and not self.pending and self.window is None
        if is_over and not self.is_terminated and self.reason is not Reason.SERVER_ENDS:
            from ..protocol import messages

            self.is_terminated = True
            self.append(messages.encode(messages.Terminate()))

    def lost(self, cause: BaseException | None) -> None:
        """The connection has ended: fail all requests, each with what is known of its outcome."""
        if self.failure is not None:
            return
        self.failure = error = self._failure(cause)
        waiting = self.waiting()
        self.foreign = None
        self.group = []
        self.pending.clear()
        self.inflight.clear()
        if self.window is not None:
            self.window.inside.clear()
        self.out = bytearray()
        self.notifications.wake()
        self._tell_answered()
        self._tell(waiting, error)

    def refusal(self) -> PgWireError:
        """The error that says why no further request is taken."""
        if self.failure is not None:
            return self.failure.with_outcome(Outcome.NOT_SENT)
        if self.reason is Reason.SERVER_ENDS:
            return self._failure(None).with_outcome(Outcome.NOT_SENT)
        return ConnectionClosed(
            f"the connection takes no more requests: {self.reason_text}; connect again", Outcome.NOT_SENT
        )

    def _failure(self, cause: BaseException | None) -> PgWireError:
        """The error for all who wait. The server's last words explain more than how the socket failed."""
        if isinstance(cause, ProtocolError):
            return cause
        is_own = self.is_terminated or self.is_closed_by_client or self.reason is Reason.UNANSWERED
        if is_own and self.reason is not Reason.SERVER_ENDS:
            error = ConnectionClosed(f"the connection was closed: {self.reason_text or 'by abort()'}")
            error.__cause__ = cause
            return error
        return ended_by(cause, self.last_words)

    def tell_supervisor(self) -> None:
        """Tell the pool, if there is one, that this connection is of no more use to it."""
        if self.supervisor is not None:
            self.supervisor.ended()

    def _tell(self, waiting: Collection[Request], error: PgWireError) -> None:
        """No more answers come for `waiting`. A request of which nothing was sent may move; the others fail."""
        self.tell_supervisor()
        for request in waiting:
            outcome = request.outcome(self.handed)
            if outcome is not Outcome.NOT_SENT or not self._move(request, waiting):
                request.fail(error.with_outcome(outcome))

    def _move(self, request: Request, waiting: Collection[Request]) -> bool:
        """Let another connection take the request, once. Returns whether one does. A unit moves with its query."""
        unit = request.unit
        if unit is not None and request is not unit.query:
            return unit.query in waiting  # else a server has answered what was not sent: the unit cannot move
        whole = request if unit is None else unit.whole
        if self.supervisor is None or not whole.may_move or whole.sink is None or whole.sink.done():
            return False
        whole.may_move = False
        request.reset()
        if unit is not None:
            unit.compose()
        return self.supervisor.unsent(whole)


def choose(sessions: list[Session]) -> int:
    """The index of the session with the least to do, the first of several equals. `sessions` is not empty.

    A session that is held up, by a slow request or by a window, is chosen only if all are.
    """
    best = -1
    least = 0
    for i in range(len(sessions)):
        session = sessions[i]
        load = len(session.inflight) + len(session.pending) + (len(session.out) >> REQUEST_WEIGHT_SHIFT)
        if session.head.number == session.slow or session.holds or session.window is not None:
            load += HELD_BACK_LOAD
        if best < 0 or load < least:
            best, least = i, load
    return best
