"""The pool's listener: every loss of notifications is reported as a gap, also when its connection is lost."""

from __future__ import annotations

import asyncio
import gc

import pytest

from pg_wired import (
    AsyncConn,
    AsyncPool,
    ConfigError,
    ConnectionClosed,
    ListenerGap,
    Notification,
    NotificationGap,
    Outcome,
    PgError,
    PoolExhausted,
    PoolListener,
    UsageError,
)
from pg_wired.protocol import messages as m
from pg_wired.testing import FakePG, Peer
from rig.checks import ends_clean, outcome_of, until, until_sql
from rig.postgres import Server
from rig.randomness import chosen

pytestmark = pytest.mark.both_loops


def adds_up(listener: PoolListener) -> bool:
    return listener.received == listener.delivered + listener.queued + listener.dropped


async def kill(admin: AsyncConn, listener: PoolListener) -> int:
    """Terminate the session that listens, and wait until another one listens."""
    pid = listener.backend_pid
    assert pid
    await admin.exec_query("select pg_terminate_backend($1::int4, 5000)", [str(pid)])
    await until(lambda: listener.backend_pid not in (pid, None), "another connection to listen")
    return pid


@ends_clean()
async def test_errors_name_the_task_that_opened_the_listener(postgres: Server) -> None:
    """PoolExhausted names the task that opened the listener, also after it has moved to another connection."""
    async with (
        await AsyncConn.connect(postgres.dsn) as admin,
        await AsyncPool.connect(postgres.dsn, size=1, max_exclusive=1) as pool,
        pool.listener(["a"]) as events,
    ):
        me = asyncio.current_task()
        assert me is not None
        for _ in range(2):
            with pytest.raises(PoolExhausted, match=f"task {me.get_name()!r} in listener"):
                async with pool.exclusive(acquire_timeout=0):
                    pass
            await kill(admin, events)


@ends_clean()
async def test_notifications_of_the_listened_channels_are_delivered_in_order(postgres: Server) -> None:
    async with await AsyncPool.connect(postgres.dsn, size=1) as pool, pool.listener(["Jobs", 'a"b', "Jobs"]) as events:
        assert pool.stats().lent == 1 and events.received == 0
        await pool.exec_query(
            "select pg_notify('Jobs', 'one'), pg_notify('jobs', 'not ours'), pg_notify('a\"b', 'two')"
        )
        got = [await anext(events), await anext(events)]
        assert [(event.channel, event.payload) for event in got if isinstance(event, Notification)] == [
            ("Jobs", "one"),
            ('a"b', "two"),
        ]
        assert (events.received, events.delivered, events.queued, events.dropped) == (2, 2, 0, 0)
        channels = await pool.exec_query("select count(*) from pg_listening_channels()")
        assert list(channels) == [(b"0",)]


@ends_clean()
async def test_a_killed_session_is_replaced_after_a_gap(postgres: Server) -> None:
    async with (
        await AsyncConn.connect(postgres.dsn) as admin,
        await AsyncPool.connect(postgres.dsn, size=1) as pool,
        pool.listener(["jobs"]) as events,
    ):
        await admin.simple_query("notify jobs, 'before'")
        await until(lambda: events.queued == 1, "the notification")
        reading = asyncio.ensure_future(anext(events))
        first = await reading
        waiting = asyncio.ensure_future(anext(events))
        before = await kill(admin, events)
        gap = await waiting
        assert isinstance(gap, ListenerGap) and (gap.before, gap.after) == (before, events.backend_pid)
        assert gap.dropped == 0 and gap.seconds > 0
        await admin.simple_query("notify jobs, 'behind'")
        second = await anext(events)
        assert isinstance(first, Notification) and isinstance(second, Notification)
        assert (first.payload, second.payload) == ("before", "behind") and adds_up(events)


@ends_clean()
async def test_notifications_received_before_a_loss_are_delivered_before_the_gap(postgres: Server) -> None:
    async with (
        await AsyncConn.connect(postgres.dsn) as admin,
        await AsyncPool.connect(postgres.dsn, size=1) as pool,
        pool.listener(["jobs"], capacity=3) as events,
    ):
        await admin.exec_query("select pg_notify('jobs', i::text) from generate_series(1, 5) i")
        await until(lambda: events.received == 5, "five")
        await kill(admin, events)
        await kill(admin, events)  # nothing arrives in between, so there is one gap
        got = [await anext(events) for _ in range(5)]
        assert got[0] == NotificationGap(2)
        assert [event.payload for event in got[1:4] if isinstance(event, Notification)] == ["3", "4", "5"]
        assert isinstance(got[4], ListenerGap) and adds_up(events) and events.dropped == 2
        assert pool.stats().dropped_notifications == 2
    assert pool.stats().dropped_notifications == 2


@ends_clean(60)
async def test_every_missing_notification_lies_inside_a_gap(postgres: Server) -> None:
    """Notifications are numbered, and sessions are killed in between."""
    async with (
        await AsyncConn.connect(postgres.dsn) as admin,
        await AsyncPool.connect(postgres.dsn, size=1) as pool,
        pool.listener(["ledger"]) as events,
    ):
        last = 3000

        async def notify() -> None:
            for first in range(1, last, 100):
                numbers = "select pg_notify('ledger', i::text) from generate_series($1::int4, $2::int4) i"
                await admin.exec_query(numbers, [str(first), str(first + 99)])

        async def kill_some() -> None:
            for _ in range(8):
                await kill(admin, events)

        async def work() -> None:
            await asyncio.gather(notify(), kill_some())
            await admin.exec_query("select pg_notify('ledger', $1)", [str(last + 1)])

        working = asyncio.ensure_future(work())
        at, is_gap, gaps, lost = 0, False, 0, 0
        while at <= last:
            event = await anext(events)
            if isinstance(event, Notification):
                number = int(event.payload)
                assert number > at and (is_gap or number == at + 1), (number, at)
                lost += number - at - 1
                at, is_gap = number, False
            else:
                gaps, is_gap = gaps + 1, True
        await working
        assert gaps >= 1 and adds_up(events) and events.delivered + lost == last + 1


@ends_clean()
async def test_a_listener_retries_until_it_is_connected_and_reports_one_gap(postgres: Server) -> None:
    """Twenty attempts fail; then come one gap and the next notifications."""
    refusals = iter(range(20))

    async def on_connect(conn: AsyncConn) -> None:
        if is_down and next(refusals, None) is not None:
            raise PgError([("C", "57P03"), ("M", "not now")])

    is_down = False
    async with (
        await AsyncConn.connect(postgres.dsn) as admin,
        await AsyncPool.connect(postgres.dsn, size=1, on_connect=on_connect, _runtime=chosen(lambda: 0.001)) as pool,
        pool.listener(["jobs"]) as events,
    ):
        is_down = True
        await kill(admin, events)
        await admin.simple_query("notify jobs, 'again'")
        assert isinstance(await anext(events), ListenerGap)
        assert isinstance(await anext(events), Notification)
        assert pool.stats().connect_failures == 20


@ends_clean()
async def test_closing_the_pool_ends_its_listeners(postgres: Server) -> None:
    async with await AsyncPool.connect(postgres.dsn, size=1) as pool:
        events = pool.listener(["jobs"])

        async def read() -> list[object]:
            return [event async for event in events]  # the first step of the iteration opens it

        reading = asyncio.ensure_future(read())
        await until(lambda: events.backend_pid is not None, "it to listen")
        await pool.exec_query("select pg_notify('jobs', 'last')")
        await until(lambda: events.delivered == 1, "the notification")
    assert len(await reading) == 1


@ends_clean()
async def test_a_listener_holds_its_connection_until_it_is_closed(postgres: Server) -> None:
    async with await AsyncPool.connect(postgres.dsn, size=1, max_exclusive=1) as pool:
        async with pool.listener(["jobs"]) as events:
            with pytest.raises(PoolExhausted, match=r"listener\(\)") as caught:
                async with pool.exclusive(acquire_timeout=0.05):
                    pass
            assert caught.value.outcome is Outcome.NOT_SENT
            pid = events.backend_pid
        async with pool.exclusive() as mine:
            rows = await mine.exec_query("select pg_backend_pid(), (select count(*) from pg_listening_channels())")
            assert int(rows[0][0] or b"") != pid and rows[0][1] == b"0"
        await events.aclose()
        with pytest.raises(StopAsyncIteration):
            await anext(events)


@ends_clean()
async def test_a_dropped_listener_releases_its_connection(postgres: Server) -> None:
    async with await AsyncPool.connect(postgres.dsn, size=1, max_exclusive=1) as pool:
        events = pool.listener(["jobs"])
        await events.__aenter__()
        del events
        gc.collect()
        async with pool.exclusive(acquire_timeout=5):
            pass


@ends_clean()
async def test_a_pooler_that_ignores_listen_is_detected(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pooler confirms every statement and delivers no notification."""

    async def script(peer: Peer) -> None:
        await peer.startup()
        while not isinstance((group := await peer.group())[-1], m.Terminate):
            query = group[-1]
            assert isinstance(query, m.Query)
            await peer.send(m.CommandComplete(query.query.split()[0]), m.ReadyForQuery("I"))
        peer.close()

    monkeypatch.setattr("pg_wired.pool.listener.DELIVERY_TIMEOUT_SECONDS", 0.1)
    async with FakePG(script) as fake, await AsyncPool.connect(fake.dsn, size=1) as pool:
        with pytest.raises(UsageError, match="transaction mode") as caught:
            async with pool.listener(["jobs"]):
                pass
        assert caught.value.outcome is Outcome.NOT_SENT
        assert pool.stats().lent == 0


@ends_clean()
async def test_notifications_that_come_with_the_answer_to_listen_follow_the_gap() -> None:
    """The server may send notifications before its ReadyForQuery, and more in the same packet."""

    async def said(peer: Peer, *more: m.BackendMessage) -> str:
        [query] = await peer.expect(m.Query)
        await peer.send(m.CommandComplete(query.query.split()[0]), *more, m.ReadyForQuery("I"), *more)
        return str(query.query)

    async def lane(peer: Peer) -> None:
        await peer.startup()
        channel.set_result((await said(peer)).split()[1])

    async def first(peer: Peer) -> None:
        await peer.startup()
        await said(peer)
        await peer.send(m.NotificationResponse(1, await channel, ""))
        await said(peer)
        await said(peer)
        await peer.fake.within(listens.wait(), "the listener to be open")  # else the end may arrive with the answer
        peer.close()

    async def second(peer: Peer) -> None:
        await peer.startup(pid=2)
        await said(peer, m.NotificationResponse(1, "jobs", "early"))

    channel: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    listens = asyncio.Event()
    async with (
        FakePG([lane, first, second]) as fake,
        await AsyncPool.connect(fake.dsn, size=1) as pool,
        pool.listener(["jobs"]) as events,
    ):
        listens.set()
        got = [await anext(events) for _ in range(3)]
        assert [type(event) for event in got] == [ListenerGap, Notification, Notification] and adds_up(events)


@ends_clean()
async def test_invalid_arguments_and_a_second_reader_are_refused(postgres: Server) -> None:
    async with await AsyncPool.connect(postgres.dsn, size=1) as pool:
        with pytest.raises(TypeError, match="list of names"):
            pool.listener("jobs")
        with pytest.raises(ConfigError, match="empty"):
            pool.listener([])
        with pytest.raises(ConfigError, match="channel"):
            pool.listener(["a", ""])
        with pytest.raises(ConfigError, match="capacity"):
            pool.listener(["a"], capacity=0)
        async with pool.listener(["a"]) as events:
            with pytest.raises(UsageError, match="open already"):
                await events.__aenter__()
            reading = asyncio.ensure_future(anext(events))
            await asyncio.sleep(0)
            with pytest.raises(UsageError, match="one reader"):
                await anext(events)
            reading.cancel()
            assert isinstance(await outcome_of(reading), asyncio.CancelledError)


@ends_clean()
async def test_a_listener_cancelled_while_it_opens_leaves_no_session(postgres: Server) -> None:
    async with await AsyncConn.connect(postgres.dsn) as admin, await AsyncPool.connect(postgres.dsn, size=1) as pool:
        for steps in range(12):
            opening = asyncio.ensure_future(pool.listener(["jobs"]).__aenter__())
            for _ in range(steps):
                await asyncio.sleep(0)
            opening.cancel()
            listener = await outcome_of(opening)
            if isinstance(listener, PoolListener):
                await listener.aclose()
            assert pool.stats().lent == 0
        await until_sql(admin, "select count(*) = 0 from pg_stat_activity where query like 'LISTEN%'")


@ends_clean()
async def test_a_connection_lost_during_the_delivery_check_raises_connection_closed() -> None:
    """The error does not blame a pooler."""

    async def shared(peer: Peer) -> None:
        await peer.startup()
        await peer.expect(m.Query)
        await peer.send(m.CommandComplete("NOTIFY"), m.ReadyForQuery("I"))
        await peer.eof()

    async def lent(peer: Peer) -> None:
        await peer.startup()
        await peer.expect(m.Query)
        await peer.send(m.CommandComplete("LISTEN"), m.ReadyForQuery("I"))
        peer.close()

    async with FakePG([shared, lent]) as fake:
        pool = await AsyncPool.connect(fake.dsn, size=1, probe_interval=None)
        with pytest.raises(ConnectionClosed):
            async with pool.listener(["jobs"]):
                pass
        pool.abort()
