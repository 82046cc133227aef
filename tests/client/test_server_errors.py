"""Errors of a real server: their fields, their text compared with psql's, and the outcome of the request."""

from __future__ import annotations

import os
import subprocess
from collections.abc import AsyncIterator

import pytest

from pg_wired import AsyncConn, Outcome, PgError, PgWireError, TransactionError
from rig.checks import answers, ends_clean
from rig.postgres import Server, binaries

pytestmark = pytest.mark.both_loops

SCHEMA = """
drop schema if exists errors cascade;
create schema errors;
create table errors.parent(id int constraint parent_pk primary key);
create table errors.child(
  id int references errors.parent deferrable initially deferred,
  checked int check (checked > 0)
);
create domain errors.small as int constraint less_than_ten check (value < 10);
create function errors.inner_divide(n int) returns int language plpgsql as 'begin return 1 / n; end';
create function errors.outer_divide(n int) returns int language plpgsql as 'begin return errors.inner_divide(n); end';
create function errors.misspelt() returns int language plpgsql as
  'begin return (select nonsense from errors.parent); end';
create function errors.shout() returns void language plpgsql as $$ begin
  raise 'loud' using errcode = 'P4567', detail = 'one' || chr(10) || 'two', hint = 'softly',
    column = 'c', constraint = 'k', datatype = 'd', table = 't', schema = 's';
end $$;
insert into errors.parent values (1);
"""


@pytest.fixture
async def conn(postgres: Server) -> AsyncIterator[AsyncConn]:
    async with await AsyncConn.connect(postgres.dsn) as conn:
        await conn.simple_query(SCHEMA)
        yield conn


async def refusal(conn: AsyncConn, sql: str) -> PgError:
    """The error with which the server must reject the query."""
    with pytest.raises(PgError) as caught:
        await conn.exec_query(sql)
    return caught.value


@ends_clean()
async def test_a_unique_violation_has_the_fields_of_the_server(conn: AsyncConn) -> None:
    error = await refusal(conn, "insert into errors.parent values (1)")
    assert (error.code, error.outcome) == ("23505", Outcome.REJECTED)
    assert (error.severity, error.severity_localized) == ("ERROR", "ERROR")
    assert error.message == 'duplicate key value violates unique constraint "parent_pk"'
    assert error.detail == "Key (id)=(1) already exists."
    assert (error.schema_name, error.table_name, error.constraint_name) == ("errors", "parent", "parent_pk")
    assert (error.file, error.routine) == ("nbtinsert.c", "_bt_check_unique") and error.line and error.line.isdigit()
    empty = (error.hint, error.position, error.where, error.internal_query, error.column_name, error.data_type_name)
    assert empty == (None,) * 6
    assert str(error) == f"ERROR:  {error.message}\nDETAIL:  {error.detail}"


@ends_clean()
async def test_errors_in_functions_have_where_and_internal_query(conn: AsyncConn) -> None:
    error = await refusal(conn, "select errors.outer_divide(0)")
    assert error.code == "22012" and error.where
    assert error.where.splitlines() == [
        "PL/pgSQL function errors.inner_divide(integer) line 1 at RETURN",
        "PL/pgSQL function errors.outer_divide(integer) line 1 at RETURN",
    ]
    error = await refusal(conn, "select errors.misspelt()")
    assert (error.code, error.internal_position, error.position) == ("42703", 9, None)
    assert error.internal_query == "(select nonsense from errors.parent)"


@ends_clean()
async def test_every_field_that_raise_can_set_arrives(conn: AsyncConn) -> None:
    error = await refusal(conn, "select errors.shout()")
    assert (error.code, error.message, error.detail, error.hint) == ("P4567", "loud", "one\ntwo", "softly")
    assert (error.schema_name, error.table_name, error.column_name) == ("s", "t", "c")
    assert (error.data_type_name, error.constraint_name) == ("d", "k")
    error = await refusal(conn, "select 11::errors.small")
    assert (error.data_type_name, error.constraint_name) == ("small", "less_than_ten")
    error = await refusal(conn, "insert into errors.child values (null, 0)")
    assert (error.code, error.table_name, error.constraint_name) == ("23514", "child", "child_checked_check")


@pytest.mark.parametrize(
    "sql",
    [
        "insert into errors.parent values (1)",
        "select nonsense from errors.parent",
        "select 1,\n\t2,\n  nonsens, 4\nfrom errors.parent",
        "select '\u00e4\u00f6\u00fc', nonsense",
        "select '\u6f22\u5b57', nonsense",
        "select * from errors.parents",
        "select sqrt('x')",
        "selec 1",
        "select (1",
        "select errors.outer_divide(0)",
        "select errors.misspelt()",
        "select errors.shout()",
        "select 1 + 'x'::text",
        "select " + "1 + " * 40 + "nonsense" + " + 1" * 40,
        "select '" + "\u00e9" * 100 + "', nonsense",
    ],
)
@ends_clean()
async def test_an_error_has_the_same_text_as_in_psql(conn: AsyncConn, postgres: Server, sql: str) -> None:
    error = await refusal(conn, sql)
    psql = subprocess.run(
        [binaries() / "psql", "-X", "-d", postgres.dsn, "-c", sql],
        env={**os.environ, "LC_ALL": "C.UTF-8"},
        capture_output=True,
        text=True,
    )
    assert str(error) == psql.stderr.rstrip("\n")
    await answers(conn)


@ends_clean()
async def test_a_deferred_constraint_that_fails_after_the_tag_rejects_the_request(conn: AsyncConn) -> None:
    for ask in (conn.exec_query, conn.simple_query):
        before, reply, after = (
            conn.exec_query("select 1"),
            ask("insert into errors.child values (2)"),
            conn.exec_query("select 3"),
        )
        assert [list(await before), list(await after)] == [[(b"1",)], [(b"3",)]]
        with pytest.raises(PgError) as caught:
            await reply
        assert (caught.value.code, caught.value.outcome) == ("23503", Outcome.REJECTED)
    assert list(await conn.exec_query("select count(*) from errors.child")) == [(b"0",)]


@ends_clean()
async def test_an_error_after_a_commit_in_the_same_query_has_outcome_unknown(conn: AsyncConn) -> None:
    for number, (sql, outcome, rows) in enumerate(
        [
            ("begin; insert into errors.parent values ({}); commit; select 1/0", Outcome.UNKNOWN, 1),
            ("insert into errors.parent values ({}); select 1/0", Outcome.REJECTED, 0),
            ("insert into errors.parent values ({}); commit; select 1/0", Outcome.UNKNOWN, 1),
            ("begin; insert into errors.parent values ({}); rollback; select 1/0", Outcome.REJECTED, 0),
            ("begin; insert into errors.parent values ({}); commit and chain; select 1/0; commit", Outcome.UNKNOWN, 1),
        ],
        100,
    ):
        with pytest.raises(PgWireError) as caught:
            await conn.simple_query(sql.format(number))
        error = caught.value.__cause__ if isinstance(caught.value, TransactionError) else caught.value
        assert isinstance(error, PgError) and error.code == "22012", sql
        assert caught.value.outcome is outcome, sql
        found = await conn.exec_query("select count(*) from errors.parent where id = $1", (str(number),))
        assert list(found) == [(b"%d" % rows,)], sql


@ends_clean()
async def test_an_error_does_not_affect_neighbouring_requests(conn: AsyncConn) -> None:
    failing = [
        "selec",
        "select nonsense",
        "select 1/0",
        "select $1",
        "insert into errors.child values (77)",
        "select 1; select 2",
    ]
    replies = []
    for number in range(120):
        replies.append(conn.exec_query("select $1::int4", (str(number),)))
        replies.append(conn.exec_query(failing[number % len(failing)]))
    for number, (good, bad) in enumerate(zip(replies[::2], replies[1::2], strict=True)):
        assert list(await good) == [(b"%d" % number,)]
        with pytest.raises(PgError) as caught:
            await bad
        assert caught.value.outcome is Outcome.REJECTED
    await answers(conn)


@ends_clean()
async def test_an_error_of_class_08_does_not_end_the_connection(conn: AsyncConn) -> None:
    raising = "do $$ begin raise 'gone' using errcode = '08006'; end $$"
    error = await refusal(conn, raising)  # the severity says whether the session ends, not the class of the code
    assert (error.code, error.outcome) == ("08006", Outcome.REJECTED)
    await answers(conn)
