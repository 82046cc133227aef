"""The instruction count check judges by its rules, and each scenario it counts works. Nothing is counted here."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import count, scenarios
from benchmarks.work import ROOT

FACTS = {"build": "compiled", "python": "CPython 3.0"}
NOTED = {"cython": "3.3.1", "valgrind": "3.19.0"}


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A record with two combinations of facts."""
    monkeypatch.delenv("CI", raising=False)
    path = tmp_path / "counts.json"
    count.accept(path, FACTS, NOTED, {"rows": 100.0, "encode": 50.0})
    count.accept(path, {**FACTS, "build": "interpreted"}, NOTED, {"rows": 9000.0, "encode": 7000.0})
    return path


@pytest.mark.parametrize(("rows", "code"), [(100.0, 0), (105.0, 0), (105.2, 1), (80.0, 0)])
def test_only_growth_beyond_the_limit_fails(
    path: Path, rows: float, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert count.judge(path, FACTS, NOTED, {"rows": rows, "encode": 50.0}) == code
    said = capsys.readouterr().out
    assert ("TOO MUCH" in said) == ("make count ARGS=--accept" in said) == bool(code)


def test_growth_with_another_cython_fails_and_names_both_versions(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert count.judge(path, FACTS, {**NOTED, "cython": "9"}, {"rows": 200.0, "encode": 50.0}) == 1
    assert "accepted with cython 3.3.1, this is 9" in capsys.readouterr().out


def test_a_scenario_without_an_accepted_count_fails(path: Path) -> None:
    assert count.judge(path, FACTS, NOTED, {"rows": 100.0, "encode": 50.0, "new": 1.0}) == 1


@pytest.mark.parametrize(("ci", "code"), [("true", 1), ("", 0)])
def test_an_unknown_combination_fails_only_in_ci(
    path: Path, ci: str, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CI", ci)
    assert count.judge(path, {**FACTS, "python": "CPython 9"}, NOTED, {"rows": 1000.0}) == code
    said = capsys.readouterr().out
    assert "no counts for this combination" in said and "1,000.0" in said


def test_accepting_counts_replaces_only_the_same_combination(path: Path) -> None:
    count.accept(path, FACTS, NOTED, {"rows": 300.0})
    found = {record["facts"]["build"]: record["counts"]["rows"] for record in count.records(path)}
    assert found == {"compiled": 300.0, "interpreted": 9000.0}


def test_the_record_has_every_scenario() -> None:
    assert count.records(count.RECORD)
    assert all(set(record["counts"]) == set(scenarios.SCENARIOS) for record in count.records(count.RECORD))


@pytest.mark.parametrize("name", scenarios.SCENARIOS)
def test_each_scenario_runs(name: str) -> None:
    make, times = scenarios.SCENARIOS[name]
    assert times > 0
    make()()


def test_a_scenario_runs_without_site_packages() -> None:
    command = [*count.SCENARIO, "cache-hit"]
    done = subprocess.run(command, cwd=ROOT, env=count.environment(), capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert count.SCENARIO[0] == sys.executable
