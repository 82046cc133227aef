"""Compiled and interpreted are the same source, and must be the same to everybody: random traffic through both.

`PG_WIRED_OTHER_BUILD` is the folder that has the other build's `pg_wired` in it. Without it the same build runs twice,
and the traffic must not depend on anything but its seed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from pg_wired.session import session
from tests.session import traffic

ROOT = Path(__file__).parents[2]
SEEDS = [str(seed) for seed in range(150)]


def elsewhere(folder: str) -> dict[str, Any]:
    """The same traffic in a process of its own, with the package from there, and with hashes of its own."""
    run = subprocess.run(
        [sys.executable, "-m", "tests.session.traffic", *SEEDS],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": folder, "PYTHONHASHSEED": "7"},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    found: dict[str, Any] = json.loads(run.stdout)
    return found


def test_both_builds_see_and_do_the_same() -> None:
    other_folder = os.environ.get("PG_WIRED_OTHER_BUILD")
    other = elsewhere(other_folder or str(Path(str(session.__file__)).parents[2]))
    if other_folder:
        assert {other["build"], traffic.build()} == {"compiled", "interpreted"}, "it is the same build"
    for seed in SEEDS:
        here = traffic.Traffic(seed).run()
        for what, seen in here.items():
            assert other["runs"][seed][what] == seen, f"{what} of `python -m tests.session.traffic {seed}`"


def test_the_traffic_has_something_of_everything() -> None:
    seen = [answer for seed in SEEDS for answer in traffic.Traffic(seed).run()["answers"]]
    kinds = ["ConnectionClosed", "PgError", "PipelineAborted", "ProtocolError", "RequestTimeout", "TransactionError"]
    for kind in [*kinds, "UsageError"]:
        assert sum(answer.startswith(f"('{kind}'") for answer in seen) >= 5, kind
    assert sum(answer.startswith("((FieldDescription") for answer in seen) > 300
