"""The headers are complete: a local that is missing in one works but is slow, and no other check would show it."""

from __future__ import annotations

import ast
import importlib
import io
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

SRC = Path(__file__).parents[2] / "src"
HEADERS = sorted(SRC.rglob("*.pxd"))
SCOPES = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda
SCOPES |= ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp


class Declared(NamedTuple):
    """A function as declared in the header. `typed` are its typed locals; C code in the header needs none."""

    arguments: list[str]
    typed: set[str]
    is_code: bool


class Header(NamedTuple):
    """A header: its functions ("f" or "Class.f"), the attributes and base of each class, and all enum constants."""

    functions: dict[str, Declared]
    attributes: dict[str, set[str]]
    constants: dict[str, int]
    bases: dict[str, str]


def lines(pxd: str) -> Iterator[tuple[int, list[str]]]:
    """The logical lines, as depth and words. Python's tokenizer can read all of the language except `except?`."""
    depth, words = 0, list[str]()
    for token in tokenize.generate_tokens(io.StringIO(pxd.replace("except?", "except")).readline):
        depth += {tokenize.INDENT: 1, tokenize.DEDENT: -1}.get(token.type, 0)
        if token.type == tokenize.NEWLINE:
            yield depth, words
            words = []
        elif token.string.strip() and token.type != tokenize.COMMENT:
            words.append(token.string)


def split(words: list[str]) -> list[list[str]]:
    """Split at the commas outside brackets."""
    parts: list[list[str]] = [[]]
    depth = 0
    for word in words:
        depth += {"(": 1, "[": 1, ")": -1, "]": -1}.get(word, 0)
        if word == "," and not depth:
            parts.append([])
        else:
            parts[-1].append(word)
    return [part for part in parts if part]


def in_brackets(words: list[str]) -> list[list[str]]:
    """The parts between the first opening bracket and the last closing one."""
    return split(words[words.index("(") + 1 : len(words) - words[::-1].index(")") - 1])


def name_of(part: list[str]) -> str:
    """The name in a C declaration: its last word before a default."""
    return part[: part.index("=")][-1] if "=" in part else part[-1]


def read(pxd: str) -> Header:
    header = Header({}, {}, {}, {})
    owner, typed = "", set[str]()
    for depth, words in lines(pxd):
        if depth == 0:
            owner = ""
        if owner == "enum" and depth == 1:
            header.constants[words[0]] = int("".join(words[2:]), 0)
        elif depth > bool(owner) or words[0] in ("from", "cimport", "ctypedef") or words[:2] == ["cdef", "extern"]:
            continue
        elif words[:4] == ["@", "cython", ".", "locals"]:
            typed = {part[0] for part in in_brackets(words)}
        elif words[:2] == ["cdef", "enum"]:
            owner = "enum"
        elif words[:2] == ["cdef", "class"]:
            owner = words[2]
            header.attributes[owner] = set()
            if words[3] == "(":
                header.bases[owner] = words[4]
        elif words[0] in ("cdef", "cpdef") and "(" in words:
            name = words[words.index("(") - 1]
            arguments = [name_of(part) for part in in_brackets(words)]
            header.functions[f"{owner}.{name}" if owner else name] = Declared(arguments, typed, words[-1] == ":")
            typed = set()
        elif words[0] == "cdef" and owner:
            header.attributes[owner] |= {name_of(part) for part in split(words)}
        else:
            raise ValueError(f"a line of a header that this test cannot read: {' '.join(words)}")
    return header


def scope(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes below a node, except those inside functions, classes and comprehensions."""
    for child in ast.iter_child_nodes(node):
        yield child
        if not isinstance(child, SCOPES):
            yield from scope(child)


def functions(node: ast.AST, prefix: str = "") -> dict[str, ast.FunctionDef]:
    found: dict[str, ast.FunctionDef] = {}
    for child in scope(node):
        if isinstance(child, ast.FunctionDef):
            found[prefix + child.name] = child
        elif isinstance(child, ast.ClassDef):
            found |= functions(child, f"{child.name}.")
    return found


def arguments_of(function: ast.FunctionDef) -> list[str]:
    a = function.args  # no *args, no **kwargs: C functions take none
    return [argument.arg for argument in (*a.posonlyargs, *a.args, *a.kwonlyargs)]


def locals_of(function: ast.FunctionDef) -> set[str]:
    inside = list(scope(function))
    names = {node.id for node in inside if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    caught = {node.name for node in inside if isinstance(node, ast.ExceptHandler) and node.name}
    shared = {name for node in inside if isinstance(node, ast.Global) for name in node.names}
    return (names | caught) - shared


def attributes_of(function: ast.FunctionDef) -> set[str]:
    """The attributes that a method assigns to its first argument."""
    stored = [node for node in scope(function) if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)]
    me = arguments_of(function)[:1]
    return {node.attr for node in stored if isinstance(node.value, ast.Name) and [node.value.id] == me}


def complaints(pxd: str, py: str, elsewhere: dict[str, set[str]]) -> list[str]:
    """The differences between a header and its module; `elsewhere` has the attributes of classes in other headers."""
    header, code = read(pxd), functions(ast.parse(py))
    found = []
    for name, declared in header.functions.items():
        if name not in code:
            found.append(f"{name}: not in the module")
            continue
        arguments, names = arguments_of(code[name]), locals_of(code[name])
        if arguments != declared.arguments:
            found.append(f"{name}: takes {arguments}, in the header {declared.arguments}")
        if not declared.is_code:
            found += [f"{name}: no type for {local}" for local in sorted(names - declared.typed - set(arguments))]
            found += [f"{name}: no such local as {local}" for local in sorted(declared.typed - names)]
    for owner, declared_here in header.attributes.items():
        methods = [function for name, function in code.items() if name.startswith(f"{owner}.")]
        assigned = {attribute for method in methods for attribute in attributes_of(method)}
        known = declared_here | elsewhere.get(header.bases.get(owner, ""), set())
        found += [f"{owner}: {attribute} is not declared" for attribute in sorted(assigned - known)]
    return found


@pytest.mark.parametrize("path", HEADERS, ids=lambda path: path.name)
def test_each_header_declares_all_of_its_module(path: Path) -> None:
    others = [read(other.read_text()).attributes for other in HEADERS if other != path]
    elsewhere = {owner: attributes for header in others for owner, attributes in header.items()}
    found = complaints(path.read_text(), path.with_suffix(".py").read_text(), elsewhere)
    assert not found, "\n".join(found)


def from_behind(py: str) -> list[int]:
    """The lines with a negative index: compiled without `wraparound`, it would read outside the object."""
    indices = [node.slice for node in ast.walk(ast.parse(py)) if isinstance(node, ast.Subscript)]
    parts = [part for i in indices for part in ((i.lower, i.upper) if isinstance(i, ast.Slice) else (i,))]
    return [part.lineno for part in parts if isinstance(part, ast.UnaryOp) and isinstance(part.op, ast.USub)]


@pytest.mark.parametrize("path", HEADERS, ids=lambda path: path.name)
def test_compiled_modules_use_no_negative_index(path: Path) -> None:
    assert not from_behind(path.with_suffix(".py").read_text())


def test_the_check_finds_negative_indices() -> None:
    assert from_behind("a = b[-1]\nc = d[:-2]\ne = f[1:2]\ng = h[-1:]\ni = -j[0]\n") == [1, 2, 4]


@pytest.mark.parametrize("path", HEADERS, ids=lambda path: path.name)
def test_constants_in_header_and_module_are_equal(path: Path) -> None:
    module = importlib.import_module(".".join(path.relative_to(SRC).with_suffix("").parts))
    constants = read(path.read_text()).constants
    assert {name: getattr(module, name, None) for name in constants} == constants


TOY = """
cimport cython
from . cimport octets

cdef enum:
    LIMIT = -0x7

cdef extern from "Python.h":
    int PyByteArray_Resize(object, Py_ssize_t) except -1

cdef inline int twice(const unsigned char *p, int n) noexcept nogil:
    return n * 2

cdef class Toy(Thing):
    cdef public list items
    cdef readonly int used

    @cython.locals(
        n=Py_ssize_t,
        p="const unsigned char *",  # a comment
        error=object,
    )
    cpdef int take(self, bytes data, int stop=*) except? -1
"""
MODULE = """
def twice(p, n):
    doubled = n * 2
    return doubled

class Toy:
    def __init__(self, size):
        self.items, self.size = [], size
        other.unknown = 1

    def take(self, data, stop=0):
        global LAST
        p = data
        LAST = [x for x in p]
        for n in range(stop):
            def inner():
                hidden = 1
            try:
                self.used += n
            except ValueError as error:
                stop = 0
"""


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("", "", None),
        ("        p = data\n", "        p = q = data\n", "Toy.take: no type for q"),
        ("for n in", "for n, m in", "Toy.take: no type for m"),
        ("            try:", "            with f() as g: pass\n            try:", "Toy.take: no type for g"),
        ("as error", "as problem", "Toy.take: no type for problem"),
        ("        p = data\n", "", "Toy.take: no such local as p"),
        ("data, stop=0", "data, stopp=0", "Toy.take: takes ['self', 'data', 'stopp']"),
        ("def twice(p, n)", "def twice(n, p)", "twice: takes ['n', 'p']"),
        ("def twice", "def thrice", "twice: not in the module"),
        ("class Toy", "class Play", "Toy.take: not in the module"),
        ("self.used +=", "self.spent = ", "Toy: spent is not declared"),
        ("self.size = []", "self.length = []", "Toy: length is not declared"),
    ],
)
def test_the_check_finds_each_kind_of_difference(old: str, new: str, complaint: str | None) -> None:
    found = "\n".join(complaints(TOY, MODULE.replace(old, new) if old else MODULE, {"Thing": {"size"}}))
    assert (complaint in found) if complaint else not found, found


def test_a_header_line_that_cannot_be_read_is_an_error() -> None:
    with pytest.raises(ValueError, match="cannot read: int x"):
        read("int x\n")
    assert read(TOY).constants == {"LIMIT": -7}


def methods_of_c(pxd: str) -> set[str]:
    """The methods that a header declares as functions of C."""
    return {name.partition(".")[2] for name in read(pxd).functions if "." in name}


METHODS_OF_C = {name for header in HEADERS for name in methods_of_c(header.read_text())}


def stored_methods(py: str, methods: set[str]) -> list[str]:
    """Where a method of C of one of our objects is stored. Its call as a value is undefined: the C types differ."""
    tree = ast.parse(py)
    called = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    return [
        f"line {node.lineno}: {ast.unparse(node.value)}"
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign)
        and isinstance(node.value, ast.Attribute)
        and node.value.attr in methods
        and id(node.value) not in called
        and ast.unparse(node.value).startswith("self.")
    ]


@pytest.mark.parametrize("path", HEADERS, ids=lambda path: path.name)
def test_no_method_of_c_is_stored_as_a_value(path: Path) -> None:
    assert not stored_methods(path.with_suffix(".py").read_text(), METHODS_OF_C)


def test_a_stored_method_is_found() -> None:
    assert stored_methods("self.check_owner = self.owner.check", {"check"}) == ["line 1: self.owner.check"]
    assert not stored_methods("self.result = self.owner.check()\nself.n = self.owner.count", {"check"})
