"""Every example of the documentation runs unchanged, and prints the output that it shows."""

from __future__ import annotations

import ast
import asyncio
import inspect
import re
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from types import CodeType
from typing import NamedTuple

import psycopg
import pytest
from _pytest.mark import ParameterSet
from psycopg.conninfo import make_conninfo

from rig.cluster import Cluster
from rig.postgres import Postgres, Server
from tests.servers.poolers import NEW, OLD, pooler

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```python\n(.*?)^```\n(?:\n```text\n(.*?)^```\n)?", re.MULTILINE | re.DOTALL)
SAID = re.compile(
    r"\bprint\(.*\)  # (.*)$", re.MULTILINE
)  # the output of a line is in a comment after it, or in a block below
README_DSN = "postgresql://app:secret@localhost/shop"
DATABASE = "pg_wired_docs"

# The tables that the pages use.
TABLES = """
CREATE TABLE item (id int4 CONSTRAINT item_pkey PRIMARY KEY, name text, price numeric);
INSERT INTO item VALUES (1, 'pencil', 0.90), (2, 'paper', 4.50), (3, 'desk', 240);
"""


class Example(NamedTuple):
    """One block of a page."""

    page: Path
    line: int
    source: str
    output: str | None

    def compile(self) -> CodeType:
        """Compile the block, which may use `await` at the top level; errors name the page and its line."""
        source = "\n" * self.line + self.source
        flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
        code: CodeType = compile(source, str(self.page), "exec", flags, dont_inherit=True)
        return code


def examples(page: Path) -> Iterator[Example]:
    text = page.read_text()
    for match in BLOCK.finditer(text):
        yield Example(page, text.count("\n", 0, match.start()) + 1, match[1], match[2])


EXAMPLES = list(chain.from_iterable(map(examples, PAGES)))
# The addresses in pages that mean several servers or a pooler, and the fixtures for them.
PLACES = {
    "postgresql://app:secret@db1,db2/shop": "two_servers",
    "postgresql://app:secret@pooler:6432/shop": "new_pooler",
    "postgresql://app:secret@old-pooler:6432/shop": "old_pooler",
}


def cases() -> Iterator[ParameterSet]:
    for example in EXAMPLES:
        marks = [pytest.mark.servers] if any(place in example.source for place in PLACES) else []
        yield pytest.param(example, marks=marks, id=f"{example.page.name}:{example.line}")


@pytest.fixture
def dsn(postgres: Server) -> Iterator[str]:
    """The dsn of a new database for one example, with the tables that the pages use."""
    drop = f"DROP DATABASE IF EXISTS {DATABASE} WITH (FORCE)".encode()
    with psycopg.connect(postgres.dsn, autocommit=True) as admin:
        admin.execute(drop)
        admin.execute(f"CREATE DATABASE {DATABASE}".encode())
        own = make_conninfo(postgres.dsn, dbname=DATABASE)
        with psycopg.connect(own) as conn:
            conn.execute(TABLES.encode())
        yield own
        admin.execute(drop)


@pytest.fixture
def two_servers(cluster: Cluster) -> str:
    """The dsn of primary and standby, the primary first."""
    cluster.primary.sql(f"DROP TABLE IF EXISTS item; {TABLES}")
    return cluster.dsn


def through(version: str, server: Postgres) -> Iterator[str]:
    with psycopg.connect(server.dsn) as conn:
        conn.execute(f"DROP TABLE IF EXISTS item; {TABLES}".encode())
    with pooler(version, server) as found:
        yield found.dsn


@pytest.fixture
def new_pooler(launched: Postgres) -> Iterator[str]:
    yield from through(NEW, launched)


@pytest.fixture
def old_pooler(launched: Postgres) -> Iterator[str]:
    yield from through(OLD, launched)


@pytest.mark.parametrize("example", list(cases()))
def test_each_example_prints_the_output_that_it_shows(
    example: Example, dsn: str, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    source = example.source.replace(README_DSN, dsn)
    for place, fixture in PLACES.items():
        if place in source:
            source = source.replace(place, request.getfixturevalue(fixture))
    code = example._replace(source=source).compile()
    globals_ = {"__name__": "__main__", "dsn": dsn}
    if code.co_flags & inspect.CO_COROUTINE:
        asyncio.run(eval(code, globals_))
    else:
        exec(code, globals_)
    printed = capsys.readouterr().out.splitlines()
    said = SAID.findall(example.source)
    assert [line for line in printed if line in said] == said, printed
    assert example.output is None or printed == example.output.splitlines()
    assert said or example.output, "an example prints something, and says what"


def test_every_verb_has_a_page_with_examples() -> None:
    verbs = {
        "queries",
        "transactions",
        "pipelines",
        "exclusive",
        "streams",
        "copy",
        "notifications",
        "pool",
        "cancelling",
        "servers",
        "wire",
        "connecting",
    }
    assert verbs | {"README"} <= {example.page.stem for example in EXAMPLES}
