"""Shows what was measured: the machine, and one table per line. Measures nothing."""

from __future__ import annotations

import importlib.util
import os
import platform
import statistics
import tomllib
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

from .plan import REFERENCE, Line, Metric, Sample


class Taken(NamedTuple):
    """A sample that was taken, and what it reported."""

    sample: Sample
    round: int
    metrics: dict[str, float]


def machine(server: str, settings: str) -> dict[str, str]:
    """What the numbers depend on."""
    session = importlib.util.find_spec("pg_wired.protocol.session")
    build = "compiled" if session and str(session.origin).endswith(".so") else "INTERPRETED"
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    peers = [f"{name} {version(name)}" for name in ("asyncpg", "psycopg", "uvloop")]
    return {
        "pg_wired": f"{project['version']}, {build}",
        "Python": f"{platform.python_implementation()} {platform.python_version()}",
        "libraries": ", ".join(peers),
        "server": f"PostgreSQL {server}, loopback TCP, SCRAM, no TLS, {settings}",
        "machine": f"{len(os.sched_getaffinity(0))} of {os.cpu_count()} cores, {_processor()}, {platform.platform()}",
        "load": f"{os.getloadavg()[0]:.1f} in the minute before; the busier the machine, the less the numbers mean",
    }


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())


class Row(NamedTuple):
    """One client on one loop: all it reported."""

    loop: str
    client: str
    metrics: dict[str, list[float]]


def rows(line: Line, taken: Sequence[Taken]) -> list[Row]:
    """The line's samples, put together by loop and client, in the order in which they are `taken`."""
    found: dict[tuple[str, str], Row] = {}
    for sample, _, metrics in taken:
        if sample.line == line.name:
            row = found.setdefault((sample.loop, sample.client), Row(sample.loop, sample.client, {}))
            for key, value in metrics.items():
                row.metrics.setdefault(key, []).append(value)
    return list(found.values())


def ratio(metric: Metric, row: Row, other: Row | None) -> str:
    """How many times better than the other: 2.00x where it needs half."""
    if other is None or other is row or metric.key not in other.metrics or metric.key not in row.metrics:
        return ""
    own = statistics.median(row.metrics[metric.key])
    return f"{statistics.median(other.metrics[metric.key]) / own:.2f}x" if own > 0 else ""


def _spread(values: list[float], digits: int) -> tuple[str, str]:
    if not values:
        return "", ""
    return f"{statistics.median(values):,.{digits}f}", f"({min(values):,.{digits}f}..{max(values):,.{digits}f})"


def _cells(line: Line, row: Row, found: Sequence[Row]) -> Iterator[str]:
    limit = next((other for other in found if other.client == line.limit), None)
    reference = next((other for other in found if (other.loop, other.client) == (row.loop, REFERENCE)), None)
    for metric in line.metrics:
        yield from _spread(row.metrics.get(metric.key, []), metric.digits)
        if metric.compared:
            yield ratio(metric, row, reference)
            yield ratio(metric, row, limit)


def _heads(line: Line) -> Iterator[str]:
    for metric in line.metrics:
        yield from (metric.title, "(min..max)")
        if metric.compared:
            yield from (REFERENCE, "limit")


def table(line: Line, taken: Sequence[Taken]) -> list[str]:
    """The line's table, columns without anything in them left out."""
    found = rows(line, taken)
    lines = [["loop", "client", *_heads(line)]]
    lines += [[row.loop, row.client, *_cells(line, row, found)] for row in found]
    columns = [column for column in zip(*lines, strict=True) if any(column[1:])]
    widths = [max(map(len, column)) for column in columns]
    return [
        "  ".join(
            cell.ljust(width) if place < 2 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in zip(*columns, strict=True)
    ]
