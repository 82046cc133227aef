"""Encoding an extended query: what the server must parse and close, given what the cache knows of a statement."""

from __future__ import annotations

import pytest

from pg_wired.protocol.records import FieldDescription
from pg_wired.session import extended_query
from pg_wired.session.request import Request
from pg_wired.session.statements import Statement, StatementCache
from pg_wired.session.table import State
from tests.session.conversation import split

FIELD = FieldDescription("a", 0, 0, 25, -1, -1, 0)


def asked(sql: str, *, is_item: bool = False, is_unnamed: bool = False, is_repaired: bool = False) -> Request:
    """A request without a caller."""
    request = Request(None, sql, 0.0)
    request.number, request.is_item, request.is_unnamed, request.is_repaired = 7, is_item, is_unnamed, is_repaired
    return request


def sent(request: Request, cache: StatementCache, group: int = 1, is_in_group: bool = False) -> str:
    """The tags of the appended messages; a quote marks a named statement, a double quote the unnamed one."""
    out = bytearray()
    extended_query.append(out, request, cache, group, is_in_group)
    said = []
    for message in split(bytes(out)):
        named = getattr(message, "name", None) or getattr(message, "statement", None)
        said.append(chr(message.tag or 0) + ("" if named is None else "'" if named else '"'))
    return "".join(said)


def known(cache: StatementCache, sql: str, *, is_described: bool = True, group: int = 1) -> Statement:
    """A statement that an earlier request prepared on the server."""
    statement = cache.find(sql, ())
    statement.number, statement.group = 1, group
    if is_described:
        statement.is_parsed = True
        statement.describe((), (FIELD,), 1)
    return statement


@pytest.mark.parametrize("is_item", [False, True])
def test_the_first_use_parses_and_describes_and_a_later_one_only_binds(is_item: bool) -> None:
    cache, end = StatementCache(4), "" if is_item else "S"
    first = asked("select", is_item=is_item)
    assert sent(first, cache) == "P'D'B'E" + end and first.parses
    assert first.statement is cache.find("select", ()) and (first.statement.number, first.statement.group) == (7, 1)
    known(cache, "select")
    later = asked("select", is_item=is_item)
    assert sent(later, cache) == "B'E" + end and not later.parses
    assert (later.fields, later.columns) == ((FIELD,), 1)
    assert first.script == bytes(
        [State.PARSE, State.PARAMETERS, State.FIELDS, State.BIND, State.EXECUTE, State.SYNC][: 5 if is_item else 6]
    )
    assert later.script == bytes([State.BIND, State.EXECUTE, State.SYNC][: 2 if is_item else 3])


@pytest.mark.parametrize("is_item", [False, True])
def test_an_undescribed_statement_is_reused_only_where_its_parse_is_safe(is_item: bool) -> None:
    """Its own sync group may use it; another group may use it only if its Parse cannot be rolled back."""
    cache = StatementCache(4)
    statement = known(cache, "select", is_described=False, group=3)
    again = asked("select", is_item=is_item)
    assert sent(again, cache, group=3) == "B'DE" + ("" if is_item else "S") and again.statement is statement
    assert again.script == bytes([State.BIND, State.FIELDS, State.EXECUTE, State.SYNC][: 3 if is_item else 4])
    assert sent(asked("select", is_item=is_item), cache, group=4).startswith('P"DB"')
    statement.is_safe = True
    assert sent(asked("select", is_item=is_item), cache, group=4).startswith('P"' if is_item else "B'")
    statement.is_parsed = True
    assert sent(asked("select", is_item=is_item), cache, group=4).startswith("B'")


def test_a_repaired_or_unnamed_request_uses_no_known_named_statement() -> None:
    cache = StatementCache(4)
    known(cache, "select")
    assert sent(asked("select", is_unnamed=True), cache) == 'P"DB"ES'
    assert sent(asked("select", is_repaired=True), cache) == 'P"DB"ES'
    assert sent(asked("new", is_repaired=True), cache) == "P'D'B'ES"


def test_evicted_statements_are_closed_at_the_start_of_a_group() -> None:
    cache = StatementCache(4)
    known(cache, "select")
    for sql, expected in (("new", "C'P'D'B'ES"), ("select", "C'B'ES")):
        cache.close("gone")
        request = asked(sql)
        assert sent(request, cache) == expected and request.script[0] == State.CLOSE and not cache.closing
    known(cache, "undescribed", is_described=False)
    cache.close("gone")
    assert sent(asked("undescribed"), cache) == "C'B'DES"
    cache.close("gone")
    assert sent(asked("select", is_item=True), cache, is_in_group=True) == "B'E" and cache.closing == ["gone"]


def test_a_name_that_is_still_to_be_closed_is_not_reused_inside_a_group() -> None:
    """The Close that frees the name cannot be sent inside a group."""
    cache = StatementCache(4)
    name = known(cache, "select").name
    cache.drop_sql("select")
    assert cache.closing == [name]
    assert sent(asked("select", is_item=True), cache, is_in_group=True) == 'P"DB"E'
    assert sent(asked("select"), cache) == "C'P'D'B'ES"


@pytest.mark.parametrize(
    ("is_in_group", "may_stay_open", "is_safe"), [(False, False, True), (True, False, False), (False, True, False)]
)
def test_a_statement_is_safe_only_if_its_parse_cannot_be_rolled_back(
    is_in_group: bool, may_stay_open: bool, is_safe: bool
) -> None:
    cache, request = StatementCache(4), asked("select")
    request.may_stay_open = may_stay_open
    sent(request, cache, is_in_group=is_in_group)
    assert request.statement is not None and request.statement.is_safe is is_safe
