"""The protocol floor alone, fed from memory: what a request and a row cost where no socket hides it.

A driver's cost per request is mostly the kernel's; a decoder that has become three times slower does not show there.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import statistics
import time

from pg_wired import Rows
from pg_wired.protocol import messages, requests
from pg_wired.protocol.session import Session
from pg_wired.protocol.types import FieldDescription

from .work import Metrics

PIPELINED = 1000  # requests in flight at once
ROWS = 100_000
REPEATS = 25  # a median each

SQL = "SELECT value FROM points WHERE id = $1"
INT4, INT8, TEXT, TIMESTAMPTZ = 23, 20, 25, 1184  # pg_type.dat
SIZES = {INT4: 4, INT8: 8, TEXT: 32, TIMESTAMPTZ: 8}  # bytes of a value; md5()'s for the text

VALUE = messages.DataRow((b"c4ca4238a0b923820dcc509a6f75849b",))
ROW = messages.DataRow(tuple(bytes(size) for size in SIZES.values()))
END = (messages.CommandComplete("SELECT 1"), messages.ReadyForQuery("I"))


def _fields(*types: int) -> messages.RowDescription:
    return messages.RowDescription(tuple(FieldDescription("value", 0, 0, oid, -1, -1, 0) for oid in types))


def _futures(loop: asyncio.AbstractEventLoop, count: int) -> list[asyncio.Future[Rows]]:
    return [loop.create_future() for _ in range(count)]


def _ask(session: Session, replies: list[asyncio.Future[Rows]]) -> float:
    """Make and encode a query for each; seconds. Then all of it counts as sent."""
    query, submit = requests.query, session.submit
    gc.collect()
    begin = time.perf_counter()
    for reply in replies:
        submit(query(reply, SQL, (b"7",), (), 0, 0, 0.0))
    seconds = time.perf_counter() - begin
    session.handed += len(session.out)
    session.out.clear()
    return seconds


def _answer(session: Session, data: bytes) -> float:
    """Take an answer; seconds."""
    gc.collect()
    begin = time.perf_counter()
    session.feed(data)
    return time.perf_counter() - begin


def _prepared(loop: asyncio.AbstractEventLoop, description: messages.RowDescription) -> Session:
    """A session whose cache has the query, with this for its columns."""
    session = Session({}, 256, PIPELINED)
    _ask(session, _futures(loop, 1))
    parsed = (messages.ParseComplete(), messages.ParameterDescription((INT4,)), description)
    _answer(session, messages.encode(*parsed, messages.BindComplete(), *END))
    return session


def pipelined(loop: asyncio.AbstractEventLoop) -> tuple[float, float]:
    """Nanoseconds to make and encode a request, and to complete it, which has one row and a future."""
    session, replies = _prepared(loop, _fields(TEXT)), _futures(loop, PIPELINED)
    asked = _ask(session, replies)
    answered = _answer(session, messages.encode(messages.BindComplete(), VALUE, *END) * PIPELINED)
    assert all(reply.result() == [VALUE.values] for reply in replies)
    return asked / PIPELINED * 1e9, answered / PIPELINED * 1e9


def scanned(loop: asyncio.AbstractEventLoop) -> float:
    """Nanoseconds to decode a row of four columns, in a long run of them."""
    session, replies = _prepared(loop, _fields(*SIZES)), _futures(loop, 1)
    _ask(session, replies)
    seconds = _answer(
        session, messages.encode(messages.BindComplete()) + messages.encode(ROW) * ROWS + messages.encode(*END)
    )
    rows = replies[0].result()
    assert len(rows) == ROWS and rows[-1] == ROW.values
    return seconds / ROWS * 1e9


def measure(repeats: int) -> Metrics:
    """The median of each in nanoseconds; asyncio's futures, and the garbage collector as it is."""
    loop = asyncio.new_event_loop()
    pairs = [pipelined(loop) for _ in range(repeats)]
    rows = [scanned(loop) for _ in range(repeats)]
    loop.close()
    encoded, answered = (statistics.median(column) for column in zip(*pairs, strict=True))
    return {"encode_ns": encoded, "answer_ns": answered, "row_ns": statistics.median(rows)}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory", description=__doc__)
    parser.add_argument("--repeats", type=int, default=REPEATS, metavar="N")
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    options = parser.parse_args()
    metrics = measure(options.repeats)
    if options.json:
        print(json.dumps(metrics))
        return
    print(f"{metrics['encode_ns']:8.0f} ns  to encode a cached query")
    print(f"{metrics['answer_ns']:8.0f} ns  to complete a request with one row, {PIPELINED:,} of them pipelined")
    print(f"{metrics['row_ns']:8.0f} ns  to decode a row of four columns, in a run of {ROWS:,}")


if __name__ == "__main__":
    main()
