"""The statement cache against a model server, with events in any order: no request is ever answered wrongly.

Every request gets its own answer or its own error and runs at most once. No caller sees an error about a statement that
the server did not have, had already, or had in another shape. When nothing is in progress, cache and server agree.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from pg_wired.errors import Outcome
from pg_wired.protocol.server_error import PgError
from pg_wired.session.statements import statement_name
from tests.session.conversation import Client, Sink
from tests.session.server_model import Prepared, Server

SQLS = ["select $", "select $ from t", "values $", "show $", "insert $"]
SQL = st.sampled_from(SQLS)
OIDS = st.sampled_from([(), (25,)])
DISCARD = st.sampled_from(["discard all", "deallocate all"])


class CacheMachine(RuleBasedStateMachine):
    """The client writes, the server reads and answers, the client reads: each rule moves a limited amount."""

    @initialize(capacity=st.sampled_from([0, 1, 2, 3, 9]), max_in_flight=st.sampled_from([1, 2, 9]))
    def start(self, capacity: int, max_in_flight: int) -> None:
        self.client = Client(cache=capacity, max_in_flight=max_in_flight)
        self.server = Server()
        self.inbound = b""  # bytes in transit to the client
        self.asked: list[tuple[str, bytes, Sink]] = []
        self.lost_names: set[str] = set()  # names that the server lost independently of the client
        self.strange_names: set[str] = set()

    # ---- requests

    @rule(sql=SQL, oids=OIDS, formats=st.sampled_from([0, 1]))
    def query(self, sql: str, oids: tuple[int, ...], formats: int) -> None:
        nonce = b"%d" % len(self.asked)
        self.asked.append((sql, nonce, self.client.query(sql, nonce, oids=oids, result_formats=formats)))

    @rule(sql=SQL, n=st.integers(2, 5))
    def several(self, sql: str, n: int) -> None:
        for _ in range(n):
            self.query(sql, (), 0)

    @rule(sql=DISCARD, is_simple=st.booleans())
    def discard(self, sql: str, is_simple: bool) -> None:
        if is_simple:
            self.client.simple(sql)
        else:
            self.client.query(sql)

    @rule(which=st.integers(0, 99))
    def cancel(self, which: int) -> None:
        if self.asked:
            self.asked[which % len(self.asked)][2].cancelled = True

    @rule(sql=SQL | st.none())
    def invalidate(self, sql: str | None) -> None:
        self.client.session.statements.drop_sql(sql)

    # ---- changes on the server between two groups, as by DDL of other clients

    @rule(sql=SQL, n=st.integers(1, 2))
    def refuse_parse(self, sql: str, n: int) -> None:
        self.server.refusals[sql] = n

    @rule(sql=st.sampled_from(SQLS[:4]))
    def alter(self, sql: str) -> None:
        self.server.versions[sql] += 1

    @rule(sql=SQL, oids=OIDS)
    def lose(self, sql: str, oids: tuple[int, ...]) -> None:
        """A pooler assigned another backend, or another client deallocated the statement."""
        name = statement_name(sql, oids)
        self.server.prepared.pop(name, None)
        self.lost_names.add(name)

    @rule(sql=SQL, oids=OIDS)
    def have(self, sql: str, oids: tuple[int, ...]) -> None:
        """Another client of the pooler has prepared the same statement, in the shape that the cache knows.

        A different shape would not be detected before rows arrive, and would then end the connection.
        """
        if self.server.versions[sql]:
            return
        name = statement_name(sql, oids)
        self.server.prepared.setdefault(name, Prepared(sql, oids, self.server.versions[sql], 1))
        self.strange_names.add(name)

    # ---- the wire

    @rule(groups=st.integers(1, 4))
    def serve(self, groups: int) -> None:
        """The server answers some whole groups."""
        for _ in range(groups):
            end = self.group_end()
            if not end:
                return
            self.inbound += self.server.answer(self.client.take(end))

    def group_end(self) -> int:
        """The offset in `out` just after the Sync or Query that ends the first group; 0 if there is none."""
        out, i = self.client.session.out, 0
        while i < len(out):
            tag, i = out[i], i + 1 + int.from_bytes(out[i + 1 : i + 5], "big")
            if tag in b"SQ":
                return i
        return 0

    @rule(n=st.integers(1, 400))
    def receive(self, n: int) -> None:
        part, self.inbound = self.inbound[:n], self.inbound[n:]
        self.client.feed(part)

    @rule()
    def settle(self) -> None:
        while self.client.session.out or self.inbound:
            self.serve(9)
            self.receive(len(self.inbound))
        self.check_names()

    # ---- invariants

    @invariant()
    def it_lives(self) -> None:
        if hasattr(self, "client"):
            assert self.client.session.failure is None, self.client.session.failure

    @precondition(lambda self: hasattr(self, "client"))
    @invariant()
    def answers_are_right(self) -> None:
        ran = Counter(params[0] for params in self.server.executed if params)
        for sql, nonce, sink in self.asked:
            assert ran[nonce] <= 1, f"{sql!r} ran {ran[nonce]} times"
            if isinstance(sink.error, PgError):
                assert (sink.error.code, sink.error.message) == ("55P03", f"lock timeout: {sql}"), sink.error
                assert sink.error.outcome is Outcome.REJECTED and not ran[nonce]
            elif sink.is_answered:
                assert sink.error is None and ran[nonce] == 1, sink.error
                self.check_result(sql, nonce, sink.result)

    def check_result(self, sql: str, nonce: bytes, result: Any) -> None:
        if sql.startswith("insert"):
            assert (list(result), result.command_tag, result.fields) == ([], "INSERT 0 1", ())
            return
        [row] = result
        assert row[:2] == (sql.encode(), nonce) and set(row[2:]) <= {b"v"}
        assert len(result.fields) == len(row)

    def check_names(self) -> None:
        """Check that cache and server agree while nothing is in progress."""
        cache = self.client.session.statements
        names = set(self.server.prepared) - {""}
        ours = set(cache.keys)
        assert not self.client.session.waiting()
        assert all(sink.done() for _, _, sink in self.asked)
        assert ours <= names | self.lost_names
        assert names <= ours | set(cache.closing) | self.strange_names
        assert len(ours) <= cache.capacity and {entry.name for entry in cache.entries.values()} == ours
        for name in ours & names:
            statement = self.server.prepared[name]
            assert name == statement_name(statement.sql, statement.oids)

    def teardown(self) -> None:
        if hasattr(self, "client"):
            self.settle()
            self.answers_are_right()


TestCache = CacheMachine.TestCase
TestCache.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
