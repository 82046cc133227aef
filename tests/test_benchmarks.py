"""That the benchmarks run, with the smallest numbers, and that the table says what was measured; judges no time."""

from __future__ import annotations

import importlib.util
import json
import math
import os
from pathlib import Path

import pytest

from benchmarks import report
from benchmarks.__main__ import main, take
from benchmarks.plan import CPU, LINES, RATE, WALL, Line, Sample, Scale, plan
from benchmarks.report import Taken

TINY = Scale(rounds=1, seconds=0.02, rows=1000, notifications=100, imports=1, repeats=1)
# Every command once: the second loop and the higher number of tasks add none.
ONCE = r"^(?!512).*/(asyncio|-)/|1-task/uvloop/pg_wired"


@pytest.mark.skipif(importlib.util.find_spec("asyncpg") is None, reason="asyncpg comes with the group bench")
def test_all_of_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, cores = tmp_path / "new/results.json", os.sched_getaffinity(0)
    main(["--only", ONCE, "--json", str(path), "--pin"], TINY)
    printed = capsys.readouterr().out
    samples = json.loads(path.read_text())["samples"]
    names = {sample["name"] for sample in samples}
    commands = {sample.command[:2] for sample in plan(TINY)}
    assert {sample.command[:2] for sample in plan(TINY) if sample.name in names} == commands
    for line in LINES:
        if line.name != "512-tasks":
            mine = [sample for sample in samples if sample["name"].startswith(f"{line.name}/")]
            assert {metric.key for metric in line.metrics} <= set().union(*mine), line.name
            assert line.title.format(**TINY._asdict()) in printed
    differences = {"more_ms", "held_mb"}  # of two measurements, so that they may be anything
    measured = [value for sample in samples for key, value in sample.items() if key not in {"name", *differences}]
    assert all(math.isfinite(value) and value >= 0 for value in measured), samples
    assert f"on core {max(cores)}" in printed and os.sched_getaffinity(0) == cores


def test_no_such_sample(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--only", "nobody"])
    assert "--only nobody" in capsys.readouterr().err


def test_a_sample_that_fails_says_how_to_repeat_it() -> None:
    sample = Sample("import", "-", "no_such_package", ("benchmarks.imports", "no_such_package"))
    with pytest.raises(SystemExit, match=r"(?s)import/-/no_such_package .*-m benchmarks\.imports.*ModuleNotFound"):
        take(sample, dict(os.environ))


def test_the_table() -> None:
    line = Line("line", "Title", (WALL, CPU, RATE), "limit")
    found = [
        ("asyncio", "pg_wired", [{"wall_us": 10.0, "rate": 9}, {"wall_us": 14.0, "rate": 8}, {"wall_us": 11.0}]),
        ("asyncio", "asyncpg", [{"wall_us": 22.0}]),
        ("uvloop", "asyncpg", [{"wall_us": 12.0}]),
        ("-", "limit", [{"wall_us": 5.5}]),
    ]
    taken = [
        Taken(Sample("line", loop, client, ()), number, metrics)
        for loop, client, samples in found
        for number, metrics in enumerate(samples)
    ]
    other = Taken(Sample("another", "asyncio", "asyncpg", ()), 0, {"wall_us": 99.0})
    assert report.table(line, [*taken, other]) == [
        "loop     client    wall µs    (min..max)  asyncpg  limit  1000/s  (min..max)",
        "asyncio  pg_wired     11.0  (10.0..14.0)    2.00x  0.50x     8.5  (8.0..9.0)",
        "asyncio  asyncpg      22.0  (22.0..22.0)           0.25x",
        "uvloop   asyncpg      12.0  (12.0..12.0)           0.46x",
        "-        limit         5.5    (5.5..5.5)",
    ]
