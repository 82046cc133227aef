"""Shows the results on a terminal: the machine, a table for each line, and the budgets. It measures nothing."""

from __future__ import annotations

import importlib.util
import os
import platform
import statistics
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path

import pg_wired

from .budgets import Verdict, verdicts
from .growth import CURVES, Curve, bends, cost
from .lines import LINES, WALL, Line, Metric
from .results import Results, Row, peer, ratio


def machine(server: str, settings: str) -> dict[str, str]:
    """Return the facts that the results depend on: versions, the server and its settings, the machine and its load."""
    session = importlib.util.find_spec("pg_wired.session.session")
    build = "compiled" if session and str(session.origin).endswith(".so") else "INTERPRETED"
    peers = [f"{name} {version(name)}" for name in ("asyncpg", "psycopg", "psqlpy", "uvloop")]
    return {
        "pg_wired": f"{pg_wired.__version__}, {build}",
        "Python": f"{platform.python_implementation()} {platform.python_version()}",
        "libraries": ", ".join(peers),
        "server": f"PostgreSQL {server}, SCRAM, {settings}",
        "machine": f"{os.cpu_count()} cores, {_processor()}, {platform.platform()}",
        "load": f"{os.getloadavg()[0]:.1f} in the minute before; the busier the machine, the less the numbers mean",
    }


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())


def _ratio(metric: Metric, row: Row, other: Row | None) -> str:
    found = ratio(metric, row, other)
    return "" if found is None else f"{found:.2f}x"


def _spread(values: Sequence[float], metric: Metric, row: Row) -> tuple[str, str]:
    median = row.median(metric)
    if median is None:
        return "", ""
    return f"{median:,.{metric.digits}f}", f"({min(values):,.{metric.digits}f}..{max(values):,.{metric.digits}f})"


def _cells(line: Line, row: Row, found: Sequence[Row]) -> Iterator[str]:
    limit, reference = peer(found, row, line.limit), peer(found, row, line.reference)
    for metric in line.metrics:
        yield from _spread(row.metrics.get(metric.key, []), metric, row)
        if metric.compared:
            yield _ratio(metric, row, reference)
            yield _ratio(metric, row, limit)


def _heads(line: Line) -> Iterator[str]:
    for metric in line.metrics:
        yield from (metric.title, "(min..max)")
        if metric.compared:
            yield from (line.reference, "limit")


def laid_out(lines: Sequence[Sequence[str]], left: int) -> list[str]:
    """Return a table with the first `left` columns flush left. Columns that are empty below the head are left out."""
    columns = [column for column in zip(*lines, strict=True) if any(column[1:])]
    widths = [max(map(len, column)) for column in columns]
    return [
        "  ".join(
            cell.ljust(width) if place < left else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in zip(*columns, strict=True)
    ]


def table(line: Line, found: Sequence[Row]) -> list[str]:
    """Return the table of a line."""
    places = [[row.transport, row.loop, row.client] for row in found]
    cells = [[*place, *_cells(line, row, found)] for place, row in zip(places, found, strict=True)]
    left = sum(any(column) for column in zip(*places, strict=True))
    return laid_out([["via", "loop", "client", *_heads(line)], *cells], left)


def costs(curve: Curve, results: Results) -> dict[str, dict[int, float]]:
    """Return for each client the median cost of one row, byte, column or request at each point that was measured."""
    found: dict[str, dict[int, float]] = {}
    for client in curve.commands:
        for point in curve.points:
            walls = [
                each.metrics[WALL.key]
                for each in results.taken
                if (each.sample.line, each.sample.client, each.sample.point) == (curve.name, client, point)
            ]
            if walls:
                found.setdefault(client, {})[point] = cost(curve, point, statistics.median(walls))
    return found


def curve_table(curve: Curve, results: Results) -> list[str]:
    """Return the table of a curve, a line for each point. Costs that bend upwards are marked."""
    found = costs(curve, results)
    bent = {client: dict(zip(each, bends(list(each.values())), strict=True)) for client, each in found.items()}
    lines = [["", *found]]
    for point in curve.points:
        marks = {client: " bends up" if bent[client].get(point) else "         " for client in found}
        cells = [f"{each[point]:,.2f}{marks[client]}" if point in each else "" for client, each in found.items()]
        if any(cells):
            lines.append([f"{point:,}", *cells])
    return laid_out(lines, 0)


def said(verdict: Verdict) -> list[str]:
    """Return the cells of a verdict, in the order of HEADS."""
    budget = verdict.budget
    unit = "x" if budget.peer else f" {budget.metric.title}"
    bound = "at most " if budget.at_most else ""
    who = f"{budget.client} against {budget.peer}" if budget.peer else budget.client
    return [
        budget.line,
        budget.metric.title,
        budget.transport,
        verdict.loop,
        who,
        f"{bound}{verdict.asked:g}{unit}",
        f"{verdict.reached:.2f}{unit}",
        f"{verdict.least:.2f}..{verdict.most:.2f}",
        "" if verdict.busy is None else f"{verdict.busy:.0f} %",
        "" if verdict.is_kept else "SHORT",
    ]


HEADS = ["line", "figure", "via", "loop", "who", "asked", "reached", "rounds", "server busy", "here"]


def budget_table(results: Results) -> list[str]:
    """Return the table of all budgets that have samples."""
    lines = [said(verdict) for verdict in verdicts(results.taken)]
    return laid_out([HEADS, *lines], 5) if lines else []


def show(results: Results, explanation: str) -> Iterator[str]:
    """Yield the whole report, line by line."""
    for name, fact in results.facts.items():
        yield f"{name + ':':<11}{fact}"
    yield "\n" + explanation
    for line in LINES:
        if found := results.rows(line.name):
            yield "\n" + results.titled(line.title)
            yield from table(line, found)
    for curve in CURVES:
        if costs(curve, results):
            yield f"\n{curve.title}: {curve.each}"
            yield from curve_table(curve, results)
    if budgets := budget_table(results):
        yield "\nWhat is asked, and where we fall short"
        yield from budgets
