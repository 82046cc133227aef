"""Properties of all windows on a shared connection: order, deadlines, cancelling, the end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, suppress
from typing import Any

import pytest

from pg_wired import AsyncConn, ConnectionClosed, Outcome, RequestTimeout, UsageError
from rig.checks import LATE, Cancelled, answers, ends_clean, outcome_of, repeatable, until
from rig.postgres import Server
from tests.outcomes import GATE, gate, until_asleep

pytestmark = pytest.mark.both_loops

Open = Callable[..., AbstractAsyncContextManager[Any]]

WINDOWS: dict[str, Open] = {
    "exclusive()": lambda conn, **options: conn.exclusive(**options),
    "pipeline()": lambda conn, **options: conn.pipeline(**options),
    "stream()": lambda conn, **options: conn.stream("select generate_series(1, 3)", **options),
    "copy_out()": lambda conn, **options: conn.copy_out("copy (select 1) to stdout", **options),
}
every_window = pytest.mark.parametrize("name", WINDOWS)


@pytest.fixture
async def conn(postgres: Server) -> AsyncIterator[AsyncConn]:
    async with await AsyncConn.connect(postgres.dsn) as conn:
        yield conn


def window(conn: AsyncConn, name: str, **options: Any) -> AbstractAsyncContextManager[Any]:
    return WINDOWS[name](conn, **options)


async def hold(conn: AsyncConn, name: str, may_end: asyncio.Event, inside: asyncio.Event) -> None:
    """Stay inside until `may_end` is set."""
    async with window(conn, name):
        inside.set()
        await may_end.wait()


class Holder:
    """A window that another task holds open."""

    def __init__(self, conn: AsyncConn, name: str = "exclusive()") -> None:
        self.may_end, self.is_inside = asyncio.Event(), asyncio.Event()
        self.task = asyncio.create_task(hold(conn, name, self.may_end, self.is_inside))

    async def __aenter__(self) -> Holder:
        await self.is_inside.wait()
        return self

    async def __aexit__(self, *exc: object) -> None:
        self.may_end.set()
        await self.task


# ---- order


@every_window
@ends_clean()
async def test_a_window_waits_for_earlier_requests_and_later_ones_wait_for_it(conn: AsyncConn, name: str) -> None:
    before = [conn.exec_query("select pg_sleep(0.05)"), conn.exec_query("select 1")]
    async with Holder(conn, name):
        assert all(reply.done() for reply in before)
        behind: list[asyncio.Future[Any]] = [conn.exec_query("select 2"), conn.simple_query("select 2")]
        behind += [conn.describe("select 2"), conn.exec_transaction("", "select 2")]
        await asyncio.sleep(0.03)
        assert not any(reply.done() for reply in behind) and conn.in_flight == 0
    await asyncio.gather(*behind)
    await answers(conn)


@ends_clean()
async def test_waiters_are_served_in_order(conn: AsyncConn) -> None:
    order: list[int] = []

    async def wait(number: int) -> None:
        name = [*WINDOWS, "query"][number % 5]
        if name == "query":
            await conn.exec_query("select 1")
        else:
            async with window(conn, name):
                order.append(number)
                await asyncio.sleep(0)
                assert order[-1] == number, "somebody came in between"
                return
        order.append(number)

    async with Holder(conn):
        tasks = []
        for number in range(50):
            tasks.append(asyncio.create_task(wait(number)))
            await asyncio.sleep(0)
        assert order == []
    await asyncio.gather(*tasks)
    assert order == list(range(50))


@ends_clean(60)
async def test_a_connection_has_one_owner_at_a_time(conn: AsyncConn) -> None:
    """Many tasks use all kinds of windows and queries, and some are cancelled at any moment."""
    rng = repeatable()
    inside: list[int] = []

    async def one(number: int) -> None:
        for _ in range(4):
            await asyncio.sleep(rng.random() * 0.02)
            name = rng.choice([*WINDOWS, "query"])
            if name == "query":
                assert list(await conn.exec_query("select $1::int", (str(number),))) == [(str(number).encode(),)]
                continue
            async with window(conn, name) as mine:
                assert inside == []
                inside.append(number)
                try:
                    if name == "exclusive()":
                        await mine.simple_query("begin; create temp table own(a int); set work_mem = '1MB'")
                        assert len(await mine.exec_query("select * from own")) == 0
                    elif name == "pipeline()":
                        assert list(await mine.query("select $1::int", (str(number),))) == [(str(number).encode(),)]
                    else:
                        assert len([part async for part in mine]) in (1, 3)
                finally:
                    inside.clear()

    tasks = [asyncio.create_task(one(number)) for number in range(60)]
    for task in tasks[::3]:
        asyncio.get_running_loop().call_later(rng.random() * 0.15, task.cancel)
    for end in await asyncio.gather(*tasks, return_exceptions=True):
        assert end is None or isinstance(end, asyncio.CancelledError), repr(end)
    assert list(await conn.exec_query("select count(*) from pg_class where relname = 'own'")) == [(b"0",)]
    await answers(conn)


# ---- deadlines


@every_window
@ends_clean()
async def test_acquire_timeout_limits_only_the_wait(conn: AsyncConn, name: str) -> None:
    async with Holder(conn):
        loop = asyncio.get_running_loop()
        begin = loop.time()
        with pytest.raises(RequestTimeout) as caught:
            async with window(conn, name, acquire_timeout=0.05):
                raise AssertionError("inside")
        assert caught.value.outcome is Outcome.NOT_SENT and 0.049 <= loop.time() - begin < LATE
        behind = conn.exec_query("select 'behind'")
    assert list(await behind) == [(b"behind",)]
    with pytest.raises(RequestTimeout) as caught:
        async with window(conn, name, acquire_timeout=0):
            raise AssertionError("inside")
    assert caught.value.outcome is Outcome.NOT_SENT
    async with window(conn, name, acquire_timeout=0.05):
        await asyncio.sleep(0.1)  # it limits only the wait
    async with window(conn, name, acquire_timeout=None):
        pass
    await answers(conn)


@every_window
@pytest.mark.parametrize(("wrong", "error"), [(-1, ValueError), ("1", TypeError), (True, TypeError)])
@ends_clean()
async def test_invalid_acquire_timeouts_are_refused(
    conn: AsyncConn, name: str, wrong: Any, error: type[Exception]
) -> None:
    with pytest.raises(error):
        async with window(conn, name, acquire_timeout=wrong):
            raise AssertionError("inside")
    await answers(conn)


@ends_clean()
async def test_requests_that_wait_for_a_window_keep_their_own_deadlines(conn: AsyncConn) -> None:
    async with Holder(conn):
        for late in (conn.exec_query("select 1", timeout=0.05), conn.exec_transaction("", "select 1", timeout=0.05)):
            error = await outcome_of(late)
            assert isinstance(error, RequestTimeout) and error.outcome is Outcome.NOT_SENT
    await answers(conn)


@pytest.mark.parametrize("how", ["timeout", "cancel"])
@ends_clean()
async def test_a_window_that_gave_up_does_not_delay_later_requests(postgres: Server, conn: AsyncConn, how: str) -> None:
    """A window gives up while it waits for a slow query. A later request need not wait for the answer of that query."""
    async with gate(postgres.dsn):
        slow = conn.exec_query(f"select {GATE}")
        waiter = asyncio.create_task(enter(conn.exclusive(acquire_timeout=0.03 if how == "timeout" else None)))
        await asyncio.sleep(0)
        behind = conn.exec_query("select 1")
        assert conn.in_flight == 1
        if how == "cancel":
            waiter.cancel()
        assert isinstance(await outcome_of(waiter), (RequestTimeout, asyncio.CancelledError))
        await until(lambda: conn.in_flight == 2, "the one behind to be sent")
    await asyncio.gather(slow, behind)


# ---- cancelling


@every_window
@ends_clean()
async def test_cancelling_in_the_queue_does_not_affect_other_waiters(conn: AsyncConn, name: str) -> None:
    async with Holder(conn):
        waiters = [asyncio.create_task(enter(window(conn, name))) for _ in range(5)]
        await asyncio.sleep(0)
        for waiter in waiters[::2]:
            waiter.cancel()
        behind = conn.exec_query("select 1")
        ends = await asyncio.gather(*waiters[::2], return_exceptions=True)
        assert {type(end) for end in ends} == {asyncio.CancelledError}
    await asyncio.gather(*waiters[1::2], behind)
    await answers(conn)


async def enter(cm: AbstractAsyncContextManager[Any]) -> None:
    async with cm:
        pass


@every_window
@ends_clean()
async def test_cancelling_just_as_the_lease_is_granted_passes_it_on(conn: AsyncConn, name: str) -> None:
    for delay in range(4):
        mine = conn.exclusive()
        await mine.__aenter__()
        waiter = asyncio.create_task(enter(window(conn, name)))
        await asyncio.sleep(0)
        behind = asyncio.ensure_future(outcome_of(asyncio.create_task(enter(window(conn, name)))))
        await asyncio.sleep(0)
        await mine.__aexit__(None, None, None)
        for _ in range(delay):
            await asyncio.sleep(0)
        waiter.cancel()
        with suppress(asyncio.CancelledError):  # it may have finished first
            await waiter
        assert await behind is None
        await answers(conn)


@every_window
@ends_clean(60)
async def test_cancelling_at_any_await_leaves_the_connection_usable(conn: AsyncConn, name: str) -> None:
    async def work() -> None:
        async with window(conn, name) as mine:
            if name == "exclusive()":
                await mine.simple_query("begin; set local work_mem = '1MB'")
                await mine.exec_query("select 1")
            elif name == "pipeline()":
                await mine.query("select 1")
                mine.query("select 2")
            else:
                async for _ in mine:
                    await asyncio.sleep(0)

    at, was_cancelled = 0, True
    while was_cancelled:
        at += 1
        cancelled = Cancelled(work(), at)
        task = cancelled.run()
        other = conn.exec_query("select 'other'")
        end = await outcome_of(task)
        was_cancelled = cancelled.was_cancelled
        assert end is None or isinstance(end, asyncio.CancelledError), repr(end)
        assert list(await other) == [(b"other",)]
        await answers(conn)
    assert at > 1


# ---- the owner


@every_window
@ends_clean()
async def test_requests_of_the_owner_outside_its_window_are_refused_at_once(conn: AsyncConn, name: str) -> None:
    async with window(conn, name) as mine:
        waiting = asyncio.create_task(ask(conn))
        await asyncio.sleep(0)
        outside: list[Callable[[], Any]] = [
            lambda: conn.exec_query("select 1"),
            lambda: conn.simple_query("select 1"),
            lambda: conn.describe("select 1"),
            lambda: conn.exec_transaction("", "select 1"),
        ]
        for call in outside:
            with pytest.raises(UsageError) as caught:
                call()
            assert f"inside {name}" in str(caught.value) and caught.value.outcome is Outcome.NOT_SENT
        for other in WINDOWS:
            with pytest.raises(UsageError) as caught:
                await enter(window(conn, other))
            assert f"inside {name}" in str(caught.value)
        with pytest.raises(UsageError, match="inside"):
            await conn.copy_in("copy nowhere from stdin", b"")
        with pytest.raises(UsageError, match="inside"):
            await conn.listen("channel")
        assert not waiting.done()
        if name in ("stream()", "copy_out()"):
            assert len([part async for part in mine]) > 0  # the window still works
    assert await waiting == [(b"1",)]
    await answers(conn)


async def ask(conn: AsyncConn) -> list[Any]:
    return list(await conn.exec_query("select 1"))


@every_window
@ends_clean()
async def test_opening_a_window_again_works_or_is_refused(conn: AsyncConn, name: str) -> None:
    """Either way the connection is released."""
    again = window(conn, name)
    for lease in range(3):
        try:
            async with again as mine:
                if name == "exclusive()":
                    await mine.simple_query("begin; set work_mem = '1MB'")
        except UsageError:
            assert lease > 0
        await answers(conn)


@every_window
@ends_clean()
async def test_entering_a_window_twice_at_once_works_or_is_refused(conn: AsyncConn, name: str) -> None:
    same = window(conn, name)
    ends = await asyncio.gather(*[enter(same) for _ in range(2)], return_exceptions=True)
    assert {type(end) for end in ends} <= {type(None), UsageError}
    await answers(conn)


# ---- the end of the connection


@every_window
@ends_clean()
async def test_a_connection_lost_during_a_window_fails_all_waiters_as_not_sent(
    postgres: Server, conn: AsyncConn, name: str
) -> None:
    shared = await AsyncConn.connect(postgres.dsn)
    async with Holder(shared, name):
        waiters = [asyncio.create_task(enter(window(shared, other))) for other in WINDOWS]
        await asyncio.sleep(0)
        query = shared.exec_query("select 1")
        await conn.exec_query("select pg_terminate_backend($1)", (str(shared.backend_pid),))
        for end in await asyncio.gather(*waiters, query, return_exceptions=True):
            assert isinstance(end, ConnectionClosed) and end.outcome is Outcome.NOT_SENT
    assert not shared.is_alive
    with pytest.raises(ConnectionClosed):
        await enter(window(shared, name))
    await shared.close()


@every_window
@ends_clean()
async def test_abort_during_a_window_fails_waiters_as_not_sent(postgres: Server, name: str) -> None:
    shared = await AsyncConn.connect(postgres.dsn)
    async with Holder(shared, name):
        waiter = asyncio.create_task(enter(window(shared, name)))
        await asyncio.sleep(0)
        shared.abort()
        end = await outcome_of(waiter)
        assert isinstance(end, ConnectionClosed) and end.outcome is Outcome.NOT_SENT
    await shared.close()


@every_window
@ends_clean()
async def test_close_waits_for_the_window_and_the_queued_requests(postgres: Server, name: str) -> None:
    shared = await AsyncConn.connect(postgres.dsn)
    async with Holder(shared, name):
        behind = shared.exec_query("select 'behind'")
        closing = asyncio.create_task(shared.close())
        await asyncio.sleep(0.03)
        assert not closing.done() and not behind.done()
        with pytest.raises(ConnectionClosed) as caught:
            shared.exec_query("select 1")
        assert caught.value.outcome is Outcome.NOT_SENT
    assert list(await behind) == [(b"behind",)]
    await closing
    assert not shared.is_alive


@ends_clean()
async def test_close_times_out_on_a_window_that_stays_open(postgres: Server, conn: AsyncConn) -> None:
    shared = await AsyncConn.connect(postgres.dsn)
    inside = asyncio.Event()

    async def work() -> None:
        async with shared.exclusive() as mine:
            sleeping = mine.exec_query("select pg_sleep(60)")
            inside.set()
            await sleeping

    task = asyncio.create_task(work())
    await inside.wait()
    await until_asleep(conn, shared.backend_pid)
    with pytest.raises(RequestTimeout):
        await shared.close(timeout=0.05)
    end = await outcome_of(task)
    assert isinstance(end, ConnectionClosed) and end.outcome is Outcome.UNKNOWN
    await conn.exec_query("select pg_terminate_backend($1)", (str(shared.backend_pid),))
    await until(lambda: shared._core.transport.is_closed, "the end")
