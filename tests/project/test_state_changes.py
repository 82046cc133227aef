"""Other modules change a session and its requests only through methods. Checked on the syntax tree."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SRC = Path(__file__).parents[2] / "src/pg_wired"
# The modules that own the state, and the classes that hold it.
OWN = [SRC / "protocol/buffers.py", *sorted((SRC / "session").rglob("*.py"))]

CLASSES = {"Session", "Request", "Window"}
OTHERS = sorted(set(SRC.rglob("*.py")) - set(OWN))
# Methods of containers that change them.
CHANGING = {"append", "appendleft", "clear", "extend", "insert", "pop", "popleft", "remove", "add", "discard", "update"}


def fields(files: list[Path]) -> set[str]:
    """The attributes that the methods of CLASSES assign to `self`."""
    found = set()
    for path in files:
        for cls in ast.walk(ast.parse(path.read_text())):
            if isinstance(cls, ast.ClassDef) and cls.name in CLASSES:
                found |= {
                    node.attr
                    for node in ast.walk(cls)
                    if isinstance(node, ast.Attribute)
                    and isinstance(node.ctx, ast.Store)
                    and isinstance(node.value, ast.Name)
                    and node.value.id == "self"
                }
    return found


FIELDS = fields(OWN)


def is_anothers(node: ast.AST) -> bool:
    """Whether this is a field of an object other than `self`."""
    return (
        isinstance(node, ast.Attribute)
        and node.attr in FIELDS
        and not (isinstance(node.value, ast.Name) and node.value.id in ("self", "cls"))
    )


def changes(code: str) -> Iterator[str]:
    """The places where code changes such a field of another object than `self`."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store | ast.Del) and is_anothers(node):
            yield f"line {node.lineno}: assigns {ast.unparse(node)}"
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            if node.func.attr in CHANGING and is_anothers(node.func.value):
                yield f"line {node.lineno}: calls {ast.unparse(node.func)}"
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "setattr":
            yield f"line {node.lineno}: calls setattr"


def test_the_fields_of_session_request_and_window_are_found() -> None:
    assert {"state", "pending", "holds", "reason", "sink", "consumer", "inside", "owner"} <= FIELDS


@pytest.mark.parametrize("path", OTHERS, ids=lambda path: str(path.relative_to(SRC)))
def test_no_other_module_changes_a_session_request_or_window(path: Path) -> None:
    assert list(changes(path.read_text())) == []


@pytest.mark.parametrize(
    ("code", "is_found"),
    [
        ("session.holds += 1", True),
        ("self._link.session.reason = None", True),
        ("del request.sink", True),
        ("request.sink, x = None, 1", True),
        ("window.inside.clear()", True),
        ("conn._core.session.pending.append(request)", True),
        ("setattr(session, 'state', 1)", True),
        ("self.state = 1", False),
        ("n = len(session.pending)", False),
        ("session.retire(reason)", False),
    ],
)
def test_the_check_finds_each_kind_of_change(code: str, is_found: bool) -> None:
    assert bool(list(changes(code))) is is_found
