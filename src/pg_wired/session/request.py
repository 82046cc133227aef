"""One request, from the call to its ReadyForQuery: what it asks and what the server has answered. It sends nothing.

The script of a request lists the states that its answers pass through (`table.py`). A window is a request too: when it
reaches the head of the queue, it opens, and only the requests of its owner are sent until it ends.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from ..errors import ConfigError, Outcome, PipelineAborted, ProtocolError, UsageError
from ..protocol import backend, frontend, octets, rows
from ..protocol.octets import LONG_LIMIT_BYTES
from ..protocol.rows import Rows
from ..protocol.server_error import PgError
from ..protocol.types import Oid, Row, Value
from . import statements, table
from .table import ANSWERS, State

if TYPE_CHECKING:
    from ..protocol.records import FieldDescription

ALL_TEXT = frontend.ALL_TEXT
EMPTY: list[Row] = []  # shared by all requests: never append to it
SYNC = frontend.SYNC
SYNC_SCRIPT = bytes([State.SYNC])
COPY_IN = bytes([State.COPY_IN_QUERY, State.SYNC])
COPY_OUT = bytes([State.COPY_OUT_QUERY, State.SYNC])
DESCRIPTION = bytes([State.PARSE, State.PARAMETERS, State.FIELDS, State.SYNC])
SIMPLE = bytes([State.QUERY, State.SYNC])
# Tags of commands that have committed even if a later one of their group fails: PreventInTransactionBlock() makes a
# command commit at once. The tags of CALL, DO and CONCURRENTLY commands do not show it (docs/queries.md).
COMMITTING_TAGS = frozenset(["COMMIT", "PREPARE TRANSACTION", "VACUUM", "ALTER SYSTEM"]) | frozenset(
    f"{verb} {kind}" for verb in ("CREATE", "DROP") for kind in ("DATABASE", "TABLESPACE")
)
# A server that ends the session adds an error or two to the one it failed with. At most this many are kept as notes.
MAX_NOTES = 10
_ONE_REQUEST = "pass one Query, or extended messages that end in their one Sync"


if TYPE_CHECKING:  # making a Protocol takes longer than loading the rest of this module

    class Sink(Protocol):
        """Receives an answer: an asyncio future, or an object like one. It must not call back into the session."""

        def done(self) -> bool: ...
        def set_result(self, result: Any, /) -> None: ...
        def set_exception(self, exception: Any, /) -> None: ...
        def exception(self) -> Any: ...

    class Consumer(Protocol):
        """Receives the parts of an answer as they arrive: rows, or the data of a COPY.

        `header` takes the columns or the COPY response, `take` a part and its size in bytes. Like a sink, it must not
        call back into the session.
        """

        def header(self, header: Any, /) -> None: ...
        def take(self, part: Any, n: int, /) -> None: ...

    class Unit(Protocol):
        """Several sync groups that are sent as one request, such as a transaction.

        `query` is the part that the caller waits for; `whole` is the request that holds all parts.
        """

        query: Request
        whole: Request

        def settle(self, session: Any, part: Request, group: list[Request]) -> None: ...
        def compose(self) -> None: ...

    class Supervisor(Protocol):
        """Manages several connections and receives reports from each.

        It may call into other sessions, but not into the one that reports.
        """

        def ended(self) -> None:
            """The connection takes no more requests. Called before any caller gets its error, possibly repeatedly."""

        def unsent(self, request: Request, /) -> bool:
            """Take over a request of which no byte was sent. Returns whether the supervisor took it."""


class Request:
    """One request to the server, which belongs to one sync group.

    `sink` receives the answer; without one there is no caller, and the answer is discarded. `sql` is the statement, or
    text that names the request in errors. `deadline` is in seconds on the loop's clock, 0 for none.
    """

    def __init__(self, sink: Sink | None, sql: str, deadline: float) -> None:
        self.sink = sink
        self.sql = sql
        self.deadline = deadline
        # What is sent: `data`, or one extended query.
        self.data: bytes | None = None
        self.params: tuple[bytes | None, ...] = ()
        self.oids: tuple[Oid, ...] = ()
        self.param_formats = ALL_TEXT
        self.result_formats = ALL_TEXT
        self.is_unnamed = False
        self.consumer: Consumer | None = None
        self.parts: list[Request] | None = None  # of a unit such as a transaction; they are encoded together
        self.unit: Unit | None = None
        self.is_window = False
        self.is_item = False  # one of several in a sync group: a later request brings the Sync
        self.may_stay_open = False  # it may leave a transaction open
        self.releases_hold = False  # nothing else is encoded until this request is answered
        self.may_move = False  # to another connection, once, if this one ends before a byte of the request is sent
        # How it was encoded.
        self.number = 0
        self.is_skipped = False
        self.start = octets.NEVER  # offset of its first byte, counted over everything that the session has encoded
        self.statement: statements.Statement | None = None
        self.parses = False
        self.script = b""
        self.step = 0
        # What the server has answered.
        self.columns = octets.NO_ROWS
        self.param_oids: tuple[Oid, ...] = ()
        self.fields: tuple[FieldDescription, ...] = ()
        self.made: list[Row] = EMPTY  # the rows, if the whole result arrived in one piece; otherwise `body` has them
        self.body: rows.RowBody | None = None
        self.result: Rows | None = None
        self.results: list[Rows] | None = None
        self.tag = ""
        self.error: PgError | None = None
        self.refusal: UsageError | None = None
        self.is_description = False
        self.discards = False
        self.is_bound = False
        self.is_repaired = False
        self.has_committed = False

    def become_item(self) -> None:
        """Make the request one of several in a sync group: a later request brings the Sync."""
        self.is_item = True

    def deliver_to(self, consumer: Consumer) -> None:
        """Pass the parts of the answer to `consumer` as they arrive."""
        self.consumer = consumer

    def allow_move(self) -> None:
        """Allow the request to move to another connection, once, if this one ends before a byte of it is sent."""
        self.may_move = True

    @property
    def is_awaited(self) -> bool:
        """Whether a caller waits for the request, and it is neither a unit nor part of one."""
        return self.unit is None and self.parts is None and self.sink is not None and not self.sink.done()

    def take_rows(self, p: bytearray, i: int, end: int, is_query: bool) -> int:
        """Take the DataRow messages that begin at `i`, and return where the last complete one ends.

        Rows that no caller waits for are discarded. `is_query` is False for the rows of a statement that follows a COPY
        or runs in its place: a consumer does not get them. Raises ProtocolError for a malformed row.
        """
        self.look_for_reader()
        at = backend.check(p, i, end, self.columns)
        if at == i or self.discards:
            return at
        if self.consumer is not None:
            if is_query:
                self.body = rows.RowBody()
                self.body.append(p, i, at)
                self.consumer.take(self.body, at - i)
                self.body = None
        elif self.body is None and (self.made or (at < end and p[at] != 68)):
            # The whole result has arrived, so it is small: make its rows now.
            if not self.made:
                self.made = []
            backend.make(p, i, at, end, self.made)
        else:
            if self.body is None:
                self.body = rows.RowBody()
            self.body.append(p, i, at)
        return at

    def take_data(self, p: bytearray, i: int, end: int) -> int:
        """Take the CopyData messages that begin at `i` as one piece, and return where the last complete one ends."""
        self.look_for_reader()
        data = bytearray()
        at = backend.data(p, i, end, data)
        if self.consumer is not None and data and not self.discards:
            self.consumer.take(bytes(data), len(data))
        return at

    def look_for_reader(self) -> None:
        """Once a part of the answer has arrived, discard the rest if no caller waits for it any more."""
        if self.body is None and self.consumer is None and not self.made:
            return
        if self.sink is None or self.sink.done():
            self.discards = True
            self.made = EMPTY
            self.body = None

    def end_result(self, tag: str) -> None:
        """Make the Rows of the statement that has just ended, if there is a caller."""
        if self.sink is not None:
            self.result = Rows(self.fields, self.made, tag, self.body)
            if self.results is not None:
                self.results.append(self.result)
        self.made = EMPTY
        self.body = None
        if self.script[0] == table.QUERY:
            self.fields = ()
            self.columns = octets.NO_ROWS

    def answer(self) -> Any:
        """The value that the caller gets if the request succeeded: Rows, a list of them, or a StatementDescription."""
        if self.results is not None:
            return self.results
        if self.is_description:
            from ..protocol.records import StatementDescription

            return StatementDescription(self.param_oids, self.fields)
        return self.result if self.result is not None else Rows((), EMPTY, "")

    def fail(self, error: Exception) -> None:
        """Raise `error` for the caller, if it still waits."""
        if self.sink is not None and not self.sink.done():
            self.sink.set_exception(error)
            if self.is_item and isinstance(error, (PipelineAborted, UsageError)):
                self.sink.exception()  # mark it as retrieved: another item or the end of the pipeline raises the cause

    def again(self) -> None:
        """It is sent once more, as a repair."""
        self.reset()
        self.is_repaired = True

    def reset(self) -> None:
        """Back to what it was before it was encoded, to be encoded again: on this connection, or on another one."""
        self.statement = None
        self.parses = False
        self.start = octets.NEVER
        self.number = 0
        self.step = 0
        self.is_skipped = False
        self.is_bound = False
        self.has_committed = False
        self.error = None
        self.refusal = None
        self.tag = ""
        self.made = EMPTY
        self.body = None
        self.result = None
        if self.results is not None:
            self.results = []
        if self.data is None:
            self.columns = octets.NO_ROWS
            self.fields = ()
            self.param_oids = ()

    def outcome(self, handed: int) -> Outcome:
        """The Outcome if the request fails now; the socket has taken `handed` bytes of the session so far."""
        if handed > self.start:
            return Outcome.UNKNOWN
        return Outcome.REJECTED if self.is_repaired else Outcome.NOT_SENT


class Window(Request):
    """A period in which only the requests of one owner are sent on a shared connection.

    It waits in the queue like any other request. When it opens, its sink receives the window, and only the requests in
    `inside` are encoded. `name` names it in errors. With `has_state`, its requests may leave a transaction open.
    """

    def __init__(self, sink: Sink, name: str, deadline: float, has_state: bool) -> None:
        super().__init__(sink, name, deadline)
        self.is_window = True
        self.has_state = has_state
        self.parameters: dict[str, str] = {}  # the server's settings when the owner entered
        self.owner: object = None  # the task that uses the window
        self.last_tag = ""  # of the last result with rows: the same tag again need not be noted
        self.tags: set[str] = set()  # the command tags seen inside, without their numbers
        self.inside: deque[Request] = deque()

    def open(self) -> None:
        """Open the window: hand it to the owner through the sink."""
        if self.sink is not None:
            self.sink.set_result(self)

    def entered(self, owner: object, parameters: dict[str, str]) -> None:
        """Note that the task `owner` has entered, and keep a copy of the server's current settings, `parameters`."""
        self.owner = owner
        self.parameters = dict(parameters)

    def owner_left(self, owner: object) -> None:
        """Note that the task inside has left. `owner` is the task of the enclosing block, if there is one."""
        self.owner = owner

    def saw(self, tag: str, is_without_rows: bool) -> None:
        """Note the command tag of a statement that may have changed the session.

        SELECT INTO and CREATE TABLE AS have the tag of SELECT, but return no rows (`is_without_rows`).
        """
        if not is_without_rows:
            self.last_tag = tag
        kind = tag.rstrip("0123456789 ")
        self.tags.add("SELECT INTO" if kind == "SELECT" and is_without_rows else kind)


def add_note(first: PgError, further: PgError) -> None:
    """Add a further error to the first one as a note: a pooler may send its own error after that of the server."""
    if len(getattr(first, "__notes__", ())) < MAX_NOTES:
        first.add_note(f"then: {further}")


# Each of these functions raises TypeError or ConfigError for invalid arguments, before anything is sent.


def query_request(
    sink: Sink,
    sql: str,
    params: Sequence[Value],
    param_oids: Sequence[Oid],
    param_formats: int | Sequence[int],
    result_formats: int | Sequence[int],
    deadline: float,
) -> Request:
    """An extended query. The answer is its Rows."""
    request = Request(sink, frontend.text(sql, "sql"), deadline)
    request.params = frontend.values(params)
    if param_oids:
        request.oids = frontend.oids(param_oids)
    if param_formats != 0:
        request.param_formats = frontend.formats(param_formats, "param_formats")
        frontend.check_count(request.param_formats, len(request.params), "param_formats")
    if result_formats != 0:
        request.result_formats = frontend.formats(result_formats, "result_formats")
    return request


def simple_query_request(sink: Sink | None, sql: str, deadline: float) -> Request:
    """A simple Query. The answer is a list with the Rows of each statement."""
    request = Request(sink, frontend.text(sql, "sql"), deadline)
    request.results = []
    request.data = frontend.query(request.sql)
    request.script = SIMPLE
    return request


def describe_request(sink: Sink, sql: str, param_oids: Sequence[Oid], deadline: float) -> Request:
    """Parse and Describe of an unnamed statement. The answer is a StatementDescription."""
    request = Request(sink, frontend.text(sql, "sql"), deadline)
    from ..protocol import messages

    request.is_description = True
    request.data = messages.encode(
        messages.Parse("", sql, frontend.oids(param_oids)), messages.Describe("S", ""), messages.Sync()
    )
    request.script = DESCRIPTION
    return request


def described_item(sink: Sink, sql: str, param_oids: Sequence[Oid]) -> Request:
    """The same as `describe_request`, as an item of a sync group: without a Sync and without a deadline."""
    request = describe_request(sink, sql, param_oids, 0.0)
    assert request.data is not None
    request.data = request.data[: len(request.data) - len(SYNC)]
    request.script = request.script[: len(request.script) - 1]
    return request


def encoded_request(
    sink: Sink, data: bytes, drain: bool, deadline: float, fields: tuple[FieldDescription, ...] = ()
) -> Request:
    """A request that the caller has encoded. The answer is the last of its results, as in libpq's PQexec.

    With `drain` the rows are discarded. `fields` are the columns, if an earlier Describe has returned them. Raises
    ConfigError if `data` is not exactly one request.
    """
    request = Request(sink, "", deadline)
    request.script = script_of(data)
    request.data = data
    request.discards = drain
    request.fields = fields
    if request.script != SIMPLE:  # only the caller knows which portal a Describe was for: accept any row width
        request.columns = octets.ANY_COUNT
    return request


def sync_request(sink: Sink | None, deadline: float = 0.0) -> Request:
    """A Sync, which ends the open sync group. It is answered after all earlier requests."""
    request = Request(sink, "Sync", deadline)
    request.data, request.script = SYNC, SYNC_SCRIPT
    return request


def failing_item() -> Request:
    """An item that always fails, so that its sync group is rolled back: Execute of a portal that does not exist."""
    from ..protocol import messages

    request = Request(None, "", 0.0)
    request.data = messages.encode(messages.Execute("pg_wired: never synced"))
    request.script = bytes([State.EXECUTE])
    request.is_item = True
    return request


def copy_request(sink: Sink, sql: str, consumer: Consumer, states: bytes, deadline: float) -> Request:
    """A COPY, sent as a simple Query. `states` is COPY_IN or COPY_OUT; `consumer` receives the header and the data."""
    request = simple_query_request(sink, sql, deadline)
    request.script, request.consumer = states, consumer
    return request


def script_of(data: bytes) -> bytes:
    """The script of encoded messages: the states that their answers pass through.

    Raises ConfigError if `data` is not exactly one complete, valid request.
    """
    from ..protocol import messages

    states: list[int] = []
    letters = ""
    i = 0
    while i < len(data):
        n = octets.get_i32(data, i + 1) if len(data) - i >= 5 else 0
        if n < 4 or n > LONG_LIMIT_BYTES or i + 1 + n > len(data):
            raise ConfigError(f"the message at byte {i} is cut off or has a wrong length: {_ONE_REQUEST}")
        letter = chr(data[i])
        body = data[i + 5 : i + 1 + n]
        answer = letter + chr(body[0]) if letter == "D" and body else letter
        if answer not in ANSWERS:
            raise ConfigError(f"message {letter!r} at byte {i} cannot be part of a shared request: {_ONE_REQUEST}")
        try:
            messages.decode_frontend(data[i], body)
        except ProtocolError as error:
            raise ConfigError(f"the message at byte {i}: {error}") from error
        states += ANSWERS[answer]
        letters += letter
        i += 1 + n
    if letters != "Q" and ("Q" in letters or letters.count("S") != 1 or letters[len(letters) - 1] != "S"):
        raise ConfigError(f"messages {letters!r} are not one request: {_ONE_REQUEST}")
    return bytes(states)
