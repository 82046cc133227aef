"""The rules of the layout: modules import lower modules only, pure modules stay pure, functions are mostly short."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SRC = Path(__file__).parents[1] / "src/pg_wired"

FLOORS = [
    "error_position",
    "error",
    "frozen",
    "protocol.__init__",
    "protocol.types",
    "protocol.records",
    "protocol.octets",
    "protocol.receiver",
    "saslprep",
    "scram",
    "tls",
    "option_kinds",
    "passfile",
    "service_file",
    "hosts",
    "policy",
    "options",
    "connection_string",
    "conninfo",
    "protocol.layout",
    "protocol.declare",
    "protocol.messages",
    "protocol.trace",
    "protocol.frontend",
    "protocol.backend",
    "protocol.columnar",
    "protocol.rows",
    "protocol.statements",
    "protocol.startup",
    "protocol.table",
    "protocol.requests",
    "protocol.deadlines",
    "protocol.outcomes",
    "protocol.extended_query",
    "protocol.notification_queue",
    "protocol.copy_binary",
    "protocol.transaction",
    "protocol.session",
    "owner",
    "syscalls",
    "transport",
    "inbox",
    "clock",
    "encrypt",
    "tls_context",
    "dial",
    "cancel",
    "certificate",
    "credentials",
    "terms",
    "failures",
    "target",
    "attempt",
    "connector",
    "connection",
    "watch",
    "link",
    "notifications",
    "turn",
    "reset",
    "row_stream",
    "copy",
    "pipeline",
    "portal",
    "queries",
    "exclusive",
    "async_conn",
    "backoff",
    "pool_settings",
    "pool_stats",
    "opener",
    "waiting",
    "lanes",
    "lending",
    "lent_turn",
    "listener",
    "probe",
    "async_pool",
    "__init__",
]
PURE = {
    "error",
    "error_position",
    "frozen",
    "saslprep",
    "scram",
    "option_kinds",
    "passfile",
    "service_file",
    "hosts",
    "policy",
    "options",
    "connection_string",
    "conninfo",
    *(name for name in FLOORS if name.startswith("protocol.")),
}
IMPURE = {"asyncio", "logging", "random", "secrets", "socket", "ssl", "threading", "time"}
# A module is one concept. More lines than this are a signal to look: whoever has looked lists the module here, and says
# what its one concept is.
LINES_TO_LOOK_AT = 700
LOOKED_AT = {"session.py": "one conversation: its requests, its bytes in both directions, its end"}
# Functions are mostly short: this share of them has at most so many lines. No function is longer than LONGEST_FUNCTION.
SHARE_OF_SHORT_FUNCTIONS, SHORT_FUNCTION, LONGEST_FUNCTION = 0.95, 30, 60
FOLDERS = ("src", "rig", "tests", "benchmarks")
ALL = sorted(
    path for name in FOLDERS for path in (SRC.parents[1] / name).rglob("*.p*") if path.suffix in (".py", ".pxd")
)

FILES = {".".join(path.relative_to(SRC).with_suffix("").parts): path for path in sorted(SRC.rglob("*.py"))}


def nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """All of them, but for what only a type checker reads: a cycle there is none at run time."""
    yield tree
    for child in ast.iter_child_nodes(tree):
        if not (isinstance(child, ast.If) and isinstance(child.test, ast.Name) and child.test.id == "TYPE_CHECKING"):
            yield from nodes(child)


def imports(name: str, code: str) -> set[str]:
    """What the module `name` imports: modules of ours by their names in FILES, others by their first word."""
    found = set()
    for node in nodes(ast.parse(code)):
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
    imported = imports(name, code)
    lower = FLOORS[: FLOORS.index(name)] if name in FLOORS else []
    found = [f"imports {other}" for other in sorted(imported) if other in FILES and other not in lower]
    if "pg_wired" in imported:
        found.append("imports pg_wired by its full name")
    if name in PURE:
        found += [f"imports {other}" for other in sorted(imported & IMPURE)]
        waits = (ast.AsyncFunctionDef, ast.Await, ast.AsyncFor, ast.AsyncWith)
        found += [f"waits in line {node.lineno}" for node in nodes(ast.parse(code)) if isinstance(node, waits)]
    return found


def test_every_module_has_its_floor() -> None:
    assert not FILES.keys() - set(FLOORS)


@pytest.mark.parametrize("name", FILES)
def test_imports_go_down_and_the_pure_stay_pure(name: str) -> None:
    path = FILES[name]
    assert not trespasses(name, path.read_text())
    assert not trespasses(name, header(path))


@pytest.mark.parametrize(
    ("name", "code", "trespass"),
    [
        ("protocol.types", "from . import session", "imports protocol.session"),
        ("protocol.types", "from .session import Session", "imports protocol.session"),
        ("protocol.types", "from ..async_conn import AsyncConn", "imports async_conn"),
        ("protocol.session", "def f():\n    from .. import transport", "imports transport"),
        ("protocol.session", "import pg_wired.error", "imports pg_wired by its full name"),
        ("error", "from asyncio.base_events import Server", "imports asyncio"),
        ("scram", "import os, secrets", "imports secrets"),
        ("conninfo", "def f():\n    async def g(): pass", "waits in line 2"),
        ("error", "if TYPE_CHECKING:\n    from .protocol.rows import Rows", None),
        ("transport", "import asyncio\nfrom .protocol import session", None),
        ("async_conn", "async def f(): await g()", None),
    ],
)
def test_the_rules_bite(name: str, code: str, trespass: str | None) -> None:
    assert trespasses(name, code) == ([trespass] if trespass else [])


def test_every_module_of_many_lines_has_been_looked_at() -> None:
    large = {path.name for path in ALL if len(path.read_text().splitlines()) > LINES_TO_LOOK_AT}
    assert large == LOOKED_AT.keys(), "look: is it one concept? Then list it in LOOKED_AT; else split it by concept"


def lengths(code: str) -> dict[str, int]:
    """The number of lines of each function, by its name and first line."""
    functions = [n for n in ast.walk(ast.parse(code)) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    return {f"{each.name}:{each.lineno}": (each.end_lineno or 0) - each.lineno + 1 for each in functions}


@pytest.mark.parametrize("folder", FOLDERS)
def test_functions_are_mostly_short(folder: str) -> None:
    files = [path for path in ALL if path.suffix == ".py" and path.is_relative_to(SRC.parents[1] / folder)]
    found = {f"{path.name}:{name}": n for path in files for name, n in lengths(path.read_text()).items()}
    assert not {name: n for name, n in found.items() if n > LONGEST_FUNCTION}
    short = sum(n <= SHORT_FUNCTION for n in found.values())
    assert short >= SHARE_OF_SHORT_FUNCTIONS * len(found)
