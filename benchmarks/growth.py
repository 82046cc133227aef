"""The growth curves: how cost grows with size, at which points, measured by which commands. None may bend upwards."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

Command = tuple[str, ...]  # arguments of benchmarks.wire
BENT = 1.25  # a curve bends if one costs this many times the least so far; on a busy machine, rounds differ by less


class Curve(NamedTuple):
    """One curve. `commands` gives, for each client, the command that measures the wall time of a point."""

    name: str
    title: str
    each: str  # the unit of the cost: "ns a row"
    scale: float  # converts the wall time in microseconds into that unit
    points: tuple[int, ...]
    commands: dict[str, Callable[[int], Command]]
    is_shared: bool = True  # the wall time is that of the whole point; if false, it is already that of one request
    lasts: float = 0.0  # minimum seconds of a sample, multiplied by the point


def _asked(opened: str) -> Callable[[int], Command]:
    return lambda tasks: (opened, f"--tasks={tasks}")


def _wide(opened: str, tasks: int) -> Callable[[int], Command]:
    return lambda size: (f"{opened}:{size}", f"--tasks={tasks}")


def _sql(opened: str, sql: Callable[[int], str]) -> Callable[[int], Command]:
    return lambda size: (opened, f"--sql={sql(size)}")


def _rows(count: int) -> str:
    return f"SELECT id, amount, name, moment FROM events LIMIT {count}"


def _value(size: int) -> str:
    return f"SELECT repeat('x', {size})"


def _columns(count: int) -> str:
    return f"SELECT {', '.join(['id'] * count)} FROM events LIMIT {COLUMN_ROWS}"


COLUMN_ROWS = 1000
MIB = 1024 * 1024
BOTH = {"pg_wired": "with_pg_wired.ask", "asyncpg": "with_asyncpg.ask"}

CURVES = (
    Curve(
        "grow-tasks",
        "Tasks on one connection (asyncpg: a pool of 10)",
        "µs a request",
        1.0,
        (1, 10, 100, 1000, 10_000),
        {"pg_wired": _asked("with_pg_wired.one"), "asyncpg": _asked("with_asyncpg.pool")},
        is_shared=False,
        lasts=0.0002,  # about 20 requests of each pg_wired task, so that its start and its end count little
    ),
    Curve(
        "grow-connections",
        "Connections of a pool, 512 tasks",
        "µs a request",
        1.0,
        (1, 2, 4, 8, 16),
        {"pg_wired": _wide("with_pg_wired.pool", 512), "asyncpg": _wide("with_asyncpg.pool", 512)},
        is_shared=False,
    ),
    Curve(
        "grow-depth",
        "Selects of one pipeline, one task (asyncpg has none)",
        "µs a select",
        1.0,
        (1, 10, 100, 1000),
        {"pg_wired": _wide("with_pg_wired.pipelines", 1)},
        is_shared=False,
    ),
    Curve(
        "grow-rows",
        "Rows of a result, four columns",
        "ns a row",
        1000.0,
        (1, 10, 100, 1000, 10_000, 100_000, 1_000_000),
        {client: _sql(opened, _rows) for client, opened in BOTH.items()},
    ),
    Curve(
        "grow-columns",
        f"Columns of a result, {COLUMN_ROWS:,} rows",
        "ns a column of a row",
        1000.0 / COLUMN_ROWS,
        (1, 3, 10, 30, 100),
        {client: _sql(opened, _columns) for client, opened in BOTH.items()},
    ),
    Curve(
        "grow-value",
        "Bytes of one value",
        "ns a byte",
        1000.0,
        (1, 64, 4096, 256 * 1024, 4 * MIB, 64 * MIB),
        {client: _sql(opened, _value) for client, opened in BOTH.items()},
    ),
)


def cost(curve: Curve, point: int, wall_us: float) -> float:
    """Return the cost of one row, byte, column or request, in the curve's unit."""
    return wall_us * curve.scale / (point if curve.is_shared else 1)


def bends(costs: Sequence[float]) -> Iterator[bool]:
    """Yield for each point whether one costs over BENT times the least at earlier points."""
    least = float("inf")
    for here in costs:
        yield here > BENT * least
        least = min(least, here)
