"""What is asked of each line, and whether it was reached: every row of the budgets, on both loops."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from .lines import BUSY, CPU, HELD, ONE_TASK, POOL, TASKS, TOUCH, WALL, WALL_MS, WHOLE, WHOLE_CPU, Metric
from .plan import LOOPS
from .results import Taken


class Budget(NamedTuple):
    """`client` has to be `asked` times better than `peer`; or to need at most so many times what `peer` needs.

    `asked` is for asyncio, and for uvloop where it is asked there. Without a peer it is what may be needed at most.
    """

    line: str
    metric: Metric
    client: str
    peer: str
    asked: tuple[float, ...]
    transport: str = "unix"
    at_most: bool = False


class Verdict(NamedTuple):
    """What came of it: the ratio of the medians, and those of the single rounds; how busy the server was with us."""

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
    """One for each budget and loop of which there are samples."""
    for budget in BUDGETS:
        loops = LOOPS if budget.transport != "-" else ("-",)
        for loop, asked in zip(loops, budget.asked, strict=False):
            own = _of(taken, budget, budget.client, loop)
            peer = _of(taken, budget, budget.peer, loop) or _of(taken, budget, budget.peer, "-")
            busy = _of(taken, budget._replace(metric=BUSY), budget.client, loop).values()
            if own and (peer or not budget.peer):
                yield _verdict(budget, loop, asked, own, peer)._replace(busy=statistics.median(busy) if busy else None)


def _of(taken: Sequence[Taken], budget: Budget, client: str, loop: str) -> dict[int, float]:
    """The budget's metric, round by round."""
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
