"""The results of requests and the refusal of wrong arguments, against a real server on both loops."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from pg_wired import AsyncConn, ConfigError, FieldDescription, FormatCode, Outcome, PgError, Rows, TransactionStatus
from rig.checks import answers, ends_clean
from rig.postgres import Server

pytestmark = pytest.mark.both_loops

INT4, BYTEA, TEXT = 23, 17, 25  # pg_type.dat
ALL_BYTES = bytes(range(256))


@pytest.fixture
async def conn(postgres: Server) -> AsyncIterator[AsyncConn]:
    async with await AsyncConn.connect(postgres.dsn) as conn:
        yield conn


# ---- results


@pytest.mark.smoke
@ends_clean()
async def test_a_query_returns_its_rows(conn: AsyncConn) -> None:
    for _ in range(3):  # prepared, described, cached
        rows = await conn.exec_query("select $1::int4 + 1 as next, null, ''", ("41",))
        assert list(rows) == [(b"42", None, b"")]
        assert [field.name for field in rows.fields] == ["next", "?column?", "?column?"]
        assert [field.type_oid for field in rows.fields] == [INT4, TEXT, TEXT]
        assert (rows.command_tag, rows.rows_affected) == ("SELECT 1", 1)


@ends_clean()
async def test_every_byte_goes_both_ways_in_both_formats(conn: AsyncConn) -> None:
    sql = "select $1::bytea"
    for value in (ALL_BYTES, b"", b"\0", ALL_BYTES[::-1] * 300):
        as_hex = b"\\x" + value.hex().encode()
        for _ in range(2):
            binary = await conn.exec_query(sql, (value,), param_formats=1, result_formats=FormatCode.BINARY)
            assert list(binary) == [(value,)]
            assert list(await conn.exec_query(sql, (as_hex,))) == [(as_hex,)]
            assert list(await conn.exec_query(sql, (value,), param_formats=[1])) == [(as_hex,)]
            assert list(await conn.exec_query(sql, (as_hex,), result_formats=[1])) == [(value,)]
    assert list(await conn.exec_query(sql, (None,))) == [(None,)]


@ends_clean()
async def test_parameters_are_bytes_str_or_none(conn: AsyncConn) -> None:
    buffer = bytearray(b"bytearray")
    reply = conn.exec_query(
        "select $1::text, $2::text, $3::text, $4::text, $5::text",
        [b"bytes", buffer, memoryview(b"memoryview"), "h\u00e9\U0001f600", None],
    )
    buffer[:] = b"overwritten!"  # the value at the time of the call is sent
    assert list(await reply) == [(b"bytes", b"bytearray", b"memoryview", "h\u00e9\U0001f600".encode(), None)]


@ends_clean()
async def test_fields_show_the_formats_that_were_asked_for(conn: AsyncConn) -> None:
    sql = "select 1::int4 as a, 'x'::text as b"
    cases: list[tuple[Any, tuple[int, int]]] = [
        (0, (0, 0)),
        (1, (1, 1)),
        ([1, 0], (1, 0)),
        ([0, 1], (0, 1)),
        ([], (0, 0)),
    ]
    for asked, shown in cases * 2:
        rows = await conn.exec_query(sql, result_formats=asked)
        assert rows.fields == (
            FieldDescription("a", 0, 0, INT4, 4, -1, shown[0]),
            FieldDescription("b", 0, 0, TEXT, -1, -1, shown[1]),
        )
        assert list(rows) == [(b"\0\0\0\1" if shown[0] else b"1", b"x")]
    # several at once, before the description of the first has arrived
    twin = sql + " -- once more"
    many = await asyncio.gather(*[conn.exec_query(twin, result_formats=asked) for asked, _ in cases])
    assert [tuple(field.format for field in rows.fields) for rows in many] == [shown for _, shown in cases]


@ends_clean()
async def test_rows_may_have_from_none_to_1664_columns(conn: AsyncConn) -> None:
    for _ in range(2):
        assert list(await conn.exec_query("select from generate_series(1, 3)")) == [(), (), ()]
        wide = await conn.exec_query("select " + ", ".join(map(str, range(1664))))
        assert list(wide) == [tuple(b"%d" % n for n in range(1664))] and len(wide.fields) == 1664
        with pytest.raises(PgError) as caught:
            await conn.exec_query("select " + ", ".join(map(str, range(1665))))
        assert caught.value.code == "54011"
    await answers(conn)


@ends_clean()
async def test_statements_without_rows_return_empty_rows(conn: AsyncConn) -> None:
    table = "create temp table nothing(a int)"
    for sql, tag in ((table, "CREATE TABLE"), ("insert into nothing values (1), (2)", "INSERT 0 2"), ("", "")):
        rows = await conn.exec_query(sql)
        assert (list(rows), rows.fields, rows.command_tag) == ([], (), tag)
    for sql in ("", "  -- only a comment", ";"):
        for _ in range(2):
            rows = await conn.exec_query(sql)
            assert (list(rows), rows.command_tag, rows.rows_affected) == ([], "", None)
    none = await conn.exec_query("select a from nothing where false")
    assert (list(none), none.command_tag, len(none.fields)) == ([], "SELECT 0", 1)


@ends_clean()
async def test_each_command_returns_its_tag_and_row_count(conn: AsyncConn) -> None:
    for sql, tag, count in (
        ("create temp table counted(a int)", "CREATE TABLE", None),
        ("insert into counted select generate_series(1, 1234)", "INSERT 0 1234", 1234),
        ("update counted set a = a where a <= 100", "UPDATE 100", 100),
        ("delete from counted where a <= 7", "DELETE 7", 7),
        ("insert into counted values (1) returning a", "INSERT 0 1", 1),
        ("merge into counted using (values (1)) v(x) on a = x when matched then delete", "MERGE 1", 1),
        ("show server_version", "SHOW", None),
        ("set application_name = ''", "SET", None),
        ("truncate counted", "TRUNCATE TABLE", None),
    ):
        rows = await conn.exec_query(sql)
        assert (rows.command_tag, rows.rows_affected) == (tag, count), sql


@ends_clean()
async def test_large_values_arrive_unchanged(conn: AsyncConn) -> None:
    for size in (1, 262_143, 262_144, 5_000_000):
        rows = await conn.exec_query("select $1::bytea, 'tail'", (b"x" * size,), param_formats=1, result_formats=[1, 0])
        assert rows[0][0] == b"x" * size and rows[0][1] == b"tail"
    await answers(conn)


# ---- simple queries


@ends_clean()
async def test_a_simple_query_returns_one_rows_object_for_each_statement(conn: AsyncConn) -> None:
    results = await conn.simple_query(
        "select 1 as a; create temp table s(b int); select 2, 3 union all select null, 5;;"
    )
    assert [(list(rows), rows.command_tag) for rows in results] == [
        ([(b"1",)], "SELECT 1"),
        ([], "CREATE TABLE"),
        ([(b"2", b"3"), (None, b"5")], "SELECT 2"),
    ]
    assert [[field.name for field in rows.fields] for rows in results] == [["a"], [], ["?column?", "?column?"]]
    for nothing in ("", ";;", "-- comment"):
        [empty] = await conn.simple_query(nothing)
        assert (list(empty), empty.command_tag) == ([], "")


@ends_clean()
async def test_a_failed_simple_query_keeps_its_partial_results(conn: AsyncConn) -> None:
    with pytest.raises(PgError) as caught:
        await conn.simple_query("select 1; select 2; select 1/0; select 3")
    assert (caught.value.code, caught.value.outcome) == ("22012", Outcome.REJECTED)
    assert [list(rows) for rows in caught.value.partial] == [[(b"1",)], [(b"2",)]]
    await answers(conn)


@ends_clean()
async def test_a_simple_query_returns_the_results_that_rules_add(conn: AsyncConn) -> None:
    await conn.simple_query(
        "create temp table ruled(a int);"
        "create rule one as on insert to ruled do also select 1 as x from generate_series(1, 2);"
        "create rule two as on insert to ruled do also select 2 as y, 3 as z"
    )
    results = await conn.simple_query("insert into ruled values (1)")
    assert [list(rows) for rows in results] == [[(b"1",), (b"1",)], [(b"2", b"3")]]
    assert [rows.command_tag for rows in results] == ["", "INSERT 0 1"]
    assert list(await conn.exec_query("insert into ruled values (1)")) == []  # an Execute drops them
    await answers(conn)


# ---- describe


@ends_clean()
async def test_describe_returns_parameter_types_and_fields(conn: AsyncConn) -> None:
    described = await conn.describe("select $1::int4 + $2 as sum, $3::text", (0, 20))
    assert described.param_oids == (INT4, 20, TEXT)
    assert [(field.name, field.type_oid) for field in described.fields] == [("sum", 20), ("text", TEXT)]
    assert await conn.describe("vacuum") == ((), ())
    assert await conn.describe("") == ((), ())
    with pytest.raises(PgError) as caught:
        await conn.describe("select oops")
    assert (caught.value.code, caught.value.position, caught.value.outcome) == ("42703", 8, Outcome.REJECTED)
    assert "LINE 1: select oops\n               ^" in str(caught.value)


# ---- refusals


@ends_clean()
async def test_invalid_arguments_are_refused_by_the_call(conn: AsyncConn) -> None:
    refused: list[tuple[type[Exception], dict[str, Any]]] = [
        (TypeError, {"sql": b"select 1"}),
        (ConfigError, {"sql": "select '\0'"}),
        (ConfigError, {"sql": "select '\ud800'"}),
        (TypeError, {"params": (1,)}),
        (TypeError, {"params": "x"}),
        (TypeError, {"params": b"x"}),
        (ConfigError, {"params": ("\ud800",)}),
        (ConfigError, {"params": (None,) * 65_536}),
        (ConfigError, {"params": ("1",), "param_oids": (-1,)}),
        (ConfigError, {"params": ("1",), "param_formats": 2}),
        (ConfigError, {"params": ("1",), "param_formats": True}),
        (ConfigError, {"params": ("1",), "param_formats": [0, 0]}),
        (ConfigError, {"result_formats": [0, 7]}),
        (TypeError, {"timeout": "1"}),
    ]
    for error, arguments in refused:
        with pytest.raises(error) as caught:
            conn.exec_query(**{"sql": "select 1", **arguments})
        assert isinstance(caught.value, TypeError) or caught.value.outcome is Outcome.NOT_SENT  # type: ignore[attr-defined]
        assert conn.in_flight == 0
    await answers(conn)


@ends_clean()
async def test_a_query_takes_up_to_65535_parameters(conn: AsyncConn) -> None:
    for count in (0, 1, 32_767, 65_535):
        wanted = ", ".join(f"${n}::text" for n in range(1, count + 1))
        rows = await conn.exec_query(f"select cardinality(array[{wanted}]::text[])", ("x",) * count)
        assert list(rows) == [(b"%d" % count,)]


@ends_clean()
async def test_statements_and_values_that_the_server_rejects_raise_its_error(conn: AsyncConn) -> None:
    for sql, params, code in (
        ("select $1::text", (), "08P01"),
        ("select 1", ("x",), "08P01"),
        ("select 1; select 2", (), "42601"),
        ("select $1::int4", ("x",), "22P02"),
        ("select $1::text", ("a\0b",), "22021"),
        ("select $1::text", (b"\xff",), "22021"),
    ):
        for _ in range(2):
            with pytest.raises(PgError) as caught:
                await conn.exec_query(sql, params)
            assert (caught.value.code, caught.value.outcome) == (code, Outcome.REJECTED), sql
    await answers(conn)


# ---- state


@ends_clean()
async def test_the_attributes_show_the_state_of_the_connection(conn: AsyncConn, postgres: Server) -> None:
    assert (await conn.exec_query("select pg_backend_pid()"))[0] == (str(conn.backend_pid).encode(),)
    assert conn.parameters["client_encoding"] == "UTF8" and conn.parameters["server_version"]
    assert (conn.protocol_version, conn.transaction_status) == ((3, 0), TransactionStatus.IDLE)
    assert conn.is_alive and not conn.is_broken and not conn.is_state_mutated
    assert conn.auth_mechanism in ("trust", "SCRAM-SHA-256", "md5", "cleartext")
    assert conn.addr and f"pid={conn.backend_pid} alive in_flight=0" in repr(conn)
    replies = [conn.exec_query("select 1") for _ in range(5)]
    assert conn.in_flight == 5
    await asyncio.gather(*replies)
    conn.mark_state_mutated()
    assert conn.is_state_mutated and conn.take_state_mutated() and not conn.take_state_mutated()
    conn.mark_broken()
    assert conn.is_broken and conn.is_alive
    await answers(conn)


@ends_clean()
async def test_a_changed_setting_is_visible_when_its_request_returns(conn: AsyncConn) -> None:
    for zone in ("Europe/Berlin", "Asia/Tokyo"):
        await conn.exec_query(f"set timezone = '{zone}'")
        assert conn.parameters["TimeZone"] == zone
        [result] = await conn.simple_query("set timezone = 'UTC'")
        assert (result.command_tag, conn.parameters["TimeZone"]) == ("SET", "UTC")


@ends_clean()
async def test_notices_and_notifications_do_not_disturb_requests(conn: AsyncConn) -> None:
    await conn.exec_query("listen here")
    before = conn.dropped_notifications
    replies = [
        conn.exec_query("notify here, 'x'") if n % 3 else conn.simple_query("do $$ begin raise notice '%', 1; end $$")
        for n in range(30)
    ]
    results = await asyncio.gather(*replies)
    assert [isinstance(result, Rows) for result in results] == [bool(n % 3) for n in range(30)]
    await answers(conn)
    assert conn.dropped_notifications == before + 20
