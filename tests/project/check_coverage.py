"""Check that the tests of each module of protocol/ and session/ cover every branch of it.

The tests of PACKAGE/NAME.py are test_NAME.py and the files test_NAME_*.py in tests/PACKAGE that do not belong to a
module with a longer name. `python -m tests.project.check_coverage` checks all modules, or those that are named.

Each module is checked in its own process, forked from one that has pytest loaded, so that code that the tests of one
module import or run does not count for another. Prints the lines that are not covered, and fails if there are any.
"""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path

import coverage
import hypothesis
import pytest

ROOT = Path(__file__).parents[2]
SOURCES = [ROOT / "src/pg_wired" / package for package in ("protocol", "session")]
MODULES = {path.stem: path for folder in SOURCES for path in folder.glob("*.py") if path.stem != "__init__"}
# One process for each core: a test file mostly keeps one core busy.
OPTIONS = ["-p", "no:cacheprovider", "-W", "ignore::pytest.PytestAssertRewriteWarning"]
AT_ONCE = os.cpu_count() or 1


def tests_of(name: str) -> list[str]:
    """The test files of a module."""
    longer = [other for other in MODULES if other.startswith(f"{name}_")]
    folder = ROOT / "tests" / MODULES[name].parent.name
    files = [*folder.glob(f"test_{name}.py"), *folder.glob(f"test_{name}_*.py")]
    return sorted(str(path) for path in files if not path.stem.startswith(tuple(f"test_{each}" for each in longer)))


def check(name: str) -> str:
    """A report on what the tests of the module `name` do not cover; empty if they cover it all."""
    tests = tests_of(name)
    if not tests:
        return f"{MODULES[name]} has no test_{name}.py\n"
    sys.path.insert(0, str(ROOT / "src"))
    measured = coverage.Coverage(data_file=None, branch=True, include=[str(MODULES[name])], config_file=False)
    said = io.StringIO()
    measured.start()
    sys.stdout = said
    status = pytest.main([*OPTIONS, *tests])
    sys.stdout = sys.__stdout__
    measured.stop()
    report = io.StringIO()
    try:
        total = measured.report(show_missing=True, file=report)
    except coverage.exceptions.NoDataError:
        total = 0.0
    if status != pytest.ExitCode.OK:
        return said.getvalue()
    return "" if total == 100 else f"test_{name}*.py leave something out:\n{report.getvalue()}"


def start(name: str) -> tuple[int, int]:
    """Start a process that checks one module; return its id and a descriptor to read its report from."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        complaint = check(name).encode()
        os.close(reader)
        with os.fdopen(writer, "wb") as out:
            out.write(complaint)
        os._exit(bool(complaint))
    os.close(writer)
    return pid, reader


def main(names: list[str]) -> int:
    """Print the reports, and return the number of modules that are not covered."""
    hypothesis.settings.register_profile("coverage", deadline=None, database=None, max_examples=20)
    hypothesis.settings.load_profile("coverage")
    waiting = names or sorted(MODULES)
    failed = 0
    running: list[tuple[int, int]] = []
    while waiting or running:
        while waiting and len(running) < AT_ONCE:
            running.append(start(waiting.pop(0)))
        pid, reader = running.pop(0)
        with os.fdopen(reader, "rb") as complaint:
            print(complaint.read().decode(), end="", flush=True)
        failed += os.waitpid(pid, 0)[1] != 0
    print(
        "each module of protocol/ and session/ is covered by its own tests"
        if not failed
        else f"{failed} files are not covered"
    )
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
