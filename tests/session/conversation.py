"""Helpers for the session tests: a client without a socket, its sinks, and the usual answers of a server."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pg_wired.errors import Outcome
from pg_wired.protocol import messages as m
from pg_wired.protocol.rows import Rows
from pg_wired.protocol.server_error import PgError
from pg_wired.protocol.types import Row, Value
from pg_wired.session import transaction
from pg_wired.session.request import (
    Request,
    Window,
    copy_request,
    describe_request,
    encoded_request,
    query_request,
    simple_query_request,
    sync_request,
)
from pg_wired.session.session import Session
from pg_wired.testing import describe

if TYPE_CHECKING:
    from pg_wired.session.request import Sink as RequestSink

READY = m.ReadyForQuery("I")
PREPARED = [m.ParseComplete(), m.ParameterDescription(()), m.NoData()]
STALE = m.ErrorResponse((("S", "ERROR"), ("C", "0A000"), ("M", "stale plan"), ("R", "RevalidateCachedQuery")))


class Sink:
    """A caller: it accepts one answer, and a second one is an error. `cancelled` is True once it stops waiting."""

    def __init__(self) -> None:
        self.cancelled = False
        self.result: Any = None
        self.error: BaseException | None = None

    def done(self) -> bool:
        return self.cancelled or self.is_answered

    def exception(self) -> BaseException | None:
        return self.error

    @property
    def is_answered(self) -> bool:
        return self.result is not None or self.error is not None

    def set_result(self, result: Any) -> None:
        assert not self.done(), "a second answer"
        self.result = result

    def set_exception(self, exception: BaseException) -> None:
        assert not self.done(), "a second answer"
        self.error = exception

    def shown(self) -> Any:
        """Everything its caller can see, in a form that can be compared."""
        return shown(self.result if self.error is None else self.error)


def shown(answer: Any) -> Any:
    """An answer as plain values."""
    if isinstance(answer, Rows):
        return answer.fields, list(answer), answer.command_tag
    if isinstance(answer, list):
        return [shown(part) for part in answer]
    if isinstance(answer, PgError):
        notes = getattr(answer, "__notes__", [])
        return type(answer).__name__, answer.fields, answer.outcome, answer.sql, shown(answer.partial), notes
    if isinstance(answer, Window):
        return answer.sql
    if isinstance(answer, BaseException):
        return type(answer).__name__, str(answer), getattr(answer, "outcome", None), shown(answer.__cause__)
    return answer


def outcomes(*sinks: Sink) -> list[Outcome | None]:
    """The outcome of each failure; None for a sink that has not failed."""
    return [getattr(sink.error, "outcome", None) for sink in sinks]


class Consumer:
    """Records the parts of an answer as they arrive."""

    def __init__(self) -> None:
        self.headers: list[Any] = []
        self.parts: list[Any] = []

    def header(self, header: Any) -> None:
        self.headers.append(header)

    def take(self, part: Any, n: int) -> None:
        self.parts.append(part)


def pg_error(sink: Sink) -> PgError:
    """The server's error that this sink received."""
    assert isinstance(sink.error, PgError), sink.shown()
    return sink.error


class Client:
    """A session and the actions of its owner: submit, send, receive. `sinks` has the sink of each request, in order."""

    def __init__(self, *, cache: int = 256, max_in_flight: int = 256, parameters: dict[str, str] | None = None) -> None:
        self.session = Session(parameters if parameters is not None else {}, cache, max_in_flight)
        self.sinks: list[Sink] = []
        self.inside: Window | None = None  # the window that new requests are submitted to

    def _submit(self, request: Request) -> Sink:
        sink: Any = request.sink
        if self.inside is not None:
            self.session.submit_inside(self.inside, request)
        else:
            self.session.submit(request)
        self.sinks.append(sink)
        return sink  # type: ignore[no-any-return]

    def query(
        self,
        sql: str,
        *params: Value,
        oids: Sequence[int] = (),
        param_formats: int | Sequence[int] = 0,
        result_formats: int | Sequence[int] = 0,
        deadline: float = 0.0,
    ) -> Sink:
        return self._submit(query_request(Sink(), sql, params, oids, param_formats, result_formats, deadline))

    def simple(self, sql: str, deadline: float = 0.0) -> Sink:
        return self._submit(simple_query_request(Sink(), sql, deadline))

    def describe(self, sql: str, oids: Sequence[int] = ()) -> Sink:
        return self._submit(describe_request(Sink(), sql, oids, 0.0))

    def encoded(self, *items: m.FrontendMessage, drain: bool = False) -> Sink:
        return self._submit(encoded_request(Sink(), m.encode(*items), drain, 0.0))

    def copy(self, sql: str, states: bytes, consumer: Consumer) -> Sink:
        return self._submit(copy_request(Sink(), sql, consumer, states, 0.0))

    def item(self, sql: str, *params: Value) -> Sink:
        """A query as an item of a sync group, which `sync` ends."""
        request = query_request(Sink(), sql, params, (), 0, 0, 0.0)
        request.become_item()
        return self._submit(request)

    def sync(self) -> Sink:
        return self._submit(sync_request(Sink()))

    def transaction(self, setup: str, sql: str, *params: Value) -> Sink:
        query = query_request(Sink(), sql, params, (), 0, 0, 0.0)
        return self._submit(transaction.Transaction(setup, query).whole)

    def window(self, name: str = "a window", *, has_state: bool = False, deadline: float = 0.0) -> Window:
        """Request a window. Its sink is the last of `sinks` and receives the window once it is open."""
        window = Window(Sink(), name, deadline, has_state)
        self._submit(window)
        return window

    def expire(self, now: float) -> float:
        return self.session.expire(now)

    @property
    def sole(self) -> RequestSink | None:
        request = self.session.sole()
        return request.sink if request is not None else None

    def disown(self) -> None:
        """What the owner does when the caller of the sole request stops waiting and a cancel connection is opened."""
        request = self.session.sole()
        assert request is not None
        self.session.hold_for_cancel(request)

    def take(self, n: int | None = None) -> bytes:
        """Take the first `n` bytes of the output, or all of it, as the socket does."""
        data = bytes(self.session.out[:n])
        self.session.sent(len(data))
        return data

    def sent(self) -> list[m.FrontendMessage]:
        """Take all pending output, as messages."""
        return split(self.take())

    def tags(self) -> str:
        """Take all pending output, as message tags: "PDBES" for the first use of a query."""
        return "".join(chr(message.tag or 0) for message in self.sent())

    def feed(self, *items: m.BackendMessage | bytes) -> None:
        self.session.feed(b"".join(item if isinstance(item, bytes) else m.encode(item) for item in items))


def split(data: bytes) -> list[m.FrontendMessage]:
    """Split the bytes that a client sent into messages."""
    messages, i = [], 0
    while i < len(data):
        stop = i + 1 + int.from_bytes(data[i + 1 : i + 5], "big")
        messages.append(m.decode_frontend(data[i], data[i + 5 : stop]))
        i = stop
    return messages


# ---- answers of a server


def result(*rows: Row, tag: str | None = None) -> list[m.BackendMessage]:
    """One DataRow for each row, then CommandComplete."""
    return [*map(m.DataRow, rows), m.CommandComplete(f"SELECT {len(rows)}" if tag is None else tag)]


def first(
    *rows: Row, names: Sequence[str] = ("a",), tag: str | None = None, oids: tuple[int, ...] = ()
) -> list[m.BackendMessage]:
    """The answer to a query's first use: Parse, Describe, Bind, Execute, Sync."""
    return [
        m.ParseComplete(),
        m.ParameterDescription(oids),
        describe(names, ()),
        m.BindComplete(),
        *result(*rows, tag=tag),
        READY,
    ]


def later(*rows: Row, tag: str | None = None) -> list[m.BackendMessage]:
    """The answer to a known query: Bind, Execute, Sync."""
    return [m.BindComplete(), *result(*rows, tag=tag), READY]


def described(*rows: Row, names: Sequence[str] = ("a",), tag: str | None = None) -> list[m.BackendMessage]:
    """The answer to a query that is described on every use: Bind, Describe, Execute, Sync."""
    return [m.BindComplete(), describe(names, ()), *result(*rows, tag=tag), READY]


def known(client: Client, sql: str, *params: Value, names: Sequence[str] = ("a",)) -> None:
    """Put `sql` into the client's statement cache."""
    client.query(sql, *params)
    client.take()
    client.feed(*first(names=names))
    client.sinks.pop()
