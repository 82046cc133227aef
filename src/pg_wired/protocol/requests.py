"""One request, from the call until its ReadyForQuery: what is asked, and what has come. It sends nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from ..error import Outcome, PgError, PgWireError, PipelineAborted, UsageError
from . import backend, frontend, octets, rows, statements
from .rows import Rows
from .types import Oid, Row, State, Value

if TYPE_CHECKING:
    from .records import FieldDescription

ALL_TEXT = frontend.ALL_TEXT
EMPTY: list[Row] = []  # shared, so nothing is ever put into it
SYNC = frontend.SYNC
SYNC_SCRIPT = bytes([State.SYNC])
COPY_IN = bytes([State.COPY_IN_QUERY, State.SYNC])
COPY_OUT = bytes([State.COPY_OUT_QUERY, State.SYNC])
DESCRIPTION = bytes([State.PARSE, State.PARAMETERS, State.FIELDS, State.SYNC])
SIMPLE = bytes([State.QUERY, State.SYNC])


if TYPE_CHECKING:  # a Protocol takes longer to make than the rest of this module to load

    class Sink(Protocol):
        """Where an answer goes: an asyncio future, or anything like it. It must not call back into the session."""

        def done(self) -> bool: ...
        def set_result(self, result: Any, /) -> None: ...
        def set_exception(self, exception: Any, /) -> None: ...
        def exception(self) -> Any: ...

    class Taker(Protocol):
        """Where the parts of an answer go as they come: rows, or the data of a COPY. As silent as a sink."""

        def header(self, header: Any, /) -> None: ...
        def take(self, part: Any, n: int, /) -> None: ...

    class Unit(Protocol):
        """What decides when the parts of a request are answered; `query` is the one somebody waits for."""

        query: Request
        whole: Request

        def settle(self, session: Any, part: Request, group: list[Request]) -> None: ...
        def compose(self) -> None: ...

    class Keeper(Protocol):
        """Who keeps several connections, and hears from each; it may call into other sessions, not into this one."""

        def ended(self) -> None:
            """It takes no more requests. Said before anybody who waits is told, and perhaps more than once."""

        def unsent(self, request: Request, /) -> bool:
            """Take over a request of which nothing has left. Says whether that is done."""


class Request:
    """A request of one sync group. `deadline` is on the owner's clock, 0 means none; without a sink it is nobody's."""

    def __init__(self, sink: Sink | None, sql: str, deadline: float) -> None:
        self.sink = sink
        self.sql = sql
        self.deadline = deadline
        # what is asked: `data`, or one query
        self.data: bytes | None = None
        self.params: tuple[bytes | None, ...] = ()
        self.oids: tuple[Oid, ...] = ()
        self.param_formats = ALL_TEXT
        self.result_formats = ALL_TEXT
        self.is_unnamed = False
        self.taker: Taker | None = None
        self.parts: list[Request] | None = None  # of a unit, which is encoded as a whole
        self.unit: Unit | None = None
        self.is_window = False
        self.is_item = False  # one of a sync group that goes on behind it
        self.may_stay_open = False  # the transaction, behind it
        self.holds = False  # back what comes behind it, until it is answered
        self.may_move = False  # to another connection, once, if this one ends before anything of it has left
        # how it was encoded
        self.number = 0
        self.is_skipped = False
        self.begin = octets.NEVER
        self.statement: statements.Statement | None = None
        self.parses = False
        self.script = b""
        self.step = 0
        # what has come
        self.columns = octets.NO_ROWS
        self.param_oids: tuple[Oid, ...] = ()
        self.fields: tuple[FieldDescription, ...] = ()
        self.made: list[Row] = EMPTY  # made at once, where all of a result came in one piece; else ...
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

    @property
    def is_awaited(self) -> bool:
        """Whether it stands for itself, and somebody waits for it."""
        return self.unit is None and self.parts is None and self.sink is not None and not self.sink.done()

    def take_rows(self, p: bytearray, i: int, end: int, is_query: bool) -> int:
        """Take the run of DataRow at `i`, thrown away as it comes where nobody waits for it; returns where it ends.

        What follows a COPY, or stands in its place, is no query: its rows are not for a taker.
        """
        self.look_for_reader()
        at = backend.check(p, i, end, self.columns)
        if at == i or self.discards:
            return at
        if self.taker is not None:
            if is_query:
                self.body = rows.RowBody()
                self.body.append(p, i, at)
                self.taker.take(self.body, at - i)
                self.body = None
        elif self.body is None and (self.made or (at < end and p[at] != 68)):
            # All of it is here: few rows, which are made at once.
            if not self.made:
                self.made = []
            backend.make(p, i, at, end, self.made)
        else:
            if self.body is None:
                self.body = rows.RowBody()
            self.body.append(p, i, at)
        return at

    def take_data(self, p: bytearray, i: int, end: int) -> int:
        """Take the run of CopyData at `i`, as one piece; returns where it ends."""
        self.look_for_reader()
        data = bytearray()
        at = backend.data(p, i, end, data)
        if self.taker is not None and data and not self.discards:
            self.taker.take(bytes(data), len(data))
        return at

    def look_for_reader(self) -> None:
        """Behind the first part of an answer: throw away what comes if nobody waits for it any more."""
        if self.body is None and self.taker is None and not self.made:
            return
        if self.sink is None or self.sink.done():
            self.discards = True
            self.made = EMPTY
            self.body = None

    def end_result(self, tag: str) -> None:
        """One statement has ended: make its Rows, if somebody waits for them."""
        if self.sink is not None:
            self.result = Rows(self.fields, self.made, tag, self.body)
            if self.results is not None:
                self.results.append(self.result)
        self.made = EMPTY
        self.body = None
        if self.script[0] == octets.QUERY:
            self.fields = ()
            self.columns = octets.NO_ROWS

    def answer(self) -> Any:
        """What its caller gets when all went well."""
        if self.results is not None:
            return self.results
        if self.is_description:
            from .records import StatementDescription

            return StatementDescription(self.param_oids, self.fields)
        return self.result if self.result is not None else Rows((), EMPTY, "")

    def fail(self, error: PgWireError) -> None:
        """Tell the caller, if it still waits."""
        if self.sink is not None and not self.sink.done():
            self.sink.set_exception(error)
            if self.is_item and isinstance(error, (PipelineAborted, UsageError)):
                self.sink.exception()  # need not be seen: another item, or the end of the pipeline, says why

    def again(self) -> None:
        """Back to what it was before it was encoded, to be sent once more."""
        self.is_repaired = True
        self.parses = False
        self.begin = octets.NEVER
        self.step = 0
        self.columns = octets.NO_ROWS
        self.error = None

    def forget_encoding(self) -> None:
        """Back to what it was before it was encoded; nothing of it has left."""
        self.statement = None
        self.parses = False
        self.begin = octets.NEVER
        if self.data is None:
            self.columns = octets.NO_ROWS
            self.fields = ()

    def fate(self, handed: int) -> Outcome:
        """What a failure means for it, once `handed` bytes of the session were handed to the socket."""
        if handed > self.begin:
            return Outcome.UNKNOWN
        return Outcome.REJECTED if self.is_repaired else Outcome.NOT_SENT


# Each of these raises for what is wrong with its arguments; nothing has been sent then.


def query(
    sink: Sink,
    sql: str,
    params: Sequence[Value],
    param_oids: Sequence[Oid],
    param_formats: int | Sequence[int],
    result_formats: int | Sequence[int],
    deadline: float,
) -> Request:
    """One extended query; its answer is Rows."""
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


def simple_query(sink: Sink | None, sql: str, deadline: float) -> Request:
    """One simple Query; its answer is a list of Rows, one for each statement."""
    request = Request(sink, frontend.text(sql, "sql"), deadline)
    request.results = []
    request.data = frontend.query(request.sql)
    request.script = SIMPLE
    return request


def describe(sink: Sink, sql: str, param_oids: Sequence[Oid], deadline: float) -> Request:
    """Parse and Describe of an unnamed statement; its answer is a StatementDescription."""
    request = Request(sink, frontend.text(sql, "sql"), deadline)
    from . import messages

    request.is_description = True
    request.data = messages.encode(
        messages.Parse("", sql, frontend.oids(param_oids)), messages.Describe("S", ""), messages.Sync()
    )
    request.script = DESCRIPTION
    return request


def described_item(sink: Sink, sql: str, param_oids: Sequence[Oid]) -> Request:
    """The same as an item of a sync group: without a Sync of its own."""
    request = describe(sink, sql, param_oids, 0.0)
    assert request.data is not None
    request.data = request.data[: len(request.data) - len(SYNC)]
    request.script = request.script[: len(request.script) - 1]
    return request


def encoded(sink: Sink, data: bytes, drain: bool, deadline: float) -> Request:
    """A request that a layer above has encoded; of several results the last is the answer, as in libpq's PQexec."""
    from . import script

    request = Request(sink, "", deadline)
    request.script = script.script(data)
    request.data = data
    request.discards = drain
    if request.script != SIMPLE:  # which portal a Describe was for, only the layer above knows
        request.columns = octets.ANY_COUNT
    return request


def sync(sink: Sink | None) -> Request:
    """A Sync, which ends the sync group before it; answered once all before it are."""
    request = Request(sink, "Sync", 0.0)
    request.data, request.script = SYNC, SYNC_SCRIPT
    return request


def failing_item() -> Request:
    """An item that is sure to fail, so that its sync group is rolled back: Execute of a portal that is not there."""
    from . import messages

    request = Request(None, "", 0.0)
    request.data = messages.encode(messages.Execute("pg_wired: never synced"))
    request.script = bytes([State.EXECUTE])
    request.is_item = True
    return request


def copy(sink: Sink, sql: str, taker: Taker, states: bytes, deadline: float) -> Request:
    """A COPY by a simple Query; `states` is COPY_IN or COPY_OUT, and `taker` gets its header and data."""
    request = simple_query(sink, sql, deadline)
    request.script, request.taker = states, taker
    return request
