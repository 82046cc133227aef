"""The tests run on the build and on the event loops that they claim to run on."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HEADERS = [
    path.relative_to(ROOT / "src")
    for path in ROOT.glob("src/**/*.pxd")
    if path.stem not in {"octets", "syscalls", "table"}
]


def test_there_are_headers_to_check() -> None:
    assert HEADERS


@pytest.mark.smoke
@pytest.mark.parametrize("header", HEADERS, ids=str)
def test_all_modules_with_headers_are_of_one_build(header: Path) -> None:
    spec = importlib.util.find_spec(".".join(header.with_suffix("").parts))
    session = importlib.util.find_spec("pg_wired.session.session")
    assert spec and spec.origin and session and session.origin
    assert spec.origin.endswith(".so") == session.origin.endswith(".so"), spec.origin


def test_the_wrong_build_is_refused_at_once() -> None:
    session = importlib.util.find_spec("pg_wired.session.session")
    assert session and session.origin
    wrong = "interpreted" if session.origin.endswith(".so") else "compiled"
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-p", "no:cacheprovider", __file__],
        cwd=ROOT,
        env={**os.environ, "PG_WIRED_EXPECT": wrong},
        capture_output=True,
        text=True,
    )
    assert run.returncode == pytest.ExitCode.USAGE_ERROR, run.stdout + run.stderr
    assert f"PG_WIRED_EXPECT={wrong}" in run.stderr


@pytest.mark.both_loops
async def test_the_marker_both_loops_runs_a_test_on_each_named_loop(request: pytest.FixtureRequest) -> None:
    loop = type(asyncio.get_running_loop()).__module__.split(".")[0]
    assert f"[{loop}]" in request.node.name
