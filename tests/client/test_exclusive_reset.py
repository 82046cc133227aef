"""exclusive(): the owner's session state is reset, without a round trip if there can be nothing to reset."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import pytest

from pg_wired import AsyncConn, AsyncPool, ConnectionClosed, Notification, Outcome, PgError, TransactionStatus
from pg_wired.protocol import messages as m
from pg_wired.testing import FakePG, Peer
from rig.checks import answers, cache_in_step, ends_clean, outcome_of
from rig.postgres import Server
from tests.outcomes import column, ends, until_asleep

pytestmark = pytest.mark.both_loops

REJECTED, NOT_SENT = Outcome.REJECTED, Outcome.NOT_SENT
OWNED = "select a from owned order by a"


@pytest.fixture
async def conn(postgres: Server) -> AsyncIterator[AsyncConn]:
    async with await AsyncConn.connect(postgres.dsn) as conn:
        await conn.simple_query("drop table if exists owned; create table owned(a int primary key, b int)")
        yield conn


@pytest.fixture
async def admin(postgres: Server) -> AsyncIterator[AsyncConn]:
    async with await AsyncConn.connect(postgres.dsn) as conn:
        yield conn


# A statement run inside, and a query that shows its effect: its answer must be the same before and after the block.
TEMP = "select count(*) from pg_class where relname = 'left_over'"
WHO = "select current_user, session_user"
CURSORS = "select count(*) from pg_cursors"
PREPARED = "select count(*) from pg_prepared_statements where name = 'p'"
CHANNELS = "select array_agg(c order by c) from pg_listening_channels() c"
OWN_SETTING = "select nullif(current_setting('a.b', true), '')"
ADVISORY = "select count(*) from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()"
SHOWN = [
    ("set timezone = 'Asia/Tokyo'", "show timezone"),
    ("set work_mem = '77MB'", "show work_mem"),
    ("set search_path = pg_catalog", "select current_schemas(false)"),
    ("set client_encoding = 'latin1'", "show client_encoding"),
    ("set role pg_monitor", WHO),
    ("set session authorization pg_monitor", WHO),
    ("set session characteristics as transaction read only", "show default_transaction_read_only"),
    ("create temp table left_over(a int)", TEMP),
    ("create temp table left_over as select 1", TEMP),
    ("select 1 into temp left_over", TEMP),
    ("declare c cursor with hold for select 1", CURSORS),
    ("prepare p as select 1", PREPARED),
    ("deallocate all; prepare p as select 1", PREPARED),
    ("listen elsewhere", CHANNELS),
    ("unlisten *", CHANNELS),
    ("discard all", CHANNELS),
    ("do $$ begin perform set_config('a.b', 'x', false); end $$", OWN_SETTING),
    ("begin; set timezone = 'Asia/Tokyo'; insert into owned values (1)", "show timezone"),
    ("begin; create temp table left_over(a int); select 1/0", TEMP),
    ("select set_config('client_encoding', 'latin1', false)", "show client_encoding"),  # the server reports it
]
TO_BE_SAID = [
    ("select set_config('a.b', 'x', false)", OWN_SETTING),
    ("select pg_advisory_lock(7)", ADVISORY),
]
STATE = [(*case, True) for case in SHOWN] + [(*case, False) for case in TO_BE_SAID]


@pytest.mark.parametrize(("sql", "asking", "shows"), STATE, ids=[case[0] for case in STATE])
@ends_clean()
async def test_session_state_is_reset(conn: AsyncConn, admin: AsyncConn, sql: str, asking: str, shows: bool) -> None:
    await conn.listen("kept")
    before, parameters = list(await conn.exec_query(asking)), dict(conn.parameters)
    async with conn.exclusive() as mine:
        await outcome_of(mine.simple_query(sql))
        if not shows:
            mine.mark_state_mutated()
    assert conn.is_alive
    assert list(await conn.exec_query(asking)) == before
    assert conn.parameters == parameters and conn.transaction_status is TransactionStatus.IDLE
    assert await column(admin, OWNED) == []
    await cache_in_step(conn)


@ends_clean()
async def test_the_channels_of_the_connection_itself_are_kept(conn: AsyncConn, admin: AsyncConn) -> None:
    receiver = conn.take_notification_receiver()
    await conn.listen('My"Own')
    async with conn.exclusive() as mine:
        await mine.simple_query('listen elsewhere; unlisten "My""Own"; set work_mem = \'1MB\'')
    await admin.exec_query("select pg_notify('elsewhere', ''), pg_notify('My\"Own', 'x')")
    notified = await anext(receiver)
    assert isinstance(notified, Notification) and notified.channel == 'My"Own'


@pytest.mark.parametrize("how", ["returns", "raises", "is cancelled"])
@ends_clean()
async def test_an_open_transaction_is_rolled_back(conn: AsyncConn, admin: AsyncConn, how: str) -> None:
    async def work() -> None:
        async with conn.exclusive() as mine:
            await mine.simple_query("begin; insert into owned values (1)")
            if how == "raises":
                raise KeyError
            if how == "is cancelled":
                await mine.exec_query("select pg_sleep(60)")

    task = asyncio.create_task(work())
    if how == "is cancelled":
        await until_asleep(admin, conn.backend_pid)
        task.cancel()
    end = await outcome_of(task)
    assert isinstance(end, {"returns": type(None), "raises": KeyError}.get(how, asyncio.CancelledError))
    await answers(conn)
    assert await column(admin, OWNED) == []


@pytest.mark.parametrize("lender", ["connection", "pool"])
@ends_clean()
async def test_a_forgotten_commit_is_logged_as_a_warning(
    postgres: Server, conn: AsyncConn, lender: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with await AsyncPool.connect(postgres.dsn, size=1) as pool:
        for inside, is_told in (
            ("begin", True),
            ("begin; rollback", False),
            ("select 1", False),
            ("begin; select 1/0", False),
        ):
            caplog.clear()
            async with (conn if lender == "connection" else pool).exclusive() as mine:
                with suppress(PgError):  # the server has already rolled it back
                    await mine.simple_query(inside)
            said = [(record.levelname, record.name, record.filename) for record in caplog.records]
            assert said == [("WARNING", "pg_wired", "test_exclusive_reset.py")] * is_told, inside
            assert not is_told or "exclusive() ended inside a transaction" in caplog.text
        with suppress(KeyError):
            async with (conn if lender == "connection" else pool).exclusive() as mine:
                await mine.simple_query("begin")
                raise KeyError
        async with (conn if lender == "connection" else pool).exclusive() as mine:
            await mine.simple_query("begin")
            ending = mine.simple_query("commit")
        await outcome_of(ending)  # it may have succeeded in time
        assert not caplog.records


HARMLESS = """SELECT 1, INSERT 0 17, UPDATE 3, DELETE 0, MERGE 4, COPY 10, FETCH 5, MOVE 5, BEGIN, START TRANSACTION,
    SAVEPOINT, RELEASE, ROLLBACK, COMMIT, NOTIFY, LOCK TABLE, SET CONSTRAINTS"""


@pytest.mark.parametrize(("tags", "is_reset"), [(HARMLESS, False), ("", False), ("SET", True), ("CREATE TABLE", True)])
@ends_clean()
async def test_harmless_command_tags_need_no_round_trip_for_a_reset(tags: str, is_reset: bool) -> None:
    each = [tag.strip() for tag in tags.split(",") if tag]

    async def script(peer: Peer) -> None:
        await peer.startup()
        for tag in each:
            await peer.answer_rows([(b"1",)] if tag == "SELECT 1" else [], tag)
        if is_reset:
            [reset] = await peer.expect(m.Query)
            assert "RESET ALL" in reset.query and "DISCARD TEMP" in reset.query
            await peer.send(m.CommandComplete("RESET"), m.ReadyForQuery("I"))
        await peer.answer_rows([(b"next",)])

    async with FakePG(script) as fake, await AsyncConn.connect(fake.dsn) as conn:
        async with conn.exclusive() as mine:
            for tag in each:
                await mine.simple_query(tag)
        assert list(await conn.exec_query("select 'next'")) == [(b"next",)]


async def answer(conn: AsyncConn) -> list[Any]:
    return list(await conn.exec_query("select 1"))


@ends_clean()
async def test_other_requests_wait_until_the_reset_has_finished() -> None:
    """A request made meanwhile is written only after ROLLBACK and the reset have been answered."""

    async def script(peer: Peer) -> None:
        await peer.startup()
        await peer.expect(m.Query("begin; set x = 1"))
        await peer.send(m.CommandComplete("BEGIN"), m.CommandComplete("SET"), m.ReadyForQuery("T"))
        for word in ("ROLLBACK", "RESET"):
            [message] = await peer.expect(m.Query)
            assert word in message.query and peer.talk.take() is None
            await peer.send(m.CommandComplete(word), m.ReadyForQuery("I"))
        await peer.answer_rows([(b"1",)])

    async with FakePG(script) as fake, await AsyncConn.connect(fake.dsn) as conn:
        async with conn.exclusive() as mine:
            await mine.simple_query("begin; set x = 1")
            waiting = asyncio.create_task(answer(conn))
            await asyncio.sleep(0)
        assert await waiting == [(b"1",)]


@ends_clean()
async def test_an_owner_cancelled_while_leaving_waits_for_the_reset_like_others() -> None:
    leaving, may_go_on = asyncio.Event(), asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.startup()
        await peer.expect(m.Query("begin; set x = 1"))
        await peer.send(m.CommandComplete("BEGIN"), m.CommandComplete("SET"), m.ReadyForQuery("T"))
        await peer.expect(m.Query)
        leaving.set()
        await may_go_on.wait()
        await peer.send(m.CommandComplete("ROLLBACK"), m.ReadyForQuery("I"))
        await peer.expect(m.Query)
        await peer.send(m.CommandComplete("RESET"), m.ReadyForQuery("I"))
        await peer.answer_rows([(b"1",)])

    async def owner(conn: AsyncConn) -> list[Any]:
        try:
            async with conn.exclusive() as mine:
                await mine.simple_query("begin; set x = 1")
        except asyncio.CancelledError:
            reply = conn.exec_query("select 1")
            may_go_on.set()
            return list(await reply)
        raise AssertionError("it was not cancelled")

    async with FakePG(script) as fake, await AsyncConn.connect(fake.dsn) as conn:
        task = asyncio.create_task(owner(conn))
        await fake.within(leaving.wait(), "the cleaning")
        task.cancel()
        assert await task == [(b"1",)]


@ends_clean()
async def test_a_reset_that_fails_ends_the_connection() -> None:
    """A session in an unknown state must not be used again."""

    async def script(peer: Peer) -> None:
        await peer.startup()
        await peer.expect(m.Query("set x = 1"))
        await peer.send(m.CommandComplete("SET"), m.ReadyForQuery("I"))
        await peer.expect(m.Query)
        await peer.send(m.ErrorResponse((("S", "ERROR"), ("C", "XX000"), ("M", "no"))), m.ReadyForQuery("I"))
        await peer.eof()

    async with FakePG(script) as fake:
        conn = await AsyncConn.connect(fake.dsn)
        async with conn.exclusive() as mine:
            await mine.simple_query("set x = 1")
        with pytest.raises(ConnectionClosed) as caught:
            await conn.exec_query("select 1")
        assert caught.value.outcome is NOT_SENT and not conn.is_alive


# ---- the statement cache


@ends_clean()
async def test_the_statement_cache_stays_in_step_inside_and_after_a_block(conn: AsyncConn) -> None:
    async def use(queries: Any) -> None:
        for n in range(3):
            assert list(await queries.exec_query(f"select {n}, $1::int", ("5",))) == [(str(n).encode(), b"5")]

    await use(conn)
    for sql in ("deallocate all", "discard all", "set work_mem = '1MB'", "prepare x as select 1", "discard plans"):
        async with conn.exclusive() as mine:
            await use(mine)
            await mine.simple_query(sql)
            await use(mine)
        await use(conn)
        await cache_in_step(conn)
    [[name]] = await conn.exec_query("select name from pg_prepared_statements where statement like 'select 1,%'")
    async with conn.exclusive() as mine:
        await mine.simple_query(f"deallocate {(name or b'').decode()}")
        await use(mine)
    await use(conn)
    await cache_in_step(conn)


@ends_clean()
async def test_a_stale_statement_in_a_transaction_fails_it_once(conn: AsyncConn, admin: AsyncConn) -> None:
    """It cannot be repaired inside a transaction; the next transaction succeeds."""
    await conn.exec_query("select * from owned")
    await admin.simple_query("alter table owned add c int")
    async with conn.exclusive() as mine:
        for expected in [("0A000", REJECTED)], ["SELECT 0"]:
            await mine.exec_query("begin")
            assert await ends(mine.exec_query("select * from owned")) == expected
            await mine.exec_query("rollback")
        await admin.simple_query("alter table owned add d int")
        assert len((await mine.exec_query("select * from owned")).fields) == 4  # outside a transaction it is repaired
    await cache_in_step(conn)


@ends_clean()
async def test_a_parse_in_a_failed_transaction_is_not_assumed_to_have_succeeded(conn: AsyncConn) -> None:
    async with conn.exclusive() as mine:
        await outcome_of(mine.simple_query("begin; select 1/0"))
        got = await ends(mine.exec_query("select 'new'"), mine.exec_query("select 'new'"))
        assert got == [("25P02", REJECTED)] * 2
        await mine.simple_query("rollback")
        assert await ends(mine.exec_query("select 'new'")) == ["SELECT 1"]
    assert await ends(conn.exec_query("select 'new'")) == ["SELECT 1"]
    await cache_in_step(conn)
