"""The layout: packages import lower packages only, nothing imports in a circle, pure modules stay pure."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

SRC = Path(__file__).parents[2] / "src/pg_wired"

# From the lowest to the highest. A module at the top of the tree counts as a package of its own.
PACKAGES = [
    "errors",
    "frozen",
    "protocol",
    "session",
    "auth",
    "config",
    "loop",
    "connect",
    "client",
    "pool",
    "__init__",
]
# These know no sockets, tasks, clocks, logging or randomness.
PURE = {"errors", "frozen", "protocol", "session", "auth", "config"}
IMPURE = {"asyncio", "logging", "random", "secrets", "socket", "ssl", "threading", "time"}
# Modules in the longest chain of imports, the package's own `__init__` included.
LONGEST_CHAIN = 24

FILES = {".".join(path.relative_to(SRC).with_suffix("").parts): path for path in sorted(SRC.rglob("*.py"))}


def package_of(module: str) -> str:
    return module.partition(".")[0]


def imports(name: str, code: str) -> set[str]:
    """What the module `name` imports, type imports included: our modules as in FILES, others by their first word."""
    found = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add(str(node.module).split(".")[0])
        elif isinstance(node, ast.ImportFrom):
            steps = [*name.split(".")[: -node.level], *(node.module.split(".") if node.module else [])]
            package = ".".join(steps)
            for alias in node.names:
                candidates = (f"{package}.{alias.name}".lstrip("."), package, f"{package}.__init__".lstrip("."))
                found.add(next(path for path in candidates if path in FILES))
    return found


def header(path: Path) -> str:
    """The cimports of a module's header, as imports."""
    text = path.with_suffix(".pxd").read_text() if path.with_suffix(".pxd").exists() else ""
    lines = [line for line in text.splitlines() if "cimport" in line]
    return "\n".join(lines).replace("cimport", "import")


def trespasses(name: str, code: str) -> list[str]:
    """What the code of the module `name` imports or does that it must not."""
    imported, package = imports(name, code), package_of(name)
    allowed = PACKAGES[: PACKAGES.index(package) + 1]
    found = [f"imports {other}" for other in sorted(imported) if other in FILES and package_of(other) not in allowed]
    if "pg_wired" in imported:
        found.append("imports pg_wired by its full name")
    if package in PURE:
        found += [f"imports {other}" for other in sorted(imported & IMPURE)]
        waits = (ast.AsyncFunctionDef, ast.Await, ast.AsyncFor, ast.AsyncWith)
        found += [f"waits in line {node.lineno}" for node in ast.walk(ast.parse(code)) if isinstance(node, waits)]
    return found


def test_every_module_is_in_a_package_that_has_its_place() -> None:
    assert {package_of(name) for name in FILES} == set(PACKAGES)


@pytest.mark.parametrize("name", FILES)
def test_packages_import_lower_packages_only_and_the_pure_stay_pure(name: str) -> None:
    path = FILES[name]
    assert not trespasses(name, path.read_text())
    assert not trespasses(name, header(path))


@pytest.mark.parametrize(
    ("name", "code", "trespass"),
    [
        ("protocol.types", "from ..session import session", "imports session.session"),
        ("protocol.types", "from ..session.session import Session", "imports session.session"),
        ("protocol.types", "from ..client.async_conn import AsyncConn", "imports client.async_conn"),
        ("session.session", "def f():\n    from ..loop import transport", "imports loop.transport"),
        ("session.session", "import pg_wired.errors", "imports pg_wired by its full name"),
        ("errors", "from asyncio.base_events import Server", "imports asyncio"),
        ("errors", "if TYPE_CHECKING:\n    from .protocol.rows import Rows", "imports protocol.rows"),
        ("auth.scram", "import os, secrets", "imports secrets"),
        ("config.config", "def f():\n    async def g(): pass", "waits in line 2"),
        ("loop.transport", "import asyncio\nfrom ..session import session", None),
        ("client.async_conn", "async def f(): await g()", None),
    ],
)
def test_the_check_finds_each_kind_of_trespass(name: str, code: str, trespass: str | None) -> None:
    assert trespasses(name, code) == ([trespass] if trespass else [])


GRAPH = {
    name: {other for other in imports(name, path.read_text()) | imports(name, header(path)) if other in FILES} - {name}
    for name, path in FILES.items()
}


def circle(graph: dict[str, set[str]]) -> list[str]:
    """Modules that import each other in a circle, the first one found; empty where there is none."""
    done: set[str] = set()

    def walk(name: str, path: list[str]) -> list[str]:
        if name in path:
            return [*path[path.index(name) :], name]
        if name not in done:
            for other in sorted(graph[name]):
                if found := walk(other, [*path, name]):
                    return found
            done.add(name)
        return []

    return next((found for name in graph if (found := walk(name, []))), [])


def test_no_modules_import_each_other_in_a_circle() -> None:
    assert circle(GRAPH) == []


def test_the_check_finds_a_circle() -> None:
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]


def longest_chain() -> tuple[str, ...]:
    """The modules of the longest chain of imports, from the top down."""

    @cache
    def below(name: str) -> tuple[str, ...]:
        return (name, *max((below(other) for other in GRAPH[name]), key=len, default=()))

    return max(map(below, GRAPH), key=len)


def test_no_chain_of_imports_is_long() -> None:
    chain = longest_chain()
    assert len(chain) <= LONGEST_CHAIN, chain
