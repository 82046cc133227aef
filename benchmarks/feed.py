"""A session fed from memory, for benchmarks of the protocol code alone: without socket, server, loop or clock."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pg_wired.protocol import messages
from pg_wired.protocol.records import FieldDescription
from pg_wired.session.request import query_request
from pg_wired.session.session import Session

if TYPE_CHECKING:
    from pg_wired.session.request import Sink

SQL = "SELECT value FROM points WHERE id = $1"
INT4, INT8, TEXT, TIMESTAMPTZ = 23, 20, 25, 1184  # pg_type.dat
SIZES = {INT4: 4, INT8: 8, TEXT: 32, TIMESTAMPTZ: 8}  # bytes of a value; the text is an md5() result

VALUE = messages.DataRow((b"c4ca4238a0b923820dcc509a6f75849b",))
ROW = messages.DataRow(tuple(bytes(size) for size in SIZES.values()))
BOUND = messages.encode(messages.BindComplete())
END = messages.encode(messages.CommandComplete("SELECT 1"), messages.ReadyForQuery("I"))
ANSWER = BOUND + messages.encode(VALUE) + END  # the answer to one point select


def prepared(sink: Sink, in_flight: int, *types: int) -> Session:
    """Return a session that has SQL in its statement cache, with answer columns of these types.

    It accepts `in_flight` requests at once. `sink` receives the result of the request that prepared the statement.
    """
    session = Session({}, 256, in_flight)
    ask(session, [sink])
    fields = tuple(FieldDescription("value", 0, 0, oid, -1, -1, 0) for oid in types)
    parsed = (messages.ParseComplete(), messages.ParameterDescription((INT4,)), messages.RowDescription(fields))
    session.feed(messages.encode(*parsed) + BOUND + END)
    return session


def ask(session: Session, sinks: Sequence[Sink], params: tuple[Any, ...] = (b"7",)) -> None:
    """Make and encode a query for each sink."""
    query, submit = query_request, session.submit
    for sink in sinks:
        submit(query(sink, SQL, params, (), 0, 0, 0.0))


def sent(session: Session) -> None:
    """Mark all encoded bytes as sent."""
    session.handed += len(session.out)
    session.out.clear()
