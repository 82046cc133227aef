"""Writes the results into the documentation: into the marked regions of two pages, and as charts.

Run `make bench` first, then `make write-up`. Do not edit the regions between the marks by hand: a test compares them.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from . import chart
from .budgets import BUDGETS, Budget, verdicts
from .growth import CURVES
from .lines import CPU, LINES, ONE_TASK, POOL, RATE, WALL, WHOLE, Line, Metric
from .plan import FULL, LOOPS, UNIX
from .report import HEADS, costs, curve_table, said, table
from .results import Results, Row, load, peer, ratio, save
from .work import OUTPUT, ROOT

KEPT = Path("docs/charts/results.json")  # the results of the run that the pages show
PERFORMANCE, README = Path("docs/performance.md"), Path("README.md")
MARK = "<!-- measured: {} -->\n{}<!-- end -->\n"
SMALL = "**A small run: it shows what will stand here, and its figures are not to be quoted.**"


class Number(NamedTuple):
    """One of the three numbers of the README: the metric shown, and the metric compared with the peer's."""

    line: str
    shown: Metric
    compared: Metric
    peer: str
    format: str
    text: str


NUMBERS = (
    Number("64-tasks", RATE, WALL, POOL, ",.0f", "thousand point selects a second, 64 tasks on one connection"),
    Number("rows", WHOLE, WHOLE, "asyncpg", ".2f", "s for {rows:,} rows x 4 columns, to tuples"),
    Number(ONE_TASK, CPU, CPU, "asyncpg", ".1f", "µs of client CPU for a select, one task after the other"),
)


def region(text: str, name: str, body: str) -> str:
    """Return the page with the body of that region replaced. Raises ValueError if the page has no such region."""
    begin, end = MARK.format(name, "\0").split("\0")
    found = re.search(f"{re.escape(begin)}(.*?){re.escape(end)}", text, re.DOTALL)
    if not found:
        raise ValueError(f"the page has no region {name!r}: it has to hold {begin!r} and behind it {end!r}")
    return text[: found.start(1)] + body + text[found.end(1) :]


def pages(results: Results) -> dict[Path, dict[str, str]]:
    """Return the body of each region of each page."""
    return {
        PERFORMANCE: {
            "conditions": conditions(results),
            "budgets": budgets(results),
            "lines": "".join(tables(results)),
        },
        README: {"headline": headline(results)},
    }


def is_small(results: Results) -> bool:
    return results.scale.rows < FULL.rows or results.scale.rounds < FULL.rounds


def conditions(results: Results) -> str:
    """Return the list of facts that the results depend on, and the size of the run."""
    scale = results.scale
    lines = [f"- {name}: {fact}" for name, fact in results.facts.items()]
    lines.append(f"- size: {scale.rounds} rounds, {scale.seconds} s for each sample of selects, {scale.rows:,} rows")
    return "\n".join([*lines, *(["", SMALL] if is_small(results) else [])]) + "\n"


def markdown(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    return "".join(f"| {' | '.join(line)} |\n" for line in [heads, ["---"] * len(heads), *rows])


def budgets(results: Results) -> str:
    """Return the table of the budgets that were measured, how many fall short, and which were not measured."""
    found = list(verdicts(results.taken))
    short = sum(not verdict.is_kept for verdict in found)
    cells = [said(verdict) for verdict in found]
    rows = [[*each[:-1], f"**{each[-1].lower()}**" if each[-1] else "kept"] for each in cells]
    text = f"{len(found) - short} of {len(found)} are kept; {short} fall short.\n\n" + markdown(HEADS, rows)
    measured = {verdict.budget for verdict in found}
    missing = [_named(budget) for budget in BUDGETS if budget not in measured]
    return text + (f"\nNot in this run: {'; '.join(missing)}.\n" if missing else "")


def _named(budget: Budget) -> str:
    return f"{budget.line} ({budget.metric.title}, {budget.transport}) of {budget.client} against {budget.peer}"


def tables(results: Results) -> Iterator[str]:
    """Yield the charts of each line, and its table as the terminal shows it; then the curves."""
    drawn = chart.titles(results)
    for line in LINES:
        if found := results.rows(line.name):
            yield f"### {results.titled(line.title)}\n\n"
            yield from _pictures(line, drawn)
            yield _fenced(table(line, found))
    if chart.GROWTH in drawn:
        yield f"### {drawn[chart.GROWTH]}\n\n![{drawn[chart.GROWTH]}](charts/{chart.GROWTH}.svg)\n\n"
    for curve in CURVES:
        if costs(curve, results):
            yield f"{curve.title}: {curve.each}\n\n" + _fenced(curve_table(curve, results))


def _pictures(line: Line, drawn: dict[str, str]) -> Iterator[str]:
    for each in chart.CHARTS:
        if each.name in drawn and each.line == line.name and line.metrics[0] is each.metrics[0]:
            yield f"![{drawn[each.name]}](charts/{each.name}.svg)\n\n"


def _fenced(lines: Sequence[str]) -> str:
    return "\n".join(["```text", *lines, "```"]) + "\n\n"


def headline(results: Results) -> str:
    """Return one chart and three numbers, with their conditions: asyncio's own loop, over the Unix socket."""
    text = "".join(f"- {number}\n" for each in NUMBERS if (number := _number(results, each)))
    server = results.facts["server"].split(",")[0]
    where = f"{results.facts['Python']}, {server}, {results.facts['machine']}"
    text += f"\nStock asyncio, Unix socket; medians of {results.scale.rounds} interleaved rounds; {where}.\n"
    picture = "![Point selects, 64 tasks](docs/charts/64-tasks.svg)\n\n" if "64-tasks" in chart.titles(results) else ""
    return picture + text + (f"\n{SMALL}\n" if is_small(results) else "")


def _number(results: Results, number: Number) -> str:
    rows = results.rows(number.line)
    own = next((row for row in rows if row[:3] == (UNIX, LOOPS[0], "pg_wired")), None)
    value = own.median(number.shown) if own else None
    if own is None or value is None:
        return ""
    return (
        f"**{value:{number.format}} {results.titled(number.text)}**{_against(own, rows, number.compared, number.peer)}"
    )


def _against(own: Row, rows: Sequence[Row], metric: Metric, client: str) -> str:
    found = ratio(metric, own, peer(rows, own, client))
    return f": {found:.1f} times better than {client}" + " (10 connections)" * (client == POOL) if found else ""


def write(results: Results, root: Path) -> None:
    """Write all regions and charts, and the results that they show."""
    chart.draw(root / KEPT.parent, results)
    save(root / KEPT, results)
    for path, bodies in pages(load(root / KEPT)).items():
        text = (root / path).read_text()
        for name, body in bodies.items():
            text = region(text, name, body)
        (root / path).write_text(text)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.write_up", description=__doc__)
    parser.add_argument("--json", type=Path, default=OUTPUT / "results.json", metavar="PATH", help="of `make bench`")
    given = parser.parse_args()
    if not given.json.exists():
        sys.exit(f"{given.json} is not there: say `make bench` first, or --json PATH")
    write(load(given.json), ROOT)
    print(f"written: {PERFORMANCE}, {README}, {KEPT.parent}")


if __name__ == "__main__":
    main()
