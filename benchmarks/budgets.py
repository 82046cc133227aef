"""The budgets: which speed is required in each line of the benchmark, and whether the samples reach it."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from .lines import BUSY, CPU, HELD, ONE_TASK, POOL, TASKS, TOUCH, WALL, WALL_MS, WHOLE, WHOLE_CPU, Metric
from .plan import LOOPS
from .results import Taken


class Budget(NamedTuple):
    """A requirement: `client` must be `asked` times better than `peer`.

    With `at_most`, `client` may instead need at most `asked` times as much as `peer`; without a peer, `asked` is the
    absolute maximum. The first value of `asked` is for asyncio, the second, if there is one, for uvloop.
    """

    line: str
    metric: Metric
    client: str
    peer: str
    asked: tuple[float, ...]
    transport: str = "unix"
    at_most: bool = False


class Verdict(NamedTuple):
    """The outcome for one budget and loop.

    `reached` is the ratio of the medians; `least` and `most` are the extremes over single rounds. `busy` says how busy
    the server was with the client, in percent of one core.
    """

    budget: Budget
    loop: str
    asked: float
    reached: float
    least: float
    most: float
    busy: float | None

    @property
    def is_kept(self) -> bool:
        return self.reached <= self.asked if self.budget.at_most else self.reached >= self.asked


US, TWO = "pg_wired", "pg_wired pool of 2"
BUDGETS = (
    Budget(ONE_TASK, CPU, US, "asyncpg", (2, 2)),
    Budget(ONE_TASK, WALL, US, "asyncpg", (1.7, 1.15)),
    *(Budget(name, WALL, US, POOL, (10, 7)) for name in TASKS),
    *(Budget(name, WALL, US, "pgbench pipelined", (0.9, 0.9)) for name in TASKS),
    *(Budget(name, WALL, TWO, POOL, (10, 8)) for name in TASKS),
    Budget("transactions", WALL, TWO, POOL, (8, 4)),
    Budget("pipelines", WALL, US, "pgbench pipelined", (0.9, 0.9)),
    Budget("rows", WHOLE, US, "asyncpg", (4.5, 4.5)),
    Budget("rows", WHOLE, US, "psycopg", (2.5, 2.5)),
    Budget("rows", WHOLE_CPU, US, "bare drain", (1.5, 1.5), at_most=True),
    Budget("rows", HELD, US, "bare drain", (1.3, 1.3), at_most=True),
    Budget("rows", TOUCH, "pg_wired columns", US, (3, 3)),
    Budget("rows", TOUCH, "pg_wired columns", "pg_wired list", (3, 3)),
    Budget("rows", WHOLE, US, "asyncpg", (2.5, 2.5), "tls"),
    Budget(ONE_TASK, WALL, US, "asyncpg", (1.5,), "tls"),
    Budget("64-tasks", WALL, US, POOL, (8,), "tls"),
    Budget("streamed", WHOLE, US, "asyncpg", (2, 2)),
    Budget("copy-out", WHOLE, US, "asyncpg", (1, 1)),
    Budget("copy-out", WHOLE, US, "psql", (0.9, 0.9)),
    Budget("copy-in", WHOLE, US, "asyncpg", (1, 1)),
    Budget("copy-in", WHOLE, US, "psql", (0.9, 0.9)),
    Budget("connect", WALL_MS, US, "asyncpg", (4, 4), "tcp"),
    Budget("notifications", WALL, US, "asyncpg", (3, 3)),
    Budget("import", Metric("more_ms", "ms", 1), US, "", (15, 15), "-", at_most=True),
)


def verdicts(taken: Sequence[Taken]) -> Iterator[Verdict]:
    """Yield a verdict for each budget and loop that has samples."""
    for budget in BUDGETS:
        loops = LOOPS if budget.transport != "-" else ("-",)
        for loop, asked in zip(loops, budget.asked, strict=False):
            own = _of(taken, budget, budget.client, loop)
            peer = _of(taken, budget, budget.peer, loop) or _of(taken, budget, budget.peer, "-")
            busy = _of(taken, budget._replace(metric=BUSY), budget.client, loop).values()
            if own and (peer or not budget.peer):
                yield _verdict(budget, loop, asked, own, peer)._replace(busy=statistics.median(busy) if busy else None)


def _of(taken: Sequence[Taken], budget: Budget, client: str, loop: str) -> dict[int, float]:
    """Return the client's median of the budget's metric for each round."""
    place = (budget.line, budget.transport, loop, client)
    found: dict[int, list[float]] = {}
    for sample, number, metrics in taken:
        if (sample.line, sample.transport, sample.loop, sample.client) == place and budget.metric.key in metrics:
            found.setdefault(number, []).append(metrics[budget.metric.key])
    return {number: statistics.median(values) for number, values in found.items()}


def _verdict(budget: Budget, loop: str, asked: float, own: dict[int, float], peer: dict[int, float]) -> Verdict:
    def reached(mine: float, theirs: float) -> float:
        if not budget.peer:
            return mine
        top, bottom = (mine, theirs) if budget.at_most else (theirs, mine)
        return top / bottom if bottom > 0 else float("inf")

    whole = reached(statistics.median(own.values()), statistics.median(peer.values()) if peer else 0.0)
    single = [reached(own[n], peer.get(n, 0.0)) for n in own if n in peer or not budget.peer] or [whole]
    return Verdict(budget, loop, asked, whole, min(single), max(single), None)
