"""The layout: packages import only lower packages, no imports are circular, and pure modules stay pure."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

SRC = Path(__file__).parents[2] / "src/pg_wired"

# From the lowest to the highest. A module at the top of the tree counts as a package.
PACKAGES = [
    "errors",
    "protocol",
    "messages",
    "session",
    "auth",
    "config",
    "loop",
    "connect",
    "client",
    "pool",
    "testing",
    "__init__",
]
# These use no sockets, tasks, clocks, logging or randomness.
PURE = {"errors", "protocol", "session", "auth", "config"}
IMPURE = {"asyncio", "logging", "random", "secrets", "socket", "ssl", "threading", "time"}
# Modules in the longest chain of imports at run time. Imports inside functions count, imports for type checkers do not.
LONGEST_CHAIN = 14

FILES = {".".join(path.relative_to(SRC).with_suffix("").parts): path for path in sorted(SRC.rglob("*.py"))}


def package_of(module: str) -> str:
    return module.partition(".")[0]


def nodes(tree: ast.AST, types: bool) -> Iterator[ast.AST]:
    """All nodes, with or without those that only a type checker reads."""
    yield tree
    for child in ast.iter_child_nodes(tree):
        if types or not (isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)):
            yield from nodes(child, types)


def imports(name: str, code: str, types: bool = True) -> set[str]:
    """What the module `name` imports: our modules by their names in FILES, others by their first word."""
    found = set()
    for node in nodes(ast.parse(code), types):
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
    """The forbidden imports and waits in the code of the module `name`."""
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


def test_every_module_is_in_a_package_with_a_known_level() -> None:
    assert {package_of(name) for name in FILES} == set(PACKAGES)


@pytest.mark.parametrize("name", FILES)
def test_packages_import_only_lower_packages_and_pure_ones_stay_pure(name: str) -> None:
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
def test_the_check_finds_each_kind_of_violation(name: str, code: str, trespass: str | None) -> None:
    assert trespasses(name, code) == ([trespass] if trespass else [])


def graph(types: bool) -> dict[str, set[str]]:
    """The modules of ours that each module imports."""
    return {
        name: ((imports(name, path.read_text(), types) | imports(name, header(path))) & FILES.keys()) - {name}
        for name, path in FILES.items()
    }


def circle(graph: dict[str, set[str]]) -> list[str]:
    """The first circle of imports that is found, as module names; empty if there is none."""
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
    assert circle(graph(types=True)) == []


def test_the_check_finds_a_circle_of_imports() -> None:
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]


def longest_chain(graph: dict[str, set[str]]) -> tuple[str, ...]:
    """The modules of the longest chain of imports, from the top down."""

    @cache
    def below(name: str) -> tuple[str, ...]:
        return (name, *max((below(other) for other in graph[name]), key=len, default=()))

    return max(map(below, graph), key=len)


def test_no_chain_of_imports_is_long() -> None:
    chain = longest_chain(graph(types=False))
    assert len(chain) <= LONGEST_CHAIN, chain


def test_the_longest_chain_is_found() -> None:
    assert longest_chain({"a": {"b", "c"}, "b": {"c"}, "c": set(), "d": {"c"}}) == ("a", "b", "c")


# ---- private attributes


def private_names(package: str) -> set[str]:
    """The private names that a package defines: attributes that it assigns, methods and functions."""
    found = set()
    for name, path in FILES.items():
        if package_of(name) == package:
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                    found.add(node.attr)
                elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                    found.add(node.name)
                elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                    found.add(node.target.id)
    return {name for name in found if name.startswith("_") and not name.startswith("__")}


# Names that the standard library gives.
PRIVATE_OF_OTHERS = {"_replace", "_make", "_fields", "_get_running_loop"}
PRIVATE = {package: private_names(package) for package in PACKAGES}


def reaches(name: str, code: str) -> list[str]:
    """Where the code of a module uses a private attribute that its own package does not define."""
    own = PRIVATE[package_of(name)] | PRIVATE_OF_OTHERS
    return [
        f"line {node.lineno}: {ast.unparse(node)}"
        for node in ast.walk(ast.parse(code))
        if isinstance(node, ast.Attribute)
        and node.attr.startswith("_")
        and not node.attr.startswith("__")
        and not (isinstance(node.value, ast.Name) and node.value.id in ("self", "cls"))
        and node.attr not in own
    ]


@pytest.mark.parametrize("name", FILES)
def test_no_package_uses_private_attributes_of_another(name: str) -> None:
    assert reaches(name, FILES[name].read_text()) == []


def test_the_check_finds_a_private_attribute_of_another_package() -> None:
    assert reaches("pool.shared", "conn._wire.address") == ["line 1: conn._wire"]
    assert reaches("client.pipeline", "pipeline._groups") == []
