"""Five pieces of work fed from memory, each of which takes exactly the same number of instructions in every run.

`count` counts the instructions. A process does each piece of work once to warm up, prepares all of them again, and does
the named one, or none. The difference between a run with a name and a run without is the cost of that work alone. The
process ends without cleaning up, because that would count too.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable
from typing import TypeAlias, cast

from pg_wired import Rows
from pg_wired.protocol import copy_binary, messages
from pg_wired.protocol.types import Row
from pg_wired.session.request import ALL_TEXT, COPY_OUT, copy_request
from pg_wired.session.statements import Statement, StatementCache

from .feed import ANSWER, BOUND, END, ROW, SIZES, SQL, TEXT, ask, prepared, sent

Work: TypeAlias = Callable[[], object]

REQUESTS = 5000  # enough to hide costs that occur once, such as a new arena of memory
PIPELINED = 1000
ROWS = 10_000
STATEMENTS = 100  # used in rotation, so that each hit moves the least recently used statement to the end
PARAMS = (b"7", "text", None)
COPY_BEGIN = messages.encode(messages.CopyOutResponse(1, (1,) * len(SIZES)))
COPY_END = messages.encode(messages.CopyDone(), messages.CommandComplete("COPY 1"), messages.ReadyForQuery("I"))


class Sink:
    """Stores an answer. It replaces a future, whose cost is not pg_wired's."""

    result: object = None

    def done(self) -> bool:
        return False

    def set_result(self, result: object, /) -> None:
        self.result = result

    def set_exception(self, exception: BaseException, /) -> None:
        raise exception

    def exception(self) -> None: ...


class Consumer:
    """Decodes the rows of a binary COPY as they arrive, as `copy_out_rows` does."""

    def __init__(self) -> None:
        self._decoder = copy_binary.RowDecoder()
        self.rows: list[Row] = []

    def header(self, header: messages.CopyOutResponse, /) -> None: ...

    def take(self, part: bytes, _n: int, /) -> None:
        self.rows += self._decoder.feed(part)


def encode() -> Work:
    """Make and encode a query with three parameters: bytes, str, and NULL."""
    session, sinks = prepared(Sink(), 2 * REQUESTS, TEXT), [Sink() for _ in range(REQUESTS)]
    return lambda: ask(session, sinks, PARAMS)


def rows() -> Work:
    """Receive rows of four columns, and make each a tuple."""
    session, sink = prepared(Sink(), 1, *SIZES), Sink()
    data = BOUND + messages.encode(ROW) * ROWS + END
    ask(session, [sink])
    sent(session)

    def work() -> None:
        session.feed(data)
        assert len(list(cast(Rows, sink.result))) == ROWS

    return work


def answers() -> Work:
    """Complete requests of one row each, a thousand pipelined at a time."""
    sessions = [prepared(Sink(), PIPELINED, TEXT) for _ in range(REQUESTS // PIPELINED)]
    for session in sessions:
        ask(session, [Sink() for _ in range(PIPELINED)])
        sent(session)
    data = ANSWER * PIPELINED

    def work() -> None:
        for session in sessions:
            session.feed(data)
            assert not session.inflight

    return work


def cache_hit() -> Work:
    """Find a statement in the cache, and call its `shape`."""
    cache, sqls = StatementCache(STATEMENTS), [f"{SQL} AND {number} > 0" for number in range(STATEMENTS)]
    known = [_known(cache, sql) for sql in sqls]

    def work() -> None:
        for _ in range(REQUESTS // STATEMENTS):
            for sql, statement in zip(sqls, known, strict=True):
                found = cache.find(sql, ())
                found.shape(ALL_TEXT, ALL_TEXT, 1)
                assert found is statement

    return work


def _known(cache: StatementCache, sql: str) -> Statement:
    statement = cache.find(sql, ())
    statement.shape(ALL_TEXT, ALL_TEXT, 1)
    return statement


def copy_frame() -> Work:
    """Encode rows in the binary format of COPY, receive each in its own CopyData, and decode them."""
    session, consumer, sink = prepared(Sink(), 1), Consumer(), Sink()
    session.submit(copy_request(sink, "COPY", consumer, COPY_OUT, 0.0))
    sent(session)

    def work() -> None:
        row = bytearray()
        for _ in range(ROWS):
            row.clear()
            copy_binary.append_row(row, ROW.values)
        framed = messages.encode(messages.CopyData(bytes(row)))
        first = messages.encode(messages.CopyData(copy_binary.HEADER))
        session.feed(COPY_BEGIN + first + framed * ROWS)
        session.feed(messages.encode(messages.CopyData(copy_binary.TRAILER)) + COPY_END)
        assert len(consumer.rows) == ROWS and sink.result

    return work


# For each name: the function that prepares the work, and how many times the work does what that function's docstring
# says.
SCENARIOS: dict[str, tuple[Callable[[], Work], int]] = {
    "encode": (encode, REQUESTS),
    "rows": (rows, ROWS),
    "answers": (answers, REQUESTS),
    "cache-hit": (cache_hit, REQUESTS),
    "copy-frame": (copy_frame, ROWS),
}


def main(name: str) -> None:
    """Warm up, then do the named work; none if the name is empty."""
    gc.disable()
    gc.freeze()
    for make, _ in SCENARIOS.values():
        make()()
    works = {each: make() for each, (make, _) in SCENARIOS.items()}
    if name:
        works[name]()
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "")
