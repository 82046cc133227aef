"""The protocol floor, fed from memory: the cost of a request and of a row without a socket.

Most of a driver's cost per request is the kernel's, so that a decoder three times slower would not show there.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import statistics
import time

from pg_wired import Rows
from pg_wired.protocol import messages
from pg_wired.session.session import Session

from .feed import ANSWER, BOUND, END, ROW, SIZES, TEXT, VALUE, ask, prepared, sent
from .work import Metrics

PIPELINED = 1000  # requests in flight at once
ROWS = 100_000
REPEATS = 25  # of each measurement, whose median counts


def _futures(loop: asyncio.AbstractEventLoop, count: int) -> list[asyncio.Future[Rows]]:
    return [loop.create_future() for _ in range(count)]


def _ask(session: Session, replies: list[asyncio.Future[Rows]]) -> float:
    """Make and encode a query for each future; return the seconds. Afterwards mark the bytes as sent."""
    gc.collect()
    begin = time.perf_counter()
    ask(session, replies)
    seconds = time.perf_counter() - begin
    sent(session)
    return seconds


def _answer(session: Session, data: bytes) -> float:
    """Feed an answer to the session; return the seconds."""
    gc.collect()
    begin = time.perf_counter()
    session.feed(data)
    return time.perf_counter() - begin


def pipelined(loop: asyncio.AbstractEventLoop) -> tuple[float, float]:
    """Return the nanoseconds to make and encode a request, and those to complete it with one row and a future."""
    session, replies = prepared(loop.create_future(), PIPELINED, TEXT), _futures(loop, PIPELINED)
    asked = _ask(session, replies)
    answered = _answer(session, ANSWER * PIPELINED)
    assert all(reply.result() == [VALUE.values] for reply in replies)
    return asked / PIPELINED * 1e9, answered / PIPELINED * 1e9


def scanned(loop: asyncio.AbstractEventLoop) -> float:
    """Return the nanoseconds to receive a row of four columns and make it a tuple, averaged over ROWS rows."""
    session, replies = prepared(loop.create_future(), PIPELINED, *SIZES), _futures(loop, 1)
    _ask(session, replies)
    seconds = _answer(session, BOUND + messages.encode(ROW) * ROWS + END)
    rows, begin = replies[0].result(), time.perf_counter()
    for _row in rows:
        pass
    seconds += time.perf_counter() - begin
    assert len(rows) == ROWS and rows[-1] == ROW.values
    return seconds / ROWS * 1e9


def measure(repeats: int) -> Metrics:
    """Return the median of each metric in nanoseconds, with asyncio's futures and the default garbage collector."""
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
