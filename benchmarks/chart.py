"""SVG charts of the results: bars for each line of the benchmark, and the growth curves."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from .budgets import BUDGETS
from .growth import CURVES, Curve, bends
from .lines import CPU, HELD, P50, P99, WALL, WALL_MS, WHOLE, WHOLE_CPU, Metric
from .plan import ANY, LOOPS, TCP, TLS, UNIX
from .report import costs
from .results import Results, Row, peer

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# matplotlib's "tab" colours for pg_wired, for the other drivers, and for the limit that no driver can beat.
OURS, PEERS, LIMIT = "tab:blue", "tab:gray", "tab:green"
VIA = {UNIX: "over a Unix socket", TCP: "over loopback TCP", TLS: "over TLS"}


class Chart(NamedTuple):
    """A file with bars for some metrics of one line on one transport. `title` says what a bar shows."""

    name: str
    title: str
    line: str
    transport: str
    metrics: tuple[Metric, ...]


CHARTS = (
    Chart("one-task", "Point select, one task", "1-task", UNIX, (WALL, CPU)),
    Chart("64-tasks", "Point selects, 64 tasks: per request", "64-tasks", UNIX, (WALL, CPU)),
    Chart("512-tasks", "Point selects, 512 tasks: per request", "512-tasks", UNIX, (WALL, CPU)),
    Chart("64-tasks-tcp", "Point selects, 64 tasks: per request", "64-tasks", TCP, (WALL, CPU)),
    Chart("latency", "Latency at 80 % load, 64 tasks", "latency", UNIX, (P50, P99)),
    Chart("transactions", "BEGIN, SET LOCAL, select, COMMIT, 64 tasks", "transactions", UNIX, (WALL, CPU)),
    Chart("pipelines", "Pipelines of 50 selects: per select", "pipelines", UNIX, (WALL, CPU)),
    Chart("rows", "A large result to objects", "rows", UNIX, (WHOLE, WHOLE_CPU, HELD)),
    Chart("rows-tls", "A large result to objects", "rows", TLS, (WHOLE, WHOLE_CPU)),
    Chart("streamed", "The same rows, none kept", "streamed", UNIX, (WHOLE, WHOLE_CPU)),
    Chart("copy-out", "COPY out", "copy-out", UNIX, (WHOLE, WHOLE_CPU)),
    Chart("copy-in", "COPY in", "copy-in", UNIX, (WHOLE, WHOLE_CPU)),
    Chart("connect", "Connect with SCRAM and close", "connect", TCP, (WALL_MS,)),
    Chart("notifications", "Notifications: for each", "notifications", UNIX, (WALL, CPU)),
)
GROWTH = "growth"


def titles(results: Results) -> dict[str, str]:
    """Return the names and titles of the charts that have samples."""
    places = {(sample.line, sample.transport) for sample, _, _ in results.taken}
    found = {each.name: f"{each.title}, {VIA[each.transport]}" for each in CHARTS if each[2:4] in places}
    return found | ({GROWTH: "How cost grows"} if any(costs(curve, results) for curve in CURVES) else {})


def draw(folder: Path, results: Results) -> None:
    """Write each chart that has samples into a file of its name. First remove the charts of other runs."""
    import matplotlib

    matplotlib.use("svg")
    # Keep text as text, and write the same file for the same results.
    matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "pg_wired", "font.size": 9})
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.glob("*.svg"):
        path.unlink()
    drawn = titles(results)
    for chart in CHARTS:
        if chart.name in drawn:
            found = [row for row in results.rows(chart.line) if row.transport == chart.transport]
            _save(_bars(drawn[chart.name], chart, found), folder / f"{chart.name}.svg")
    if GROWTH in drawn:
        _save(_curves([curve for curve in CURVES if costs(curve, results)], results), folder / f"{GROWTH}.svg")


def _bars(title: str, chart: Chart, found: Sequence[Row]) -> Figure:
    """Draw a row of panels for each loop, with a panel for each metric. The limit appears in both rows."""
    from matplotlib.figure import Figure

    by_loop = [[row for row in found if row.loop in (loop, ANY)] for loop in LOOPS]
    height = 0.9 + 0.3 * sum(map(len, by_loop))
    figure = Figure(figsize=(4.6 * len(chart.metrics), height), layout="constrained")
    panels = figure.subplots(len(LOOPS), len(chart.metrics), squeeze=False)
    figure.suptitle(f"{title} (less is better; | smallest and largest; ◆ what is asked of us)", fontsize=9)
    for row_of_panels, loop, rows in zip(panels, LOOPS, by_loop, strict=True):
        for axes, metric in zip(row_of_panels, chart.metrics, strict=True):
            _panel(axes, metric, chart, [row for row in rows if metric.key in row.metrics])
            axes.set_title(f"{loop}: {metric.title}", loc="left", fontsize=8)
    return figure


def _panel(axes: Axes, metric: Metric, chart: Chart, rows: Sequence[Row]) -> None:
    names = [row.client for row in rows]
    values = [row.metrics[metric.key] for row in rows]
    medians = [row.median(metric) or 0.0 for row in rows]
    low = [median - min(each) for median, each in zip(medians, values, strict=True)]
    high = [max(each) - median for median, each in zip(medians, values, strict=True)]
    colors = [_color(row) for row in rows]
    axes.barh(names, medians, color=colors, xerr=[low, high], error_kw={"elinewidth": 0.8})
    for place, (row, median, each) in enumerate(zip(rows, medians, values, strict=True)):
        bounds = list(_bounds(metric, chart, row, rows))
        axes.plot(bounds, [place] * len(bounds), "D", color="tab:red", markersize=4)
        beside = (max([*each, *bounds]), place)
        text = f"{median:,.{metric.digits}f}"
        axes.annotate(text, beside, (6, 0), textcoords="offset points", va="center", fontsize=8)
    axes.invert_yaxis()
    axes.margins(x=0.18)
    axes.set_xlim(left=0)
    axes.spines[["top", "right"]].set_visible(False)


def _color(row: Row) -> str:
    if row.client.startswith("pg_wired"):
        return OURS
    return LIMIT if row.loop == ANY else PEERS


def _bounds(metric: Metric, chart: Chart, row: Row, rows: Sequence[Row]) -> Iterator[float]:
    """Yield the values that the budgets require of this client, in the metric's unit."""
    place = (chart.line, metric, row.client, chart.transport)
    for budget in BUDGETS:
        if (budget.line, budget.metric, budget.client, budget.transport) == place:
            other, asked = peer(rows, row, budget.peer), dict(zip(LOOPS, budget.asked, strict=False)).get(row.loop)
            theirs = other.median(metric) if other else None
            if theirs is not None and asked is not None:
                yield theirs * asked if budget.at_most else theirs / asked


def _curves(curves: Sequence[Curve], results: Results) -> Figure:
    """Draw a panel for each curve, with logarithmic axes. A ring marks a point where the curve bends upwards."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.2, 2.6 * ((len(curves) + 1) // 2)), layout="constrained")
    figure.suptitle("What one costs (flat or falling is good; a ring: more than at an earlier point)", fontsize=9)
    panels = figure.subplots((len(curves) + 1) // 2, 2, squeeze=False).flat
    for axes, curve in zip(panels, curves, strict=False):
        for client, each in costs(curve, results).items():
            color = OURS if client == "pg_wired" else PEERS
            axes.loglog(list(each), list(each.values()), "o-", color=color, label=client, markersize=3)
            bent = [point for point, is_bent in zip(each, bends(list(each.values())), strict=True) if is_bent]
            axes.loglog(bent, [each[point] for point in bent], "o", mfc="none", mec="tab:red", markersize=9)
        axes.set_title(f"{curve.title}: {curve.each}", loc="left", fontsize=8)
        axes.legend(fontsize=7, frameon=False)
        axes.spines[["top", "right"]].set_visible(False)
    for axes in list(panels):
        axes.set_visible(False)
    return figure


def _save(figure: Figure, path: Path) -> None:
    figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None}, facecolor="white")
