"""A model of PostgreSQL in memory: sync groups, prepared statements, transactions, and a few SQL commands.

It follows the protocol chapter and the recorded behaviour of real servers, and knows nothing of our session. `select`,
`show` and `values` return one row: the SQL, the parameters, and "v" for each time the SQL was altered. `fail` fails
when it runs; `copy in` and `copy out` begin a COPY.
"""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

from pg_wired.protocol import messages as m
from pg_wired.protocol.types import Row
from pg_wired.session.transaction import GUARD
from pg_wired.testing import describe, error
from tests.session.conversation import split

TAGS = {"insert": "INSERT 0 1", "discard": "DISCARD ALL", "deallocate": "DEALLOCATE ALL", "copy": "COPY 2"}
COPIED = (b"1\t2\n", b"3\t4\n")


class Prepared(NamedTuple):
    sql: str
    oids: tuple[int, ...]
    version: int
    arity: int  # number of parameters, each written as $


class Portal(NamedTuple):
    statement: Prepared
    params: tuple[bytes | None, ...]
    formats: tuple[int, ...]


class Refusal(Exception):
    """An ErrorResponse."""

    def __init__(self, code: str, message: str, routine: str = "") -> None:
        fields = {"S": "ERROR", "V": "ERROR", "C": code, "M": message, "R": routine}
        self.message = m.ErrorResponse(tuple(fields.items()))


class Server:
    """One backend. `executed` lists the parameters of every statement that ran; tests may set the other attributes."""

    def __init__(self) -> None:
        self.prepared: dict[str, Prepared] = {}
        self.portal: Portal | None = None
        self.status = "I"
        self.is_set_up = False  # the setting that is local to a transaction
        self.is_skipping = False
        self.copying = ""  # the message that began a COPY IN
        self.is_closed = False
        self.executed: list[tuple[bytes | None, ...]] = []
        self.versions: Counter[str] = Counter()  # how often the table of this SQL was altered
        self.refusals: Counter[str] = Counter()  # how many Parses of this SQL will time out on a lock

    def answer(self, data: bytes) -> bytes:
        """The answer to a sequence of whole messages."""
        return b"".join(m.encode(*self.take(message)) for message in split(data))

    def take(self, message: m.FrontendMessage) -> list[m.BackendMessage]:
        """The answer to one message."""
        if self.is_closed:
            return []
        if self.copying:
            return self._copy(message)
        if isinstance(message, m.Sync):
            self.is_skipping = False
            return [m.ReadyForQuery(self.status)]
        if self.is_skipping or isinstance(message, m.Terminate):
            return []
        if isinstance(message, m.Query):
            return self._query(message.query)
        try:
            return self._extended(message)
        except Refusal as refusal:
            self.is_skipping = True
            self._fail()
            return [refusal.message]

    def _fail(self) -> None:
        self.status = "I" if self.status == "I" else "E"

    def _copy(self, message: m.FrontendMessage) -> list[m.BackendMessage]:
        """Inside a COPY IN: Sync and Flush are ignored; a message that is not part of a COPY ends the connection."""
        if isinstance(message, m.CopyData | m.Sync | m.Flush):
            return []
        by, self.copying = self.copying, ""
        ready: list[m.BackendMessage] = [m.ReadyForQuery(self.status)] if by == "Query" else []
        if isinstance(message, m.CopyDone):
            return [m.CommandComplete("COPY 2"), *ready]
        if isinstance(message, m.CopyFail):
            self.is_skipping = by == "Execute"
            return [error("57014", f"COPY from stdin failed: {message.message}"), *ready]
        self.is_closed = True
        lost = "protocol synchronization was lost"
        return [error("08P01", "unexpected message during COPY"), error("08P01", lost, "FATAL")]

    def _query(self, sql: str) -> list[m.BackendMessage]:
        answer: list[m.BackendMessage] = []
        try:
            for statement in filter(None, map(str.strip, sql.split(";"))):
                prepared = self._parse(statement, ())
                answer += [
                    described for described in self._columns(prepared, ()) if isinstance(described, m.RowDescription)
                ]
                answer += self._run(Portal(prepared, (None,) * prepared.arity, ()), "Query")
                if self.copying:
                    return answer
        except Refusal as refusal:
            self._fail()
            answer.append(refusal.message)
        return [*(answer or [m.EmptyQueryResponse()]), m.ReadyForQuery(self.status)]

    def _extended(self, message: m.FrontendMessage) -> list[m.BackendMessage]:
        match message:
            case m.Parse(name, sql, oids):
                if name and name in self.prepared:
                    raise Refusal("42P05", "prepared statement already exists")
                self.prepared[name] = self._parse(sql, oids)
                return [m.ParseComplete()]
            case m.Describe("S", name):
                statement = self._find(name)
                oids = (*statement.oids, *(25,) * statement.arity)[: max(statement.arity, len(statement.oids))]
                return [m.ParameterDescription(oids), *self._columns(statement, ())]
            case m.Describe("P"):
                assert self.portal
                return self._columns(self.portal.statement, self.portal.formats)
            case m.Bind(_, name, _, params, formats):
                self.portal = self._bind(name, params, formats)
                return [m.BindComplete()]
            case m.Execute():
                assert self.portal
                return self._run(self.portal, "Execute")
            case m.Close("S", name):
                self.prepared.pop(name, None)
                return [m.CloseComplete()]
        raise AssertionError(f"the model has no answer to {message}")

    def _parse(self, sql: str, oids: tuple[int, ...]) -> Prepared:
        self._refuse_if_failed(sql)
        if self.refusals[sql]:
            self.refusals[sql] -= 1
            raise Refusal("55P03", f"lock timeout: {sql}")
        return Prepared(sql, oids, self.versions[sql], sql.count("$"))

    def _refuse_if_failed(self, sql: str) -> None:
        if self.status == "E" and sql.lower() not in ("commit", "rollback", ""):
            raise Refusal("25P02", "current transaction is aborted")

    def _find(self, name: str) -> Prepared:
        if name not in self.prepared:
            raise Refusal("26000", f"prepared statement {name!r} does not exist")
        return self.prepared[name]

    def _bind(self, name: str, params: tuple[bytes | None, ...], formats: tuple[int, ...]) -> Portal:
        statement = self._find(name)
        self._refuse_if_failed(statement.sql)
        if len(params) != statement.arity:
            raise Refusal("08P01", f"{len(params)} parameters for {statement.sql!r}")
        if name and statement.version != self.versions[statement.sql]:
            raise Refusal("0A000", "cached plan must not change result type", "RevalidateCachedQuery")
        return Portal(statement, params, formats)

    def _columns(self, statement: Prepared, formats: tuple[int, ...]) -> list[m.BackendMessage]:
        count = len(self._row(statement, (None,) * statement.arity) or ())
        return [describe([f"c{number}" for number in range(count)], formats)]

    def _row(self, statement: Prepared, params: tuple[bytes | None, ...]) -> Row | None:
        if statement.sql == GUARD:
            return (b"1",)
        if statement.sql.startswith(("select", "show", "values")):
            return (statement.sql.encode(), *params, *(b"v",) * statement.version)
        return None

    def _run(self, portal: Portal, by: str) -> list[m.BackendMessage]:
        sql = portal.statement.sql
        if not sql:
            return [m.EmptyQueryResponse()]
        self._refuse_if_failed(sql)
        word, _, rest = sql.lower().partition(" ")
        if word == "fail":
            raise Refusal("22012", sql)
        if word in ("begin", "commit", "rollback"):
            return [m.CommandComplete(self._transact(word))]
        if rest.startswith("local pg_wired.setup"):
            self.is_set_up = True
        if sql == GUARD and not self.is_set_up:
            raise Refusal("22012", "division by zero")
        if word in ("discard", "deallocate"):
            if word == "discard" and self.status != "I":
                raise Refusal("25001", "DISCARD ALL cannot run inside a transaction block")
            self.prepared.clear()
        self.executed.append(portal.params)
        if sql == "copy in":
            self.copying = by
            return [m.CopyInResponse(0, (0, 0))]
        row = self._row(portal.statement, portal.params)
        tag = m.CommandComplete(TAGS.get(word, word.upper()) if row is None else f"{word.upper()} 1")
        if sql == "copy out":
            return [m.CopyOutResponse(0, (0, 0)), *map(m.CopyData, COPIED), m.CopyDone(), tag]
        return [tag] if row is None else [m.DataRow(row), tag]

    def _transact(self, word: str) -> str:
        """Run BEGIN, COMMIT or ROLLBACK, and return its command tag."""
        tag = "ROLLBACK" if self.status == "E" else word.upper()
        self.is_set_up = self.is_set_up and word == "begin"
        self.status = "T" if word == "begin" else "I"
        return tag
