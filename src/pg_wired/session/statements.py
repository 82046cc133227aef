"""The statement cache maps SQL and parameter OIDs to the name of a statement on the server.

It knows no requests and writes no bytes.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Hashable
from typing import TYPE_CHECKING

from ..protocol import frontend
from ..protocol.types import Oid

if TYPE_CHECKING:
    from ..protocol.records import FieldDescription

# Longer SQL is sent as an unnamed statement: keeping it on both sides is not worth the memory. asyncpg's limit is
# 15 KiB.
MAX_CACHED_SQL_CHARS = 16 * 1024

# The result columns of these statements change only through DDL, which the server reports (0A000). Other statements
# (FETCH, EXECUTE, SHOW, and SQL that the pattern does not match) are described anew each time. Comments may come before
# the first word. The pattern has only one way to match a text and must not backtrack, because it runs on any SQL.
_STABLE = (
    r"(?i)(?:\s++|--[^\n]*+\n|/\*(?:[^*/]|\*(?!/)|/(?!\*))*+\*/|\()*+"
    r"(?:select|insert|update|delete|merge|values|table|with)\b"
)


class Statement:
    """One prepared statement, created by one Parse. A later Parse of the same key creates a new Statement.

    Before `is_parsed` is set, its name may be used in the sync `group` of its Parse, and in other groups only if it
    `is_safe`: the Parse was then the first message of a group outside a transaction, so no other message can make it
    fail. `is_described` is set when ParameterDescription and the columns have arrived; until then each use is sent with
    a Describe. `number` is that of the request with its Parse, 0 before it is sent.
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
        """Set `head` and `shown` for a use with `count` parameters and these format codes.

        `head` is the part of Bind before the values; `shown` are the columns with the result formats requested.
        """
        if count == self.count and param_formats == self.param_formats and result_formats == self.result_formats:
            return
        self.head = frontend.bind_head(self.name, param_formats, count)
        self.shown = formatted(self.fields, result_formats)
        self.count = count
        self.param_formats = param_formats
        self.result_formats = result_formats

    def describe(self, param_oids: tuple[Oid, ...], fields: tuple[FieldDescription, ...], columns: int) -> None:
        """Store the description from the server.

        `columns` is the number of columns, or NO_ROWS: a statement that returns rows may have no columns.
        """
        self.param_oids = param_oids
        self.fields = fields
        self.columns = columns
        self.shown = formatted(fields, self.result_formats)
        self.is_described = self.is_stable


def formatted(fields: tuple[FieldDescription, ...], codes: bytes) -> tuple[FieldDescription, ...]:
    """`fields` with the format codes requested in Bind. Describe of a statement always reports text."""
    count = int.from_bytes(codes[:2], "big")
    if count == 0:
        return fields
    asked = [codes[i + 1] for i in range(2, len(codes), 2)]
    if count == 1:
        asked *= len(fields)
    return tuple([field._replace(format=code) for field, code in zip(fields, asked, strict=False)])


class StatementCache:
    """The named statements of one connection, at most `capacity`. The least recently used one is dropped first.

    With the capacity 0 all statements are unnamed.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.entries: OrderedDict[Hashable, Statement] = OrderedDict()
        self.keys: dict[str, Hashable] = {}
        self.latest: Statement | None = None
        # Names that must be closed on the server before they are parsed again.
        self.closing: list[str] = []

    def find(self, sql: str, param_oids: tuple[Oid, ...]) -> Statement:
        """The statement to use for this SQL. If it has a `number`, its Parse has been encoded already."""
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
        # Two keys with the same name would return each other's rows: the second is sent as an unnamed statement.
        if self.capacity == 0 or len(sql) > MAX_CACHED_SQL_CHARS or name in self.keys:
            return self.unnamed(sql, param_oids)
        while len(self.entries) >= self.capacity:
            self.drop(next(iter(self.entries.values())), close=True)
        statement = Statement(key, name, sql, param_oids)
        self.entries[key] = self.latest = statement
        self.keys[name] = key
        return statement

    def unnamed(self, sql: str, param_oids: tuple[Oid, ...]) -> Statement:
        """An unnamed statement: it is parsed for one use and not cached."""
        return Statement(None, "", sql, param_oids)

    def drop(self, statement: Statement, close: bool) -> None:
        """Remove this statement, unless a newer one has replaced it under its key.

        With `close`, its name is closed on the server as well, because the server may still have it.
        """
        if self.entries.get(statement.key) is not statement:
            return
        del self.entries[statement.key]
        del self.keys[statement.name]
        if statement is self.latest:
            self.latest = None
        if close:
            self.close(statement.name)

    def close(self, name: str) -> None:
        """Close this name on the server before its next Parse, unless a newer statement uses the name."""
        if name not in self.closing and name not in self.keys:
            self.closing.append(name)

    def drop_older(self, number: int) -> None:
        """Remove all statements parsed up to request `number`: the server freed them (DISCARD ALL, DEALLOCATE ALL)."""
        for statement in [s for s in self.entries.values() if s.number <= number]:
            self.drop(statement, close=False)

    def drop_sql(self, sql: str | None) -> None:
        """Remove all statements with this SQL, or all statements if `sql` is None, and close them on the server."""
        for statement in [s for s in self.entries.values() if sql is None or s.sql == sql]:
            self.drop(statement, close=True)

    def take_closing(self) -> list[str]:
        """Return the names to close on the server, and clear the list."""
        closing, self.closing = self.closing, []
        return closing

    def not_closed(self, closing: list[str]) -> None:
        """These names, which were in `closing`, have not been closed after all."""
        if closing is not self.closing:
            self.closing[:0] = closing


def statement_name(sql: str, param_oids: tuple[Oid, ...]) -> str:
    """The name of a statement: a digest of its SQL and parameter OIDs.

    With a transaction pooler, several clients share a server connection. Numbered names would clash with the statements
    of other clients, and a query would return the rows of theirs.
    """
    from hashlib import blake2b  # here, so that importing the package does not load OpenSSL

    text = sql.encode() + b"\0" + b",".join([b"%d" % oid for oid in param_oids])
    return "pgw_" + blake2b(text, digest_size=16).hexdigest()
