"""Notices: the handler receives each one, in order, whatever the connection is doing, and can do no harm."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from itertools import pairwise
from typing import Any

import pytest

from pg_wired import AsyncConn, PgError
from pg_wired.protocol import messages as m
from pg_wired.testing import FakePG, Peer
from rig.checks import answers, ends_clean, until
from rig.postgres import Server

pytestmark = pytest.mark.both_loops

RAISES = (
    "create or replace function pg_temp.tell(n int) returns int language plpgsql as "
    "$$ begin raise notice '%', n using hint = 'of ' || n; return n; end $$"
)


@pytest.fixture
async def conn(postgres: Server) -> AsyncIterator[AsyncConn]:
    async with await AsyncConn.connect(postgres.dsn) as conn:
        await conn.simple_query(RAISES)
        yield conn


class Heard(list[PgError]):
    """The notices that a handler received."""

    def __init__(self, conn: AsyncConn) -> None:
        conn.set_notice_handler(self.append)

    async def numbers(self, count: int) -> list[int]:
        await until(lambda: len(self) >= count, f"{count} notices")
        return [int(notice.message) for notice in self]


@ends_clean()
async def test_a_notice_has_the_fields_that_the_server_sent(conn: AsyncConn) -> None:
    heard = Heard(conn)
    await conn.exec_query("select pg_temp.tell(7)")
    assert await heard.numbers(1) == [7]
    [notice] = heard
    assert (notice.severity, notice.code, notice.hint) == ("NOTICE", "00000", "of 7")
    assert notice.where and "tell" in notice.where and not notice.is_fatal
    await conn.simple_query("drop table if exists missing")
    await until(lambda: len(heard) == 2, "another one")
    assert "does not exist, skipping" in heard[1].message


@ends_clean()
async def test_notices_of_every_kind_of_request_arrive_in_order(conn: AsyncConn) -> None:
    """The handler is called soon, not at once: a notice may come after its request's answer, but never out of order."""
    heard = Heard(conn)

    async def source() -> AsyncIterator[bytes]:
        for n in range(6, 9):
            yield b"%d\n" % n
            await asyncio.sleep(0)

    await conn.simple_query(
        "create temp table told(a int); create function pg_temp.row() returns trigger language plpgsql as "
        "$$ begin perform pg_temp.tell(new.a); return new; end $$; "
        "create trigger told before insert on told for each row execute function pg_temp.row()"
    )
    await asyncio.gather(*[conn.exec_query("select pg_temp.tell($1)", (str(n),)) for n in (1, 2, 3)])
    await conn.simple_query("select pg_temp.tell(4); select pg_temp.tell(5)")
    assert await conn.copy_in("copy told from stdin", source()) == 3
    async with conn.copy_out("copy (select pg_temp.tell(n) from generate_series(9, 11) n) to stdout") as data:
        assert b"".join([buffer async for buffer in data]) == b"9\n10\n11\n"
    async with conn.stream("select pg_temp.tell(n) from generate_series(12, 14) n") as rows:
        assert [row async for row in rows] == [(b"12",), (b"13",), (b"14",)]
    async with conn.pipeline() as pipeline:
        for n in (15, 16):
            pipeline.query("select pg_temp.tell($1)", (str(n),))
    async with conn.exclusive() as mine:
        await mine.exec_query("select pg_temp.tell(17)")
    await conn.exec_transaction("select pg_temp.tell(18)", "select pg_temp.tell(19)")
    assert await heard.numbers(19) == list(range(1, 20))


@ends_clean()
async def test_a_handler_that_raises_does_not_affect_requests(conn: AsyncConn) -> None:
    loop = asyncio.get_running_loop()
    contexts: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: contexts.append(context))

    def handler(notice: PgError) -> None:
        raise KeyError(notice.message)

    conn.set_notice_handler(handler)
    replies = await asyncio.gather(*[conn.exec_query("select pg_temp.tell($1)", (str(n),)) for n in range(5)])
    assert [list(rows) for rows in replies] == [[(b"%d" % n,)] for n in range(5)]
    await until(lambda: len(contexts) == 5, "the loop to be told")
    assert [str(context["exception"]) for context in contexts] == [f"'{n}'" for n in range(5)]
    await answers(conn)


@ends_clean()
async def test_a_handler_may_use_the_connection(conn: AsyncConn) -> None:
    replies: list[asyncio.Future[Any]] = []
    conn.set_notice_handler(lambda notice: replies.append(conn.exec_query("select $1", (notice.message,))))
    await conn.exec_query("select pg_temp.tell(n) from generate_series(1, 3) n")
    await until(lambda: len(replies) == 3, "three notices")
    assert [list(rows) for rows in await asyncio.gather(*replies)] == [[(b"1",)], [(b"2",)], [(b"3",)]]


@ends_clean()
async def test_a_handler_may_close_the_connection(conn: AsyncConn) -> None:
    conn.set_notice_handler(lambda _: conn.abort())
    reply = conn.exec_query("select pg_temp.tell(1), pg_sleep(0)")
    await asyncio.gather(reply, return_exceptions=True)
    await until(lambda: not conn.is_alive, "the end")


@ends_clean()
async def test_notices_without_a_handler_are_dropped(conn: AsyncConn) -> None:
    await conn.exec_query("select pg_temp.tell(1)")
    heard = Heard(conn)
    conn.set_notice_handler(None)
    await conn.exec_query("select pg_temp.tell(2)")
    await asyncio.sleep(0)
    assert not heard
    heard = Heard(conn)
    await conn.exec_query("select pg_temp.tell(3)")
    assert await heard.numbers(1) == [3]


@ends_clean(60)
async def test_a_flood_of_notices_does_not_block_the_loop() -> None:
    """Other tasks on the loop do not have to wait for all of them."""
    total = 30_000
    where = "PL/pgSQL function tell(integer) line 1 at RAISE, " + "x" * 120  # as large as PostgreSQL's
    notice = m.encode(m.NoticeResponse((("S", "NOTICE"), ("C", "00000"), ("M", "number"), ("W", where))))

    async def script(peer: Peer) -> None:
        await peer.startup()
        await peer.group()
        for first in range(0, total, 1000):
            await peer.write(b"".join([notice.replace(b"number", b"%06d" % n) for n in range(first, first + 1000)]))
        await peer.send(m.CommandComplete("DO"), m.ReadyForQuery("I"))

    async def look() -> None:
        while True:
            await asyncio.sleep(0)
            turns.append(len(heard))

    turns: list[int] = []
    async with FakePG(script) as fake, await AsyncConn.connect(fake.dsn) as conn:
        heard = Heard(conn)
        looking = asyncio.ensure_future(look())
        await conn.simple_query("do")
        assert await heard.numbers(total) == list(range(total))
        looking.cancel()
        await asyncio.wait([looking])
    assert max(later - earlier for earlier, later in pairwise(turns)) < total / 4  # two reads bring some 3,000


@ends_clean()
async def test_notices_between_any_two_messages_of_a_copy_are_delivered() -> None:
    notice = m.NoticeResponse((("S", "NOTICE"), ("C", "00000"), ("M", "1")))
    changed = m.ParameterStatus("application_name", "changed")

    async def script(peer: Peer) -> None:
        await peer.startup()
        await peer.group()
        for message in (m.CopyOutResponse(0, ()), m.CopyData(b"a"), m.CopyData(b"b"), m.CopyDone()):
            await peer.send(notice, changed, message)
        await peer.send(notice, m.CommandComplete("COPY 2"), notice, m.ReadyForQuery("I"))
        await peer.group()
        await peer.send(notice, m.CopyInResponse(0, ()), notice, changed)
        await peer.expect(m.CopyData(b"data"), m.CopyDone())
        await peer.send(notice, m.CommandComplete("COPY 1"), notice, m.ReadyForQuery("I"), notice)

    async with FakePG(script) as fake, await AsyncConn.connect(fake.dsn) as conn:
        heard = Heard(conn)
        async with conn.copy_out("copy t to stdout") as data:
            assert b"".join([buffer async for buffer in data]) == b"ab"
        assert await conn.copy_in("copy t from stdin", b"data") == 1
        assert await heard.numbers(11) == [1] * 11
        assert conn.parameters["application_name"] == "changed"


@ends_clean()
async def test_notices_on_an_idle_connection_or_without_fields_are_delivered() -> None:
    """A notice belongs to no request, so it is also delivered on an idle connection; it may lack all fields."""
    odd = m.NoticeResponse(())
    is_heard = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.startup()
        await is_heard.wait()
        await peer.send(odd)
        await peer.answer_rows([(b"1",)])
        await peer.send(odd)

    async with FakePG(script) as fake, await AsyncConn.connect(fake.dsn) as conn:
        heard = Heard(conn)
        is_heard.set()
        assert list(await conn.exec_query("select 1")) == [(b"1",)]
        await until(lambda: len(heard) == 2, "both")
        assert [(notice.code, notice.message) for notice in heard] == [("", ""), ("", "")]
