"""The statement cache: (SQL, parameter OIDs) -> the name on the server. Knows no requests and writes no bytes."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Hashable
from typing import TYPE_CHECKING

from ..protocol import frontend
from ..protocol.types import Oid

if TYPE_CHECKING:
    from ..protocol.records import FieldDescription

# Longer SQL is not worth keeping on both sides: it goes as an unnamed statement. asyncpg draws the line at 15 KiB.
MAX_CACHED_SQL_CHARS = 16 * 1024

# What these return cannot change without DDL, which the server notices (0A000). All else (FETCH, EXECUTE, SHOW, what
# the pattern cannot read) is described anew each time. Comments may stand before the first word.
# No two ways to match the same text: this runs on whatever SQL comes, and must not backtrack.
_STABLE = (
    r"(?i)(?:\s++|--[^\n]*+\n|/\*(?:[^*/]|\*(?!/)|/(?!\*))*+\*/|\()*+"
    r"(?:select|insert|update|delete|merge|values|table|with)\b"
)


class Statement:
    """One prepared statement, from the Parse that made it on: a later Parse of the same key makes a new one.

    Until it `is_parsed`, its name may be used in the sync `group` of its Parse, and elsewhere if `is_safe`: that Parse
    was the first message of a group outside a transaction, so nothing but itself could make it fail. `is_described`
    once ParameterDescription and the columns have come: until then a Describe goes with each use.
    """

    def __init__(self, key: Hashable, name: str, sql: str, param_oids: tuple[Oid, ...]) -> None:
        self.key = key
        self.name = name
        self.sql = sql
        self.given_oids = param_oids
        self.number = 0
        self.group = 0
        self.is_safe = False
        self.is_parsed = False
        self.has_failed = False
        self.is_described = False
        self.is_stable = re.match(_STABLE, sql) is not None
        self.param_oids: tuple[Oid, ...] = ()
        self.fields: tuple[FieldDescription, ...] = ()
        self.columns = 0
        self.count = -1
        self.param_formats = b""
        self.result_formats = b""
        self.head = b""
        self.shown: tuple[FieldDescription, ...] = ()

    def shape(self, param_formats: bytes, result_formats: bytes, count: int) -> None:
        """Fit `head` (what stands before the values in Bind) and `shown` (the columns as asked for) to one use."""
        if count == self.count and param_formats == self.param_formats and result_formats == self.result_formats:
            return
        self.head = frontend.bind_head(self.name, param_formats, count)
        self.shown = formatted(self.fields, result_formats)
        self.count = count
        self.param_formats = param_formats
        self.result_formats = result_formats

    def describe(self, param_oids: tuple[Oid, ...], fields: tuple[FieldDescription, ...], columns: int) -> None:
        """The description has come: keep it, and what is made of it. `columns` tells no columns from no rows."""
        self.param_oids = param_oids
        self.fields = fields
        self.columns = columns
        self.shown = formatted(fields, self.result_formats)
        self.is_described = self.is_stable


def formatted(fields: tuple[FieldDescription, ...], codes: bytes) -> tuple[FieldDescription, ...]:
    """`fields` with the formats that were asked for: a described statement shows text everywhere."""
    count = int.from_bytes(codes[:2], "big")
    if count == 0:
        return fields
    asked = [codes[i + 1] for i in range(2, len(codes), 2)]
    if count == 1:
        asked *= len(fields)
    return tuple([field._replace(format=code) for field, code in zip(fields, asked, strict=False)])


class StatementCache:
    """The statements of one connection, least recently used out; `capacity` 0 means unnamed statements only."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.entries: OrderedDict[Hashable, Statement] = OrderedDict()
        self.keys: dict[str, Hashable] = {}
        self.latest: Statement | None = None
        # Names that a Close must free on the server, before its next Parse.
        self.closing: list[str] = []

    def find(self, sql: str, param_oids: tuple[Oid, ...]) -> Statement:
        """The statement to use; one that `is_parsed` or has a `number` needs no Parse of its own."""
        key: Hashable = (sql, param_oids) if param_oids else sql
        statement = self.entries.get(key)
        if statement is None:
            return self._add(key, sql, param_oids)
        if statement is not self.latest:
            self.entries.move_to_end(key)
            self.latest = statement
        return statement

    def _add(self, key: Hashable, sql: str, param_oids: tuple[Oid, ...]) -> Statement:
        name = statement_name(sql, param_oids)
        # Two keys of one name would get each other's rows: the second goes unnamed.
        if self.capacity == 0 or len(sql) > MAX_CACHED_SQL_CHARS or name in self.keys:
            return self.unnamed(sql, param_oids)
        while len(self.entries) >= self.capacity:
            self.drop(next(iter(self.entries.values())), close=True)
        statement = Statement(key, name, sql, param_oids)
        self.entries[key] = self.latest = statement
        self.keys[name] = key
        return statement

    def unnamed(self, sql: str, param_oids: tuple[Oid, ...]) -> Statement:
        """A statement that is parsed for one use and not kept."""
        return Statement(None, "", sql, param_oids)

    def drop(self, statement: Statement, close: bool) -> None:
        """Forget this statement, and not a newer one of its key; `close` where the server may still have it."""
        if self.entries.get(statement.key) is not statement:
            return
        del self.entries[statement.key]
        del self.keys[statement.name]
        if statement is self.latest:
            self.latest = None
        if close:
            self.close(statement.name)

    def close(self, name: str) -> None:
        """Have this name freed on the server before its next Parse; not while a younger statement has it."""
        if name not in self.closing and name not in self.keys:
            self.closing.append(name)

    def drop_older(self, number: int) -> None:
        """The server has forgotten what was parsed up to request `number` (DISCARD ALL, DEALLOCATE ALL)."""
        for statement in [s for s in self.entries.values() if s.number <= number]:
            self.drop(statement, close=False)

    def drop_sql(self, sql: str | None) -> None:
        """Forget every statement of this SQL; of any SQL where it is None."""
        for statement in [s for s in self.entries.values() if sql is None or s.sql == sql]:
            self.drop(statement, close=True)

    def take_closing(self) -> list[str]:
        """The names to close now, once."""
        closing, self.closing = self.closing, []
        return closing


def statement_name(sql: str, param_oids: tuple[Oid, ...]) -> str:
    """A digest: behind a transaction pooler numbered names meet other clients' statements, and return their rows."""
    from hashlib import blake2b  # importing the package does not need OpenSSL's hashes

    text = sql.encode() + b"\0" + b",".join([b"%d" % oid for oid in param_oids])
    return "pgw_" + blake2b(text, digest_size=16).hexdigest()
