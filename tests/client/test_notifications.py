"""Notifications: each one is delivered or counted as lost, whatever the connection is doing, and in order."""

from __future__ import annotations

import asyncio
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from pg_wired import AsyncConn, ConfigError, Notification, PgError
from pg_wired.client.notifications import NotificationReceiver
from pg_wired.protocol import messages as m
from pg_wired.testing import FakePG, Peer
from rig.checks import SOON, answers, ends_clean, outcome_of, repeatable, until
from rig.postgres import Server

pytestmark = pytest.mark.both_loops


@pytest.fixture
async def conn(postgres: Server) -> AsyncIterator[AsyncConn]:
    async with await AsyncConn.connect(postgres.dsn) as conn:
        yield conn


@pytest.fixture
async def other(postgres: Server) -> AsyncIterator[AsyncConn]:
    async with await AsyncConn.connect(postgres.dsn) as conn:
        yield conn


def adds_up(receiver: NotificationReceiver) -> None:
    assert receiver.received == receiver.delivered + receiver.queued + receiver.dropped


async def settings(receiver: NotificationReceiver, count: int) -> list[str]:
    """The next payloads; gaps as "-2"."""
    items = []
    for _ in range(count):
        async with asyncio.timeout(SOON):
            item = await anext(receiver)
        items.append(item.payload if isinstance(item, Notification) else f"-{item.dropped}")
        adds_up(receiver)
    return items


async def notify(conn: AsyncConn, *payloads: object, channel: str = "chan") -> None:
    for payload in payloads:
        await conn.exec_query("select pg_notify($1, $2)", (channel, str(payload)))


async def arrived(receiver: NotificationReceiver, count: int) -> None:
    await until(lambda: receiver.received >= count, f"{count} notifications")


# ---- delivered


@ends_clean()
async def test_notifications_arrive_on_an_idle_connection(conn: AsyncConn, other: AsyncConn) -> None:
    await conn.listen("chan")
    receiver = conn.take_notification_receiver()
    waiting = asyncio.ensure_future(anext(receiver))
    await notify(other, "one")
    assert await waiting == Notification(other.backend_pid or 0, "chan", "one")
    await notify(other, "two", "")
    await arrived(receiver, 3)
    assert await settings(receiver, 2) == ["two", ""]
    assert (receiver.received, receiver.delivered, receiver.queued, receiver.dropped) == (3, 3, 0, 0)
    assert conn.dropped_notifications == 0


@ends_clean()
async def test_a_connection_receives_its_own_notifications(conn: AsyncConn) -> None:
    await conn.listen("chan")
    receiver = conn.take_notification_receiver()
    await conn.simple_query("notify chan, 'simple'; notify chan")
    await notify(conn, "extended")
    assert receiver.queued == 3  # they come before ReadyForQuery of the request that sent them
    assert await settings(receiver, 3) == ["simple", "", "extended"]


BUSY = "select pg_sleep(0.0005), repeat('x', 10000) from generate_series(1, 100)"


async def query(conn: AsyncConn) -> None:
    assert len(await conn.exec_query(BUSY)) == 100


async def simple(conn: AsyncConn) -> None:
    assert [len(rows) for rows in await conn.simple_query(f"{BUSY}; {BUSY}")] == [100, 100]


async def pipelined(conn: AsyncConn) -> None:
    await asyncio.gather(*[conn.exec_query("select pg_sleep(0.001)") for _ in range(50)])


async def stream(conn: AsyncConn) -> None:
    async with conn.stream(BUSY, row_buffer=1) as rows:
        assert len([row async for row in rows]) == 100


async def copy_out(conn: AsyncConn) -> None:
    async with conn.copy_out(f"copy ({BUSY}) to stdout") as data:
        assert b"".join([buffer async for buffer in data]).count(b"\n") == 100


async def copy_in(conn: AsyncConn) -> None:
    async def source() -> AsyncIterator[bytes]:
        for _ in range(50):
            yield b"1\n"
            await asyncio.sleep(0.001)

    await conn.simple_query("create temp table if not exists copied(a int)")
    assert await conn.copy_in("copy copied from stdin", source()) == 50


async def pipeline(conn: AsyncConn) -> None:
    async with conn.pipeline() as pipeline:
        for _ in range(20):
            pipeline.query("select pg_sleep(0.001)")
            pipeline.sync()


async def exclusive(conn: AsyncConn) -> None:
    async with conn.exclusive() as mine:
        await mine.simple_query("begin")
        await mine.exec_query(BUSY)
        await mine.simple_query("commit")


async def transaction(conn: AsyncConn) -> None:
    await conn.exec_transaction("set local lock_timeout = '1s'", BUSY)


BUSY_WITH: list[Callable[[AsyncConn], Awaitable[None]]] = [
    query,
    simple,
    pipelined,
    stream,
    copy_out,
    copy_in,
    pipeline,
    exclusive,
    transaction,
]


@pytest.mark.parametrize("work", BUSY_WITH)
@ends_clean()
async def test_notifications_arrive_during_every_kind_of_request(
    conn: AsyncConn, other: AsyncConn, work: Callable[[AsyncConn], Awaitable[None]]
) -> None:
    most = 1000  # the duration of the work depends on the machine; the queue has room for all of them
    await conn.listen("chan")
    receiver = conn.take_notification_receiver(capacity=most + 1)
    busy = asyncio.ensure_future(work(conn))
    sent = 0
    while not busy.done() and sent < most:
        await notify(other, sent)
        sent += 1
    await busy
    await notify(other, "end")
    assert await settings(receiver, sent + 1) == [*map(str, range(sent)), "end"]
    assert (receiver.received, receiver.dropped) == (sent + 1, 0)
    await answers(conn)


@ends_clean()
async def test_a_notification_between_any_two_messages_changes_nothing_else() -> None:
    """Between any two messages of a stream, a COPY in each direction and a query (I12)."""
    note = m.NotificationResponse(7, "chan", "x")
    ready = m.ReadyForQuery("I")

    async def script(peer: Peer) -> None:
        await peer.startup()
        rows = [m.BindComplete(), m.DataRow(()), m.CommandComplete("SELECT 1"), ready]
        answers: list[list[m.BackendMessage | None]] = [
            [m.ParseComplete(), m.ParameterDescription(()), m.RowDescription(()), *rows],
            [m.CopyOutResponse(0, ()), m.CopyData(b"a"), m.CopyData(b"b"), m.CopyDone(), *rows[2:]],
            [m.CopyInResponse(0, ()), None, *rows[2:]],
            [*rows],
        ]
        for answer in answers:
            await peer.group()
            for message in answer:
                if message is None:
                    await peer.expect(m.CopyData(b"data"), m.CopyDone())
                else:
                    await peer.send(note, message)
        await peer.send(note)

    async with FakePG(script) as fake, await AsyncConn.connect(fake.dsn) as conn:
        receiver = conn.take_notification_receiver()
        async with conn.stream("select") as rows:
            assert len([row async for row in rows]) == 1
        async with conn.copy_out("copy t to stdout") as data:
            assert b"".join([buffer async for buffer in data]) == b"ab"
        assert await conn.copy_in("copy t from stdin", b"data") == 1
        assert len(await conn.exec_query("select")) == 1
        assert await settings(receiver, 21) == ["x"] * 21 and receiver.received == 21


@ends_clean()
async def test_a_listener_in_a_transaction_is_notified_at_its_end(conn: AsyncConn, other: AsyncConn) -> None:
    await conn.listen("chan")
    receiver = conn.take_notification_receiver()
    async with conn.exclusive() as mine:
        await mine.simple_query("begin")
        await notify(other, 1, 2)
        await mine.exec_query("select 1")
        assert receiver.received == 0
        await mine.simple_query("commit")
        assert receiver.queued == 2  # before ReadyForQuery
    assert await settings(receiver, 2) == ["1", "2"]


@ends_clean()
async def test_equal_notifications_of_a_transaction_arrive_once(conn: AsyncConn, other: AsyncConn) -> None:
    await conn.listen("chan")
    receiver = conn.take_notification_receiver()
    await other.simple_query("begin; notify chan, 'x'; notify chan, 'x'; notify chan, 'y'; notify chan, 'x'; commit")
    await notify(other, "end")
    assert await settings(receiver, 3) == ["x", "y", "end"]
    assert (receiver.received, receiver.dropped) == (3, 0)


@ends_clean()
async def test_the_longest_payload_arrives_and_a_longer_one_is_rejected(conn: AsyncConn, other: AsyncConn) -> None:
    await conn.listen("chan")
    receiver = conn.take_notification_receiver()
    await notify(other, "ü" * 3999 + "x")
    with pytest.raises(PgError, match="payload string too long"):
        await notify(other, "x" * 8000)
    assert await settings(receiver, 1) == ["ü" * 3999 + "x"]


# ---- channels


@ends_clean()
async def test_channel_names_may_contain_any_character(conn: AsyncConn, other: AsyncConn) -> None:
    receiver = conn.take_notification_receiver()
    names = [
        "plain",
        "UPPER",
        'with "quotes"',
        '"',
        "a;b--c",
        "sélect \U0001f600",
        "x" * 63,
        "é" * 31 + "x",
        "\n\t",
        "''",
    ]
    for name in names:
        await conn.listen(name)
        await notify(other, name, channel=name)
        assert await anext(receiver) == Notification(other.backend_pid or 0, name, name)
    heard = await conn.exec_query("select pg_listening_channels()")
    assert {row[0] for row in heard} == {name.encode() for name in names}
    for name in names[::2]:
        await conn.unlisten(name)
    heard = await conn.exec_query("select pg_listening_channels()")
    assert {row[0] for row in heard} == {name.encode() for name in names[1::2]}


@ends_clean()
async def test_invalid_channel_names_are_refused(conn: AsyncConn) -> None:
    for use in (conn.listen, conn.unlisten):
        for name in ("", "x" * 64, "é" * 32, "a\0b", "\0", "\ud800"):
            with pytest.raises(ConfigError, match="channel"):
                await use(name)
        for wrong in (b"chan", None, 1):
            with pytest.raises(TypeError, match="channel"):
                await use(wrong)  # type: ignore[arg-type]
    assert conn.in_flight == 0 and not conn._core.channels
    await answers(conn)


@ends_clean()
async def test_no_notifications_arrive_between_unlisten_and_listen(conn: AsyncConn, other: AsyncConn) -> None:
    receiver = conn.take_notification_receiver()
    await conn.listen("chan")
    await conn.listen("chan")
    await conn.unlisten("chan")
    await conn.unlisten("never heard of")
    await notify(other, "lost")
    await conn.listen("chan")
    await notify(other, "heard")
    assert await settings(receiver, 1) == ["heard"] and receiver.received == 1


@ends_clean()
async def test_channels_match_the_server_after_many_concurrent_listens_and_unlistens(conn: AsyncConn) -> None:
    rng = repeatable()
    names = [f"chan{n}" for n in range(10)]
    tasks = [asyncio.ensure_future(rng.choice([conn.listen, conn.unlisten])(rng.choice(names))) for _ in range(200)]
    for task in rng.sample(tasks, 20):
        asyncio.get_running_loop().call_later(rng.random() * 0.01, task.cancel)
    await asyncio.gather(*tasks, return_exceptions=True)
    heard = {(name or b"").decode() for (name,) in await conn.exec_query("select pg_listening_channels()")}
    assert conn._core.channels == {f'"{name}"' for name in heard}


@ends_clean()
async def test_channels_survive_listen_and_unlisten_inside_exclusive(conn: AsyncConn, other: AsyncConn) -> None:
    receiver = conn.take_notification_receiver()
    await conn.listen('My "chan"')
    for sql in ("unlisten *", "listen theirs", "listen theirs; set timezone = 'UTC'"):
        async with conn.exclusive() as mine:
            await mine.simple_query(sql)
        await notify(other, "lost", channel="theirs")
        await notify(other, sql, channel='My "chan"')
        assert await settings(receiver, 1) == [sql]
    assert receiver.received == 3


@ends_clean()
async def test_a_malformed_notification_ends_the_connection() -> None:
    async def script(peer: Peer) -> None:
        await peer.startup()
        await peer.send(b"A" + struct.pack("!i", 9) + b"\0\0\0\0x")
        await peer.eof()

    async with FakePG(script) as fake:
        conn = await AsyncConn.connect(fake.dsn)
        receiver = conn.take_notification_receiver()
        begin = time.monotonic()
        assert "ProtocolError" in repr(await outcome_of(anext(receiver)))
        assert time.monotonic() - begin < SOON and not conn.is_alive
