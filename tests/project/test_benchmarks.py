"""The benchmarks run, with the smallest numbers, and show what was measured. No time is judged."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import budgets, chart, growth, report, results, stopwatch, write_up
from benchmarks.__main__ import main, take
from benchmarks.lines import CPU, HELD, LINES, RATE, WALL, Line
from benchmarks.plan import Sample, Scale, plan
from benchmarks.plan import growth as points
from benchmarks.results import Results, Taken
from benchmarks.work import ROOT
from pg_wired.session import session

TINY = Scale(
    rounds=1, growth=1, seconds=0.01, rows=1000, notifications=100, connects=1, imports=1, repeats=1
)  # fmt: skip
DIFFERENCES = {"more_ms", "held_mb", "held_bytes"}  # between two measurements, so they may have any value


def kinds() -> Iterator[str]:
    """The names of samples that run every command once: other sizes, loops and transports add no commands."""
    seen = set()
    for sample in [*plan(TINY), *points(TINY)]:
        module, opened, *options = sample.command
        kind = (module, opened.partition(":")[0], *sorted(option.partition("=")[0] for option in options))
        if kind not in seen or (sample.line, sample.client, sample.loop) == ("1-task", "pg_wired", "asyncio"):
            yield sample.name
        seen.add(kind)


@pytest.mark.skipif(not str(session.__file__).endswith(".so"), reason="what is measured is compiled")
def test_every_benchmark_runs_and_its_results_are_kept_and_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, cores = tmp_path / "new/results.json", os.sched_getaffinity(0)
    names = list(kinds())
    main(["--only", f"^({'|'.join(map(re.escape, names))})$", "--json", str(path)], TINY)
    printed = capsys.readouterr().out
    kept = results.load(path)
    assert {taken.sample.name for taken in kept.taken} == set(names)
    for line in LINES:
        mine = [taken.metrics for taken in kept.taken if taken.sample.line == line.name]
        if line.name != "512-tasks":
            assert {metric.key for metric in line.metrics} <= set().union(*mine), line.name
            assert kept.titled(line.title) in printed
    measured = [(taken, key) for taken in kept.taken for key in taken.metrics if key not in DIFFERENCES]
    assert not [(taken, key) for taken, key in measured if not 0 <= taken.metrics[key] < math.inf]
    assert f"clients on [{max(cores)}]" in printed and os.sched_getaffinity(0) == cores


def test_the_cpu_time_of_processes_that_end_is_counted() -> None:
    before, now = {"server": 5.0, "ending": 0.008}, {"server": 5.5, "new": 0.25}
    assert stopwatch.needed(before, now, ended=0.0) == pytest.approx(0.75)
    assert stopwatch.needed(before, now, ended=0.05) == pytest.approx(0.75 + 0.05 - 0.008)


def test_samples_are_listed_by_name_and_an_unknown_name_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--list", "--only", "grow-rows/.*/1000$"])
    assert capsys.readouterr().out.split("\n") == [
        "grow-rows/unix/asyncio/asyncpg/1000",
        "grow-rows/unix/asyncio/pg_wired/1000",
        "",
    ]
    with pytest.raises(SystemExit):
        main(["--only", "nobody"])
    assert "--only nobody" in capsys.readouterr().err


def test_a_failing_sample_names_the_command_that_repeats_it() -> None:
    sample = Sample("import", "-", "-", "no_such_package", ("benchmarks.imports", "no_such_package"))
    with pytest.raises(SystemExit, match=r"(?s)import/-/-/no_such_package .*-m benchmarks\.imports.*ModuleNotFound"):
        take(sample, dict(os.environ))


def made(line: str, *found: tuple[str, str, list[dict[str, float]]]) -> Results:
    """Samples over the Unix socket, from loop, client and the metrics of each round."""
    taken = [
        Taken(Sample(line, "unix", loop, client, ()), number, metrics)
        for loop, client, rounds in found
        for number, metrics in enumerate(rounds)
    ]
    facts = {"Python": "CPython 3.0", "server": "PostgreSQL 1, SCRAM", "machine": "none"}
    return Results(facts, TINY, taken)


def test_the_table_shows_medians_ranges_and_ratios() -> None:
    line = Line("line", "Title", (WALL, CPU, RATE), "limit")
    found = made(
        "line",
        ("asyncio", "pg_wired", [{"wall_us": 10.0, "rate": 9}, {"wall_us": 14.0, "rate": 8}, {"wall_us": 11.0}]),
        ("asyncio", "asyncpg", [{"wall_us": 22.0}]),
        ("uvloop", "asyncpg", [{"wall_us": 12.0}]),
        ("-", "limit", [{"wall_us": 5.5}]),
    )
    other = Taken(Sample("line", "tcp", "asyncio", "asyncpg", ()), 0, {"wall_us": 99.0})
    assert report.table(line, found._replace(taken=[*found.taken, other]).rows("line")) == [
        "via   loop     client    wall µs    (min..max)  asyncpg  limit  1000/s  (min..max)",
        "unix  asyncio  pg_wired     11.0  (10.0..14.0)    2.00x  0.50x     8.5  (8.0..9.0)",
        "unix  asyncio  asyncpg      22.0  (22.0..22.0)           0.25x",
        "unix  uvloop   asyncpg      12.0  (12.0..12.0)           0.46x",
        "unix  -        limit         5.5    (5.5..5.5)",
        "tcp   asyncio  asyncpg      99.0  (99.0..99.0)",
    ]


def test_a_ratio_budget_is_kept_or_falls_short() -> None:
    found = made(
        "1-task",
        ("asyncio", "pg_wired", [{"wall_us": 10.0, "cpu_us": 5.0}, {"wall_us": 12.0, "cpu_us": 5.0}]),
        ("asyncio", "asyncpg", [{"wall_us": 18.0, "cpu_us": 11.0}, {"wall_us": 18.0, "cpu_us": 9.0}]),
    )
    said = {verdict.budget.metric: verdict for verdict in budgets.verdicts(found.taken)}
    wall, cpu = said[WALL], said[CPU]
    assert (wall.asked, round(wall.reached, 3), wall.is_kept) == (1.7, 1.636, False)
    assert (cpu.asked, cpu.reached, cpu.least, cpu.most, cpu.is_kept) == (2, 2.0, 1.8, 2.2, True)
    assert "SHORT" in report.budget_table(found)[2]


def test_an_upper_limit_as_budget_is_kept_or_exceeded() -> None:
    rows = made("rows", ("uvloop", "pg_wired", [{"held_mb": 130.0}]), ("-", "bare drain", [{"held_mb": 87.0}]))
    (verdict,) = budgets.verdicts(rows.taken)
    assert verdict.budget.metric is HELD and not verdict.is_kept and round(verdict.reached, 2) == 1.49
    imported = made("import")._replace(taken=[Taken(Sample("import", "-", "-", "pg_wired", ()), 0, {"more_ms": 14.0})])
    (verdict,) = budgets.verdicts(imported.taken)
    assert verdict.is_kept and verdict.reached == 14.0


def test_a_budget_can_apply_to_one_loop_only() -> None:
    walls = [(loop, client, [{"wall_us": 1.0}]) for loop in ("asyncio", "uvloop") for client in ("pg_wired", "asyncpg")]
    found = made("1-task", *walls)
    taken = [each._replace(sample=each.sample._replace(transport="tls")) for each in found.taken]
    assert [(verdict.loop, verdict.asked) for verdict in budgets.verdicts(taken)] == [("asyncio", 1.5)]


def test_points_where_a_curve_bends_upwards_are_marked() -> None:
    assert list(growth.bends([9.0, 3.0, 2.0, 2.4, 2.6, 2.0])) == [False, False, False, False, True, False]
    curve = growth.CURVES[0]
    walls = {1: 9.0, 10: 3.0, 100: 4.0}
    taken = [
        Taken(Sample(curve.name, "unix", "asyncio", "pg_wired", (), point), 0, {"wall_us": wall})
        for point, wall in walls.items()
    ]
    table = report.curve_table(curve, made("")._replace(taken=taken))
    assert [line.split() for line in table[1:]] == [["1", "9.00"], ["10", "3.00"], ["100", "4.00", "bends", "up"]]


def test_saved_results_load_unchanged(tmp_path: Path) -> None:
    point = Taken(Sample("grow-rows", "unix", "asyncio", "asyncpg", (), 10), 1, {"wall_us": 1.25})
    found = made("1-task", ("uvloop", "pg_wired", [{"wall_us": 10.0}]))
    found = found._replace(taken=[*found.taken, point])
    results.save(tmp_path / "results.json", found)
    assert results.load(tmp_path / "results.json") == found
    assert json.loads((tmp_path / "results.json").read_text())["samples"][1]["point"] == 10


def test_the_pages_and_charts_match_the_kept_samples() -> None:
    kept = results.load(ROOT / write_up.KEPT)
    for path, bodies in write_up.pages(kept).items():
        page = (ROOT / path).read_text()
        for name, body in bodies.items():
            assert write_up.region(page, name, body) == page, f"{path}: say `make write-up`, write nothing by hand"
    assert {path.stem for path in (ROOT / write_up.KEPT).parent.glob("*.svg")} == set(chart.titles(kept))


def test_a_page_without_the_region_is_refused() -> None:
    with pytest.raises(ValueError, match="no region 'headline'"):
        write_up.region("text", "headline", "body")


def test_charts_are_drawn_with_labels_and_stale_ones_are_removed(tmp_path: Path) -> None:
    found = made(
        "1-task",
        ("asyncio", "pg_wired", [{"wall_us": 10.0, "cpu_us": 5.0}, {"wall_us": 12.0, "cpu_us": 6.0}]),
        ("asyncio", "asyncpg", [{"wall_us": 18.0, "cpu_us": 11.0}]),
        ("-", "pgbench", [{"wall_us": 7.0}]),
    )
    (tmp_path / "of-another-run.svg").touch()
    point = Taken(Sample("grow-rows", "unix", "asyncio", "asyncpg", (), 10), 1, {"wall_us": 1.25})
    chart.draw(tmp_path, found._replace(taken=[*found.taken, point]))
    assert {path.name for path in tmp_path.iterdir()} == {"one-task.svg", "growth.svg"}
    drawn = (tmp_path / "one-task.svg").read_text()
    assert all(text in drawn for text in ("pgbench", "asyncpg", "asyncio: wall µs", "11.0"))
