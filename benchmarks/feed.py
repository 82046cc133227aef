"""A session fed from memory, for the benchmarks from which no socket shall hide anything: no server, loop or clock."""

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
SIZES = {INT4: 4, INT8: 8, TEXT: 32, TIMESTAMPTZ: 8}  # bytes of a value; md5()'s for the text

VALUE = messages.DataRow((b"c4ca4238a0b923820dcc509a6f75849b",))
ROW = messages.DataRow(tuple(bytes(size) for size in SIZES.values()))
BOUND = messages.encode(messages.BindComplete())
END = messages.encode(messages.CommandComplete("SELECT 1"), messages.ReadyForQuery("I"))
ANSWER = BOUND + messages.encode(VALUE) + END  # to one point select


def prepared(sink: Sink, in_flight: int, *types: int) -> Session:
    """A session that takes so many requests at once, with SQL in its cache and columns of these types in its answer."""
    session = Session({}, 256, in_flight)
    ask(session, [sink])
    fields = tuple(FieldDescription("value", 0, 0, oid, -1, -1, 0) for oid in types)
    parsed = (messages.ParseComplete(), messages.ParameterDescription((INT4,)), messages.RowDescription(fields))
    session.feed(messages.encode(*parsed) + BOUND + END)
    return session


def ask(session: Session, sinks: Sequence[Sink], params: tuple[Any, ...] = (b"7",)) -> None:
    """Make and encode a query for each."""
    query, submit = query_request, session.submit
    for sink in sinks:
        submit(query(sink, SQL, params, (), 0, 0, 0.0))


def sent(session: Session) -> None:
    """All that was encoded counts as sent."""
    session.handed += len(session.out)
    session.out.clear()
