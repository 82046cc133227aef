"""The notification receiver is bounded, accounts for every notification and reports why it ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from pg_wired import AsyncConn, ConfigError, ConnectionClosed, Notification, NotificationGap, PgError, UsageError
from pg_wired.client.notifications import NotificationReceiver
from pg_wired.protocol import messages as m
from pg_wired.testing import FakePG, Peer
from rig.checks import SOON, ends_clean, outcome_of, repeatable, until
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


# ---- lost, and counted


@pytest.mark.parametrize(
    ("drop", "expected"), [("oldest", ["-7", "7", "8", "9"]), ("newest", ["0", "1", "2", "-7"])], ids=str
)
@ends_clean()
async def test_a_full_receiver_drops_and_counts_the_oldest_or_newest(
    conn: AsyncConn, other: AsyncConn, drop: Any, expected: list[str]
) -> None:
    await conn.listen("chan")
    receiver = conn.take_notification_receiver(3, drop)
    await notify(other, *range(10))
    await arrived(receiver, 10)
    assert (receiver.queued, receiver.dropped, conn.dropped_notifications) == (3, 7, 7)
    assert await settings(receiver, 4) == expected
    await notify(other, "more")
    assert await settings(receiver, 1) == ["more"]
    assert (receiver.received, receiver.delivered, receiver.dropped) == (11, 4, 7)


@ends_clean()
async def test_notifications_without_a_receiver_are_counted_as_dropped(conn: AsyncConn, other: AsyncConn) -> None:
    await conn.listen("chan")
    await notify(other, 1, 2)
    await until(lambda: conn.dropped_notifications == 2, "two to be counted")
    receiver = conn.take_notification_receiver()
    await notify(other, 3)
    assert await settings(receiver, 1) == ["3"]
    assert (receiver.received, receiver.dropped) == (3, 2)


@pytest.mark.parametrize("drop", ["oldest", "newest"])
@ends_clean(60)
async def test_every_notification_of_a_flood_is_delivered_or_part_of_a_gap(drop: Any) -> None:
    """10^5 notifications to a slow receiver: every number is delivered or in a gap, and few are kept."""
    total = 100_000

    async def script(peer: Peer) -> None:
        await peer.startup()
        await is_taken.wait()
        for first in range(0, total, 1000):
            notes = [m.NotificationResponse(7, "chan", str(n)) for n in range(first, first + 1000)]
            await peer.write(m.encode(*notes))  # not recorded in the transcript

    rng = repeatable()
    expected = 0
    is_taken = asyncio.Event()
    async with FakePG(script) as fake, await AsyncConn.connect(fake.dsn) as conn:
        receiver = conn.take_notification_receiver(1000, drop)
        is_taken.set()
        while expected < total:
            item = await anext(receiver)
            if isinstance(item, NotificationGap):
                assert item.dropped > 0
                expected += item.dropped
            else:
                assert int(item.payload) == expected
                expected += 1
            adds_up(receiver)
            assert receiver.queued <= 1000
            if rng.random() < 0.001:
                await asyncio.sleep(0.001)
        assert receiver.received == total and receiver.dropped > 0


# ---- the receiver


@ends_clean()
async def test_a_connection_has_one_receiver_with_one_reader(conn: AsyncConn, other: AsyncConn) -> None:
    for wrong in ({"capacity": 0}, {"capacity": -1}, {"drop": "some"}):
        with pytest.raises(ConfigError):
            conn.take_notification_receiver(**wrong)
    await conn.listen("chan")
    receiver = conn.take_notification_receiver()
    with pytest.raises(UsageError, match="taken"):
        conn.take_notification_receiver()
    first = asyncio.ensure_future(anext(receiver))
    await asyncio.sleep(0)
    with pytest.raises(UsageError, match="one reader"):
        await anext(receiver)
    await notify(other, "x")
    assert await first == Notification(other.backend_pid or 0, "chan", "x")
    waiting = asyncio.ensure_future(anext(receiver))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait([waiting])
    await notify(other, "y")
    assert await settings(receiver, 1) == ["y"]


@ends_clean()
async def test_cancelling_as_a_notification_arrives_does_not_lose_it(conn: AsyncConn) -> None:
    """A notification that was not delivered stays in the queue."""
    await conn.listen("chan")
    receiver = conn.take_notification_receiver()
    seen: list[str] = []
    for n in range(50):
        waiting = asyncio.ensure_future(anext(receiver))
        await asyncio.sleep(0)
        await notify(conn, n)
        waiting.cancel()
        result = await outcome_of(waiting)
        if isinstance(result, Notification):
            seen.append(result.payload)
    seen += await settings(receiver, receiver.queued)
    assert seen == [str(n) for n in range(50)]


@ends_clean()
async def test_reading_from_another_thread_is_refused(conn: AsyncConn) -> None:
    receiver = conn.take_notification_receiver()

    def elsewhere() -> None:
        with pytest.raises(UsageError, match="loop"):
            asyncio.run(asyncio.wait_for(anext(receiver), 1))

    await asyncio.to_thread(elsewhere)


@ends_clean()
async def test_iteration_ends_when_the_connection_is_closed(postgres: Server) -> None:
    for is_waiting in (False, True):
        conn = await AsyncConn.connect(postgres.dsn)
        await conn.listen("chan")
        receiver = conn.take_notification_receiver()
        seen: list[str] = []

        async def read(receiver: NotificationReceiver = receiver, seen: list[str] = seen) -> None:
            async for item in receiver:
                assert isinstance(item, Notification)
                seen.append(item.payload)

        reading = asyncio.ensure_future(read()) if is_waiting else None
        await notify(conn, 1, 2)
        await conn.close()
        await (reading or read())
        assert seen == ["1", "2"]
        with pytest.raises(StopAsyncIteration):
            await anext(receiver)


@pytest.mark.parametrize("is_waiting", [False, True])
@ends_clean()
async def test_a_lost_connection_is_raised_after_the_queued_notifications(
    conn: AsyncConn, other: AsyncConn, is_waiting: bool
) -> None:
    await conn.listen("chan")
    receiver = conn.take_notification_receiver()
    if not is_waiting:
        await notify(conn, 1, 2)
    reading = asyncio.ensure_future(settings(receiver, 3)) if is_waiting else None
    await other.exec_query(f"select pg_terminate_backend({conn.backend_pid})")
    await until(lambda: not conn.is_alive, "the end")
    if not is_waiting:
        assert await settings(receiver, 2) == ["1", "2"]
    for lost in (await outcome_of(reading or anext(receiver)), await outcome_of(anext(receiver))):
        assert isinstance(lost, ConnectionClosed)
        assert isinstance(lost.__cause__, PgError) and lost.__cause__.code == "57P01"


@ends_clean()
async def test_a_connection_that_retires_raises_the_reason(conn: AsyncConn) -> None:
    receiver = conn.take_notification_receiver()
    reading = asyncio.ensure_future(anext(receiver))
    await conn.simple_query("set client_encoding = 'latin1'")
    lost = await outcome_of(reading)
    assert isinstance(lost, ConnectionClosed) and "client_encoding" in str(lost)
