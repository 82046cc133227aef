"""The statement cache: names, formats, eviction, closing. Its behaviour against a server: test_statements_model."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pg_wired.protocol import frontend
from pg_wired.protocol.records import FieldDescription
from pg_wired.session.statements import MAX_CACHED_SQL_CHARS, Statement, StatementCache, formatted, statement_name

A, B = FieldDescription("a", 0, 0, 23, 4, -1, 0), FieldDescription("b", 0, 0, 25, -1, -1, 0)
TEXT, BINARY = frontend.ALL_TEXT, frontend.formats(1, "x")


def find(cache: StatementCache, sql: str, oids: tuple[int, ...] = (), number: int = 1) -> Statement:
    """Find a statement and number it, as the session does."""
    statement = cache.find(sql, oids)
    statement.number = statement.number or number
    return statement


def test_the_name_is_a_digest_of_the_sql_and_the_parameter_types() -> None:
    sql = "select " + "x" * 5000
    keys = [
        (sql + "1", ()),
        (sql + "2", ()),
        (sql + "1", (23,)),
        (sql + "1", (23, 25)),
        (sql + "1", (2325,)),
        ("é", ()),
    ]
    names = [statement_name(*key) for key in keys]
    assert len(set(names)) == len(keys)
    assert all(name.startswith("pgw_") and len(name) == 36 for name in names)  # the server cuts names at 63 bytes
    assert (
        statement_name("select 1", ()) == "pgw_e1e4eee43cbaeb92208717bf911c3886"
    )  # the same in every release and on every machine


def test_each_combination_of_sql_and_types_has_one_statement() -> None:
    cache = StatementCache(9)
    one = find(cache, "select 1")
    assert find(cache, "select 1") is one
    others = [find(cache, "select 1", (23,)), find(cache, "select 2"), find(cache, "select 1", (25,))]
    assert len({statement.name for statement in [one, *others]}) == 4
    assert [(s.sql, s.given_oids) for s in others] == [("select 1", (23,)), ("select 2", ()), ("select 1", (25,))]
    assert find(cache, "select 1") is one


def test_the_least_recently_used_statement_is_evicted_and_closed() -> None:
    cache = StatementCache(2)
    a, b = find(cache, "a"), find(cache, "b")
    assert find(cache, "a") is a and find(cache, "a") is a
    find(cache, "c")
    assert (list(cache.entries), cache.take_closing()) == (["a", "c"], [b.name])
    again = find(cache, "b")
    assert again is not b and again.name == b.name
    assert (list(cache.entries), cache.take_closing()) == (["c", "b"], [a.name])
    assert cache.take_closing() == []


@given(st.integers(1, 4), st.lists(st.integers(0, 6), max_size=40))
def test_the_cache_holds_the_most_recently_used_statements(capacity: int, uses: list[int]) -> None:
    cache = StatementCache(capacity)
    recent: list[str] = []
    closed: set[str] = set()
    for use in uses:
        sql = f"select {use}"
        find(cache, sql)
        recent = [*(word for word in recent if word != sql), sql]
        if len(recent) > capacity:
            closed.add(statement_name(recent.pop(0), ()))
        assert list(cache.entries) == recent
        assert cache.keys == {statement_name(word, ()): word for word in recent}
        assert set(cache.closing) == closed and len(cache.closing) == len(closed)


@pytest.mark.parametrize(
    ("capacity", "sql"), [(0, "select 1"), (5, "select " + "x" * MAX_CACHED_SQL_CHARS)], ids=["no capacity", "long"]
)
def test_a_statement_that_cannot_be_cached_is_unnamed(capacity: int, sql: str) -> None:
    cache = StatementCache(capacity)
    statement = find(cache, sql, (23,))
    assert (statement.name, statement.sql, statement.given_oids) == ("", sql, (23,))
    assert find(cache, sql, (23,)) is not statement
    cache.drop(statement, close=True)
    assert (list(cache.entries), cache.keys, cache.closing) == ([], {}, [])


def test_a_statement_whose_name_collides_is_unnamed() -> None:
    """A colliding digest cannot be made, but the cache entry that it would collide with can."""
    cache = StatementCache(5)
    cache.keys[statement_name("select 2", ())] = "select 1"
    assert find(cache, "select 2").name == ""


def test_drop_leaves_a_newer_statement_of_the_same_sql_alone() -> None:
    cache = StatementCache(5)
    old = find(cache, "select 1")
    cache.drop(old, close=False)
    assert cache.closing == []
    new = find(cache, "select 1")
    assert new is not old
    cache.drop(old, close=True)
    assert (find(cache, "select 1"), cache.closing) == (new, [])
    find(cache, "select 2")
    cache.drop(new, close=True)
    assert (list(cache.entries), cache.closing) == (["select 2"], [new.name])
    assert find(cache, "select 1").number == 1


def test_a_name_is_listed_for_closing_only_once() -> None:
    cache = StatementCache(5)
    cache.close("x")
    cache.close("y")
    cache.close("x")
    assert cache.take_closing() == ["x", "y"]


def test_drop_older_removes_statements_up_to_a_number_without_closing_them() -> None:
    cache = StatementCache(5)
    for number in (1, 2, 3):
        find(cache, f"select {number}", number=number)
    cache.drop_older(2)
    assert (list(cache.entries), cache.closing) == (["select 3"], [])


def test_drop_sql_removes_and_closes_one_sql_or_all() -> None:
    cache = StatementCache(5)
    statements = [find(cache, "a"), find(cache, "b"), find(cache, "a", (23,)), find(cache, "c")]
    cache.drop_sql("a")
    assert list(cache.entries) == ["b", "c"]
    cache.drop_sql("never seen")
    cache.drop_sql(None)
    assert list(cache.entries) == [] and set(cache.take_closing()) == {statement.name for statement in statements}


@pytest.mark.parametrize(
    ("codes", "formats"),
    [((), (0, 0)), (0, (0, 0)), (1, (1, 1)), ([1], (1, 1)), ([0, 1], (0, 1)), ([1, 0], (1, 0))],
)
def test_columns_are_shown_in_the_requested_formats(codes: int | list[int], formats: tuple[int, int]) -> None:
    asked = frontend.formats(codes, "x")
    shown = formatted((A, B), asked)
    assert shown == (A._replace(format=formats[0]), B._replace(format=formats[1]))
    assert formatted((), asked) == ()


def test_a_description_is_shown_in_the_format_of_each_use() -> None:
    statement = Statement("x", "name", "select $1", ())
    statement.shape(TEXT, BINARY, 1)
    assert statement.head == b"\0name\0" + b"\0\0" + b"\0\1"
    statement.describe((23,), (A, B), 2)
    assert (statement.param_oids, statement.columns, statement.is_described) == ((23,), 2, True)
    assert [field.format for field in statement.shown] == [1, 1]
    shown = statement.shown
    statement.shape(TEXT, BINARY, 1)
    assert statement.shown is shown
    statement.shape(BINARY, TEXT, 2)
    assert statement.head == b"\0name\0" + b"\0\1\0\1" + b"\0\2" and statement.shown == (A, B)
    statement.shape(BINARY, BINARY, 2)
    assert [field.format for field in statement.shown] == [1, 1]
    statement.shape(BINARY, BINARY, 0)
    assert statement.head.endswith(b"\0\0")


STABLE = [
    "select 1",
    "SELECT",
    " \n\tinsert into t",
    "update t",
    "delete from t",
    "merge into t",
    "values (1)",
    "table t",
]
STABLE += [
    "with x as (select 1) select",
    "((select 1))",
    "-- note\nselect 1",
    "/* a * / ** note */ select 1",
    "/**/(select",
]
UNSTABLE = [
    "show timezone",
    "fetch 5 from c",
    "execute x",
    "explain select 1",
    "call p()",
    "",
    "selection",
    "-- select 1",
]
UNSTABLE += [
    "/* select 1",
    "/* a /* b */ c */ select 1",
    "create table t as select 1",
    "do $$ select $$",
    "declare c cursor",
]


@pytest.mark.parametrize(("sql", "is_stable"), [*((sql, True) for sql in STABLE), *((sql, False) for sql in UNSTABLE)])
def test_only_statements_with_stable_columns_keep_their_description(sql: str, is_stable: bool) -> None:
    statement = find(StatementCache(5), sql)
    assert statement.is_stable is is_stable
    statement.describe((), (A,), 1)
    assert statement.is_described is is_stable


def test_unparsable_sql_counts_as_unstable_without_slow_matching() -> None:
    """The time to match the pattern does not grow faster than the length of the SQL."""
    for sql in (
        "/*" * 8000,
        "(" * 16_000,
        "-" * 16_000,
        " " * 16_000 + "x",
        "/*/" * 5000,
        "/***" * 4000,
        "-- \n" * 4000,
    ):
        assert not find(StatementCache(5), sql).is_stable


def test_names_that_were_not_closed_after_all_are_closed_first_next_time() -> None:
    cache = StatementCache(2)
    cache.close("pgw_a")
    taken = cache.take_closing()
    cache.close("pgw_b")
    cache.not_closed(taken)
    assert cache.take_closing() == ["pgw_a", "pgw_b"]
    cache.close("pgw_c")
    cache.not_closed(cache.closing)  # none was taken
    assert cache.take_closing() == ["pgw_c"]
