"""Connections through PgBouncer: all verbs in session mode, and no mixed-up answers in transaction mode."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import pytest

from pg_wired import AsyncConn, ConnectionClosed, PgError, PgWireError
from rig.checks import answers, ends_clean, outcome_of, repeatable, until_sql
from rig.postgres import Postgres
from tests.servers.poolers import NEW, OLD, own_answer, pooler

pytestmark = pytest.mark.servers


async def crowd(stack: AsyncExitStack, dsn: str, count: int, **options: Any) -> list[AsyncConn]:
    """Open `count` connections, which are closed with the stack."""
    connecting = [AsyncConn.connect(dsn, **options) for _ in range(count)]
    return [await stack.enter_async_context(conn) for conn in await asyncio.gather(*connecting)]


# ---- session mode


@pytest.mark.parametrize("version", [OLD, NEW])
@ends_clean(60)
async def test_every_verb_works_in_session_mode(launched: Postgres, version: str) -> None:
    with pooler(version, launched, "session") as bouncer:
        async with await AsyncConn.connect(bouncer.dsn) as conn:
            pids = await asyncio.gather(*[own_answer(conn) for _ in range(300)])
            assert set(pids) == {conn.backend_pid} or len(set(pids)) == 1
            await conn.simple_query("create temp table kept(a int)")
            assert (await conn.exec_transaction("set local work_mem = '1MB'", "show work_mem"))[0] == (b"1MB",)
            assert await conn.copy_in("copy kept from stdin", b"1\n2\n3\n") == 3
            async with conn.copy_out("copy kept to stdout") as data:
                assert b"".join([bytes(part) async for part in data]) == b"1\n2\n3\n"
            async with conn.stream("select generate_series(1, 1000)") as rows:
                assert [int(row[0] or b"") async for row in rows] == list(range(1, 1001))
            async with conn.pipeline() as pipeline:
                items = [pipeline.query("insert into kept values ($1) returning a", (str(n),)) for n in range(9)]
            assert [list(await item) for item in items] == [[(b"%d" % n,)] for n in range(9)]
            async with conn.exclusive() as mine:
                await mine.exec_query("begin")
                await mine.exec_query("delete from kept")
            assert await conn.exec_query("select count(*) from kept") == [(b"12",)]
            await conn.listen("news")
            receiver = conn.take_notification_receiver()
            await conn.exec_query("select pg_notify('news', 'come')")
            assert (await anext(receiver)).payload == "come"  # type: ignore[union-attr]
        async with await AsyncConn.connect(bouncer.dsn) as conn:
            # The next client has the same server connection, which was reset in between.
            assert await own_answer(conn) == pids[0]
            assert isinstance(await outcome_of(conn.exec_query("select * from kept")), PgError)


# ---- transaction mode


async def requests(conn: AsyncConn, rounds: int, depth: int, kind: int) -> set[int]:
    """Send rounds of pipelined requests; return the backends that answered."""
    pids: set[int] = set()
    for _ in range(rounds):
        pids.update(await asyncio.gather(*[own_answer(conn, kind) for _ in range(depth)]))
    return pids


@pytest.mark.parametrize(
    ("version", "settings", "options"),
    [
        (OLD, {}, {"statement_cache_size": 0}),
        (OLD, {}, {"statement_cache_size": 0, "max_in_flight": 1}),
        (NEW, {"max_prepared_statements": 0}, {"statement_cache_size": 0}),
        (NEW, {"max_prepared_statements": 1}, {}),
        (NEW, {"max_prepared_statements": 200}, {}),
        (NEW, {"max_prepared_statements": 200}, {"max_in_flight": 1}),
    ],
    ids=str,
)
@ends_clean(60)
async def test_many_clients_on_two_backends_get_their_own_answers(
    launched: Postgres, version: str, settings: dict[str, Any], options: dict[str, Any]
) -> None:
    """Seven statements of the same shape: only the values in the answers would reveal a mix-up."""
    with pooler(version, launched, **settings) as bouncer:
        async with AsyncExitStack() as stack:
            conns = await crowd(stack, bouncer.dsn, 30, **options)
            found = await asyncio.gather(
                *[requests(conn, 8, 20, number % 7) for number, conn in enumerate(conns)],
            )
            assert len(set[int]().union(*found)) == 2


@pytest.mark.parametrize("most", [1, 200])
@ends_clean(60)
async def test_more_statements_than_pgbouncer_keeps_are_answered_correctly(launched: Postgres, most: int) -> None:
    """PgBouncer drops statements and prepares them again when needed; our cache drops statements, too."""
    rng = repeatable()
    with pooler(NEW, launched, max_prepared_statements=most) as bouncer:
        async with AsyncExitStack() as stack:
            conns = await crowd(stack, bouncer.dsn, 4, statement_cache_size=50)
            for _ in range(4):
                await asyncio.gather(
                    *[own_answer(conn, kind) for conn in conns for kind in rng.sample(range(300), 150)]
                )
            for conn in conns:
                await answers(conn)


@pytest.mark.parametrize(("version", "settings"), [(OLD, {}), (NEW, {"max_prepared_statements": 0})], ids=str)
@ends_clean(60)
async def test_named_statements_without_pgbouncer_support_fail_but_never_mix_up(
    launched: Postgres, version: str, settings: dict[str, Any]
) -> None:
    """With this wrong setting a statement may be missing on the backend: the request fails, or its answer is right."""
    with pooler(version, launched, **settings) as bouncer:
        async with AsyncExitStack() as stack:
            conns = await crowd(stack, bouncer.dsn, 10)
            ends = []
            for _ in range(5):
                asked = [own_answer(conn, number % 3) for number, conn in enumerate(conns)]
                ends += await asyncio.gather(*asked, return_exceptions=True)
            print({str(end) for end in ends if isinstance(end, PgWireError)})
            assert all(isinstance(end, int | PgError) for end in ends)
            assert {end.code for end in ends if isinstance(end, PgError)} <= {"26000", "42P05"}
            assert sum(isinstance(end, int) for end in ends) > len(ends) // 2


@pytest.mark.parametrize(("version", "cache"), [(OLD, 0), (NEW, 256)])
@ends_clean(60)
async def test_a_transaction_stays_on_one_backend(launched: Postgres, version: str, cache: int) -> None:
    async with await AsyncConn.connect(launched.dsn) as admin:
        await admin.simple_query("drop table if exists paid; create table paid(who int, much int)")
    with pooler(version, launched) as bouncer:
        async with AsyncExitStack() as stack:
            conns = await crowd(stack, bouncer.dsn, 8, statement_cache_size=cache)

            async def pay(conn: AsyncConn, who: int) -> None:
                done = [
                    await conn.exec_transaction(
                        f"set local app.who = '{who}'",
                        "insert into paid values (current_setting('app.who')::int, $1) returning who",
                        (str(number),),
                    )
                    for number in range(10)
                ]
                assert [list(rows) for rows in done] == [[(b"%d" % who,)]] * 10

            async def mine(conn: AsyncConn, who: int) -> None:
                async with conn.exclusive() as own:
                    await own.simple_query("begin; set local work_mem = '1MB'")
                    pids = {await own_answer(own) for _ in range(5)}
                    assert len(pids) == 1 and await own.exec_query("show work_mem") == [(b"1MB",)]
                    await own.simple_query("rollback" if who % 2 else "commit")

            await asyncio.gather(*[pay(conn, who) for who, conn in enumerate(conns)])
            await asyncio.gather(*[mine(conn, who) for who, conn in enumerate(conns)])
            await until_sql(conns[0], "select count(*) = 80 and count(distinct (who, much)) = 80 from paid")


@pytest.mark.parametrize("command", ["discard all", "deallocate all"])
@ends_clean(60)
async def test_a_discard_or_deallocate_between_requests_gives_no_wrong_answer(launched: Postgres, command: str) -> None:
    """The command reaches one of the two backends. If it is awaited, no request fails.

    If statements are pipelined after it, PgBouncer 1.24 considers those forgotten too, and ends the connection at
    their next use: with an error that says so, and without a wrong answer.
    """
    with pooler(NEW, launched, max_prepared_statements=200) as bouncer:
        async with AsyncExitStack() as stack:
            conns = await crowd(stack, bouncer.dsn, 4)
            for number in range(20):
                await asyncio.gather(*[own_answer(conn, n) for n, conn in enumerate(conns)])
                await conns[number % 4].simple_query(command)
                await asyncio.gather(*[own_answer(conn, n) for n, conn in enumerate(conns)])
            [victim] = await crowd(stack, bouncer.dsn, 1)
            for number in range(20):
                asked: list[Any] = [own_answer(victim, number + more) for more in range(5)]
                ends = await asyncio.gather(asked[0], victim.simple_query(command), *asked[1:], return_exceptions=True)
                if not victim.is_alive:
                    break
            lost = [end for end in ends if isinstance(end, BaseException)]
            assert all(isinstance(end, ConnectionClosed) for end in lost), lost
            assert all("prepared statement did not exist" in str(end.__cause__) for end in lost)
            await asyncio.gather(*map(own_answer, conns))
