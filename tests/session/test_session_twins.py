"""The compiled and the interpreted build share one source and must behave alike: random traffic through both.

`PG_WIRED_OTHER_BUILD` is the folder that contains the other build's `pg_wired`. Without it the same build runs twice,
and the traffic must depend on nothing but its seed.
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
    """Run the same traffic in another process, with the package from `folder` and another hash seed."""
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


def test_both_builds_give_the_same_results_for_random_traffic() -> None:
    other_folder = os.environ.get("PG_WIRED_OTHER_BUILD")
    other = elsewhere(other_folder or str(Path(str(session.__file__)).parents[2]))
    if other_folder:
        assert {other["build"], traffic.build()} == {"compiled", "interpreted"}, "it is the same build"
    for seed in SEEDS:
        here = traffic.Traffic(seed).run()
        for what, seen in here.items():
            assert other["runs"][seed][what] == seen, f"{what} of `python -m tests.session.traffic {seed}`"


def test_the_random_traffic_covers_every_kind_of_answer() -> None:
    seen = [answer for seed in SEEDS for answer in traffic.Traffic(seed).run()["answers"]]
    kinds = ["ConnectionClosed", "PgError", "PipelineAborted", "ProtocolError", "RequestTimeout", "TransactionError"]
    for kind in [*kinds, "UsageError"]:
        assert sum(answer.startswith(f"('{kind}'") for answer in seen) >= 5, kind
    assert sum(answer.startswith("((FieldDescription") for answer in seen) > 300
