"""The statement cache and a real server: no errors of the cache, no wrong columns, one Parse for each statement."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from pg_wired import AsyncConn, PgError, WireConn
from pg_wired.protocol import messages as m
from pg_wired.session.statements import MAX_CACHED_SQL_CHARS, statement_name
from pg_wired.testing import FakePG, Peer
from rig.checks import answers, cache_in_step, ends_clean, outcome_of, prepared
from rig.postgres import Server

pytestmark = pytest.mark.both_loops


@pytest.fixture
async def conn(postgres: Server) -> AsyncIterator[AsyncConn]:
    async with await AsyncConn.connect(postgres.dsn) as conn:
        yield conn


# ---- how often a statement is parsed


@ends_clean()
async def test_a_thousand_concurrent_first_uses_parse_once() -> None:
    parses = 0

    async def script(peer: Peer) -> None:
        nonlocal parses
        await peer.startup()
        for _ in range(1000):
            group = await peer.answer_rows([(b"x",)])
            parses += sum(isinstance(message, m.Parse) for message in group)
            assert [type(message) for message in group][-2:] == [m.Execute, m.Sync]

    async with FakePG(script) as fake, await AsyncConn.connect(fake.dsn) as conn:
        replies = [conn.exec_query("select $1", (str(n),)) for n in range(1000)]
        assert {tuple(rows) for rows in await asyncio.gather(*replies)} == {((b"x",),)}
    assert parses == 1


@ends_clean()
async def test_a_described_statement_sends_only_bind_execute_and_sync() -> None:
    kinds = []

    async def script(peer: Peer) -> None:
        await peer.startup()
        for _ in range(3):
            kinds.append("".join(chr(message.tag or 0) for message in await peer.answer_rows([(b"x",)])))

    async with FakePG(script) as fake, await AsyncConn.connect(fake.dsn) as conn:
        for _ in range(3):
            await conn.exec_query("select 1")
    assert kinds == ["PDBES", "BES", "BES"]


@ends_clean()
async def test_statement_names_are_the_same_on_every_connection(conn: AsyncConn, postgres: Server) -> None:
    """Behind a transaction pooler, numbered names would collide with the statements of other clients."""
    sql = "select $1::int4"
    await conn.exec_query(sql, ("1",))
    await conn.exec_query(sql, ("1",), (20,))
    async with await AsyncConn.connect(postgres.dsn) as other:
        await other.exec_query("select 'first'")
        await other.exec_query(sql, ("1",))
        assert await prepared(conn) & await prepared(other) == {statement_name(sql, ())}
    assert len(await prepared(conn)) == 2


# ---- what is cached


@ends_clean()
async def test_the_cache_has_one_entry_for_each_sql_and_types(conn: AsyncConn) -> None:
    for _ in range(2):
        assert (await conn.exec_query("select pg_typeof($1)::text", ("1",), (23,)))[0] == (b"integer",)
        assert (await conn.exec_query("select pg_typeof($1)::text", ("1",), (25,)))[0] == (b"text",)
        for number in range(3):
            sql = "select 1 /*" + "x" * 5000 + "*/ + " + str(number)
            assert (await conn.exec_query(sql))[0] == (b"%d" % (number + 1),)
    assert len(await prepared(conn)) == 5
    await cache_in_step(conn)


@ends_clean()
async def test_sql_longer_than_the_limit_is_not_cached(conn: AsyncConn) -> None:
    for size in (MAX_CACHED_SQL_CHARS + 1, 3_000_000):
        sql = "select $1::text -- ".ljust(size, "x")
        replies = [conn.exec_query(sql, (str(n),)) for n in range(3)]
        assert [list(rows) for rows in await asyncio.gather(*replies)] == [[(b"%d" % n,)] for n in range(3)]
    assert await prepared(conn) == set()
    await conn.exec_query("select $1::text -- ".ljust(MAX_CACHED_SQL_CHARS, "x"), ("",))
    assert len(await prepared(conn)) == 1


@ends_clean()
async def test_without_a_cache_no_statement_is_prepared(postgres: Server) -> None:
    async with await AsyncConn.connect(postgres.dsn, statement_cache_size=0) as conn:
        replies = [conn.exec_query("select $1::int4", (str(n),)) for n in range(300)]
        assert [list(rows) for rows in await asyncio.gather(*replies)] == [[(b"%d" % n,)] for n in range(300)]
        assert await prepared(conn) == set()


@ends_clean()
async def test_more_statements_than_the_capacity_are_evicted(postgres: Server) -> None:
    for capacity in (1, 2, 5):
        async with await AsyncConn.connect(postgres.dsn, statement_cache_size=capacity) as conn:
            replies = [conn.exec_query(f"select $1::int4 + {n % 6}", (str(n),)) for n in range(600)]
            for n, rows in enumerate(await asyncio.gather(*replies)):
                assert list(rows) == [(b"%d" % (n + n % 6),)]
            await cache_in_step(conn)
            for n in range(20):
                await conn.exec_query(f"select {n}")
                assert len(await prepared(conn)) <= capacity
            await cache_in_step(conn)


@ends_clean()
async def test_the_least_recently_used_statement_is_evicted(postgres: Server) -> None:
    async with await AsyncConn.connect(postgres.dsn, statement_cache_size=3) as conn:
        for sql in ("select 1", "select 2", "select 3", "select 1", "select 4"):
            await conn.exec_query(sql)
        assert await prepared(conn) == {statement_name(sql, ()) for sql in ("select 3", "select 1", "select 4")}


@ends_clean()
async def test_invalidated_and_cleared_statements_are_forgotten(conn: AsyncConn) -> None:
    for sql in ("select 1", "select 2", "select 3"):
        await conn.exec_query(sql)
    conn.invalidate_statement("select 2")
    conn.invalidate_statement("select 'never seen'")
    await cache_in_step(conn)
    assert statement_name("select 2", ()) not in await prepared(conn)
    conn.clear_statement_cache()
    replies = [conn.exec_query(f"select {n % 4}") for n in range(40)]
    conn.clear_statement_cache()  # while requests are under way
    assert [list(rows) for rows in await asyncio.gather(*replies)] == [[(b"%d" % (n % 4),)] for n in range(40)]
    await cache_in_step(conn)


# ---- errors


@ends_clean()
async def test_bad_statements_do_not_affect_good_ones(conn: AsyncConn) -> None:
    sqls = ["select nonsense", "select 1/0", "select $1::int4", "selec"] * 25
    replies = [conn.exec_query(sql, ("7",) if "$1" in sql else ()) for sql in sqls]
    codes = {"select nonsense": "42703", "select 1/0": "22012", "selec": "42601"}
    for sql, result in zip(sqls, await asyncio.gather(*replies, return_exceptions=True), strict=True):
        if sql in codes:
            assert isinstance(result, PgError) and result.code == codes[sql], result
        else:
            assert not isinstance(result, BaseException) and list(result) == [(b"7",)]
    # a statement that failed only in its execution is kept
    assert await prepared(conn) == {statement_name("select 1/0", ()), statement_name("select $1::int4", ())}
    await cache_in_step(conn)


@ends_clean()
async def test_requests_after_a_parse_that_met_a_lock_get_their_own_answers(conn: AsyncConn, postgres: Server) -> None:
    async with await WireConn.connect(postgres.dsn) as locker:
        await locker.send(m.Query("create table locked as select 1 as a"))
        await locker.drain_until_ready()
        try:
            await locker.send(m.Query("begin; lock table locked in access exclusive mode"))
            await locker.drain_until_ready()
            await conn.exec_query("set lock_timeout = '300ms'")
            replies = [conn.exec_query("select a from locked where a = $1", ("1",)) for _ in range(5)]
            first = await outcome_of(replies[0])
            assert isinstance(first, PgError) and first.code == "55P03"
            await locker.send(m.Query("commit"))
            await locker.drain_until_ready()
            for result in await asyncio.gather(*replies[1:], return_exceptions=True):
                if isinstance(result, BaseException):  # the lock was still held
                    assert isinstance(result, PgError) and result.code == "55P03", result
                else:
                    assert list(result) == [(b"1",)]
            assert not isinstance(await outcome_of(replies[4]), BaseException)
            await cache_in_step(conn)
        finally:
            await locker.send(m.Query("rollback; drop table locked"))
            await locker.drain_until_ready()


@ends_clean()
async def test_a_statement_name_taken_or_freed_by_another_client_is_handled(conn: AsyncConn) -> None:
    name = statement_name("select 1", ())
    # Another client of a transaction pooler may prepare the same SQL; the digest shows that it is the same.
    await conn.simple_query(f"prepare {name} as select 1")
    replies = [conn.exec_query("select 1") for _ in range(5)]
    assert [list(rows) for rows in await asyncio.gather(*replies)] == [[(b"1",)]] * 5
    await cache_in_step(conn)
    await conn.simple_query(f"deallocate {name}")
    replies = [conn.exec_query("select 1") for _ in range(5)]
    assert [list(rows) for rows in await asyncio.gather(*replies)] == [[(b"1",)]] * 5
    await cache_in_step(conn)


@pytest.mark.parametrize("forget", ["discard all", "deallocate all", "do $$ begin execute 'deallocate all'; end $$"])
@pytest.mark.parametrize("simply", [False, True])
@ends_clean()
async def test_statements_that_the_server_forgot_are_prepared_again(conn: AsyncConn, forget: str, simply: bool) -> None:
    for _ in range(3):
        replies = [conn.exec_query("select $1::int4", (str(n),)) for n in range(20)]
        done = conn.simple_query(forget) if simply else conn.exec_query(forget)
        replies += [conn.exec_query("select $1::int4", (str(n),)) for n in range(20, 40)]
        replies.append(conn.exec_query("select 40 -- new"))
        assert [list(rows) for rows in await asyncio.gather(*replies)] == [[(b"%d" % n,)] for n in range(41)]
        await done
        if not forget.startswith("do"):  # a DEALLOCATE inside DO is noticed only at the next use
            await cache_in_step(conn)
        await answers(conn)


@ends_clean()
async def test_the_callers_own_errors_with_codes_of_cache_errors_are_raised(conn: AsyncConn) -> None:
    for _ in range(2):
        with pytest.raises(PgError) as caught:
            await conn.exec_query("do $$ begin raise 'mine' using errcode = '0A000'; end $$")
        assert (caught.value.code, caught.value.message) == ("0A000", "mine")
    for code in ("26000", "42P05"):
        ran = conn.parameters.get("application_name")
        raising = f"do $$ begin perform nextval('counted'); raise 'mine' using errcode = '{code}'; end $$"
        await conn.exec_query("create temp sequence if not exists counted")
        before = (await conn.exec_query("select last_value from counted"))[0][0]
        with pytest.raises(PgError) as caught:
            await conn.exec_query(raising)
        assert (caught.value.code, caught.value.message) == (code, "mine")
        after = (await conn.exec_query("select last_value from counted"))[0][0]
        assert before and after and int(after) <= int(before) + 1, f"it ran more than once, {ran}"
    await cache_in_step(conn)
