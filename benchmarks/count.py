"""A speed regression test for busy machines too: valgrind counts the instructions of five pieces of work.

Every run of one build counts exactly the same. The counts are compared with those that `counts.json` in this folder has
for the same Python and compiler. `make count` fails if one has grown by more than 5 %. `make count ARGS=--accept`
records the new counts, for a change that is worth the cost.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeAlias

import pg_wired
from pg_wired.session import session

from .scenarios import SCENARIOS
from .work import OUTPUT, ROOT

Facts: TypeAlias = dict[str, str]
Counts: TypeAlias = dict[str, float]

RECORD = Path(__file__).with_name("counts.json")
ALLOWED = 0.05  # growth, as a share; intended effects of a change are larger, accidental ones smaller
DEADLINE = 300.0  # seconds for one run; it takes about five
VALGRIND = ("valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null")
# Without site-packages (-S): looking into that folder costs more, the more files it has.
SCENARIO = (sys.executable, "-S", "-m", "benchmarks.scenarios")
INSTALL = "make count needs valgrind: install it by your package manager (apt-get install valgrind)"


def build() -> str:
    """Return "compiled" or "interpreted" for the package that is measured."""
    return "compiled" if str(session.__file__).endswith(".so") else "interpreted"


def facts() -> Facts:
    """Return the facts that counts depend on so much that only counts with the same facts can be compared."""
    compiler = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")
    major = subprocess.run([*compiler, "-dumpversion"], capture_output=True, text=True, check=True).stdout
    return {
        "build": build(),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "python built by": platform.python_compiler(),
        "compiler": f"{Path(compiler[0]).name} {major.split('.')[0].strip()}",
        "libc": " ".join(platform.libc_ver()),
        "machine": platform.machine(),
    }


def noted() -> Facts:
    """Return versions that may change the counts too. A growth report shows a changed one, but still fails."""
    said = subprocess.run(["valgrind", "--version"], capture_output=True, text=True, check=True).stdout
    return {"cython": version("cython"), "valgrind": said.strip().removeprefix("valgrind-")}


def environment() -> dict[str, str]:
    """Return the same environment variables on every machine.

    Their names and values lie on the stack, and hashes determine the order of look-ups: both change the counts.
    """
    return {
        "PATH": os.environ.get("PATH", ""),
        "PYTHONHASHSEED": "0",
        "PYTHONPATH": os.pathsep.join([str(Path(pg_wired.__file__).parents[1]), str(ROOT)]),
        "PYTHONPYCACHEPREFIX": str(OUTPUT / "pycache"),
    }


def instructions(name: str) -> int:
    """Count the instructions of a process that runs the named scenario; with an empty name, no scenario."""
    command = [*VALGRIND, *SCENARIO, name]
    done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=DEADLINE)
    found = re.search(r"Collected : (\d+)", done.stderr)
    if done.returncode or not found:
        sys.exit(f"{' '.join(command)} failed:\n{done.stderr}")
    return int(found[1])


def counts() -> Counts:
    """Return the instructions of each scenario, divided by the number of times that it does its work."""
    # The first run compiles the imported modules, which must not be counted.
    subprocess.run(SCENARIO, cwd=ROOT, env=environment(), check=True)
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        idle, *totals = pool.map(instructions, ["", *SCENARIOS])
    works = zip(SCENARIOS.items(), totals, strict=True)
    return {name: round((total - idle) / times, 1) for (name, (_, times)), total in works}


def records(path: Path) -> list[dict[str, Any]]:
    """Return the accepted counts: one record for each combination of facts."""
    found: list[dict[str, Any]] = json.loads(path.read_text()) if path.exists() else []
    return found


def accept(path: Path, now: Facts, beside: Facts, counted: Counts) -> None:
    """Record these counts in place of those with the same facts."""
    kept = [record for record in records(path) if record["facts"] != now]
    path.write_text(json.dumps([*kept, {"facts": now, "noted": beside, "counts": counted}], indent=2) + "\n")


def compared(counted: Counts, before: Counts) -> Iterator[tuple[str, bool]]:
    """Yield a line of text for each scenario, and whether it has grown by more than ALLOWED or is new."""
    for name, count in counted.items():
        if name not in before:
            yield f"{name:<12}{count:>10,.1f}  new", True
            continue
        growth = count / before[name] - 1
        is_over = count > before[name] * (1 + ALLOWED)
        yield (
            f"{name:<12}{count:>10,.1f}{before[name]:>10,.1f}{growth:>+8.1%}{'  TOO MUCH' if is_over else ''}",
            is_over,
        )


def judge(path: Path, now: Facts, beside: Facts, counted: Counts) -> int:
    """Print the counts beside the accepted ones; return the exit code."""
    print(", ".join(f"{name} {fact}" for name, fact in (now | beside).items()))
    record = next((record for record in records(path) if record["facts"] == now), None)
    if record is None:
        print(*[f"{name:<12}{count:>10,.1f}" for name, count in counted.items()], sep="\n")
        print(f"{path.name} has no counts for this combination, so nothing is compared;")
        print("`make count ARGS=--accept` adds these. With CI=true this is a failure: nothing would be guarded there.")
        return 1 if os.environ.get("CI") == "true" else 0
    print(f"{'':<12}{'now':>10}{'accepted':>10}{'growth':>8}   instructions for each time")
    lines = list(compared(counted, record["counts"]))
    print(*[line for line, _ in lines], sep="\n")
    if not any(is_over for _, is_over in lines):
        return 0
    for name, fact in beside.items():
        if record["noted"][name] != fact:
            print(f"note: accepted with {name} {record['noted'][name]}, this is {fact}")
    print(f"More than {ALLOWED:.0%} is too much: mend it; or, if it is worth it, `make count ARGS=--accept`, commit")
    print(f"benchmarks/{path.name}, and say in the commit's body what it is worth.")
    return 1


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.count", description=__doc__)
    parser.add_argument("--accept", action="store_true", help="record the counts as accepted")
    given = parser.parse_args()
    if shutil.which("valgrind") is None:
        sys.exit(INSTALL)
    now, beside, counted = facts(), noted(), counts()
    if given.accept:
        accept(RECORD, now, beside, counted)
    return judge(RECORD, now, beside, counted)


if __name__ == "__main__":
    sys.exit(main())
