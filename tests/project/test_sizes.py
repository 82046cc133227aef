"""Each module is one concept, and most functions are short."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# Each module is one concept. Look at a module with more lines than this; if it is one concept, list it here and name
# the concept.
LINES_TO_LOOK_AT = 700
LOOKED_AT = {"session.py": "one conversation: its requests, its bytes in both directions, its end"}
# This share of the functions has at most SHORT_FUNCTION lines. No function is longer than LONGEST_FUNCTION.
SHARE_OF_SHORT_FUNCTIONS, SHORT_FUNCTION, LONGEST_FUNCTION = 0.95, 30, 60
FOLDERS = ("src", "rig", "tests", "benchmarks")
ALL = sorted(path for name in FOLDERS for path in (ROOT / name).rglob("*.p*") if path.suffix in (".py", ".pxd"))


def test_every_long_module_is_listed_with_its_concept() -> None:
    large = {path.name for path in ALL if len(path.read_text().splitlines()) > LINES_TO_LOOK_AT}
    assert large == LOOKED_AT.keys(), "look: is it one concept? Then list it in LOOKED_AT; else split it by concept"


def lengths(code: str) -> dict[str, int]:
    """The number of lines of each function, by its name and first line."""
    functions = [n for n in ast.walk(ast.parse(code)) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    return {f"{each.name}:{each.lineno}": (each.end_lineno or 0) - each.lineno + 1 for each in functions}


@pytest.mark.parametrize("folder", FOLDERS)
def test_most_functions_are_short_and_none_is_too_long(folder: str) -> None:
    files = [path for path in ALL if path.suffix == ".py" and path.is_relative_to(ROOT / folder)]
    found = {f"{path.name}:{name}": n for path in files for name, n in lengths(path.read_text()).items()}
    assert not {name: n for name, n in found.items() if n > LONGEST_FUNCTION}
    short = sum(n <= SHORT_FUNCTION for n in found.values())
    assert short >= SHARE_OF_SHORT_FUNCTIONS * len(found)
