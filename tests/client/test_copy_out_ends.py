"""COPY out to a reader that is slow, leaves early, is too late or drops the copy: the server waits or stops."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from pg_wired import AsyncConn, Outcome, RequestTimeout, UsageError
from pg_wired.protocol import messages as m
from pg_wired.testing import FakePG, Peer
from rig.checks import LATE, SOON, Cancelled, answers, ends_clean, outcome_of
from rig.postgres import Server
from tests.endless_queries import ENDLESS_COPY, was_stopped

pytestmark = pytest.mark.both_loops

READY = m.ReadyForQuery("I")


@pytest.fixture
async def conn(postgres: Server) -> AsyncIterator[AsyncConn]:
    async with await AsyncConn.connect(postgres.dsn) as conn:
        yield conn


@pytest.fixture
async def admin(postgres: Server) -> AsyncIterator[AsyncConn]:
    async with await AsyncConn.connect(postgres.dsn) as conn:
        yield conn


async def all_of(conn: AsyncConn, sql: str, **options: Any) -> bytes:
    async with conn.copy_out(sql, **options) as data:
        return b"".join([buffer async for buffer in data])


def copying(*data: m.BackendMessage | bytes, wait: asyncio.Event | None = None) -> Any:
    """A server that answers a COPY with `data`."""

    async def script(peer: Peer) -> None:
        await peer.startup()
        await peer.group()
        await peer.send(m.CopyOutResponse(0, (0,)))
        await peer.send(*data)
        if wait is not None:
            await wait.wait()
        peer.close()

    return script


# ---- back-pressure and early ends


@ends_clean()
async def test_the_server_waits_for_a_slow_reader() -> None:
    sent = 0

    async def script(peer: Peer) -> None:
        nonlocal sent
        await peer.startup()
        await peer.group()
        await peer.send(m.CopyOutResponse(0, (0,)))
        while sent < total:
            await asyncio.get_running_loop().sock_sendall(peer.sock, m.encode(m.CopyData(b"x" * 65536)))
            sent += 65536
        await peer.send(m.CopyDone(), m.CommandComplete("COPY 1"), READY)

    total = 64 * 1024 * 1024
    async with (
        FakePG(script, unix=True) as fake,
        await AsyncConn.connect(fake.dsn) as conn,
        conn.copy_out("copy t to stdout") as data,
    ):
        before = -1
        while before != sent:
            before = sent
            await asyncio.sleep(0.05)
        assert sent < 8 * 1024 * 1024
        assert sum([len(buffer) async for buffer in data]) == total


@pytest.mark.parametrize("kind", ["data", "rows"])
@ends_clean(60)
async def test_leaving_early_stops_the_copy_on_the_server(conn: AsyncConn, admin: AsyncConn, kind: str) -> None:
    def copy() -> Any:
        return conn.copy_out(ENDLESS_COPY) if kind == "data" else conn.copy_out_rows(ENDLESS_COPY + " (format binary)")

    async with copy():
        pass
    await was_stopped(conn, admin)
    async with copy() as parts:
        async for _ in parts:
            break
    await was_stopped(conn, admin)
    async for _ in copy():
        break
    await was_stopped(conn, admin)
    with pytest.raises(KeyError):
        async with copy() as parts:
            async for _ in parts:
                raise KeyError("mine")
    await was_stopped(conn, admin)
    with pytest.raises(KeyError):
        async for _ in copy():
            raise KeyError("mine")
    gc.collect()
    await was_stopped(conn, admin)


@ends_clean()
async def test_a_dropped_iterator_stops_the_copy_on_the_server(conn: AsyncConn, admin: AsyncConn) -> None:
    """Also in a cycle, which only the garbage collector finds. A copy that never began has nothing to end."""
    conn.copy_out(ENDLESS_COPY)
    aiter(conn.copy_out(ENDLESS_COPY))
    loose = aiter(conn.copy_out(ENDLESS_COPY))
    assert await anext(loose)
    cycle: list[Any] = [loose]
    cycle.append(cycle)
    del loose, cycle
    gc.collect()
    await was_stopped(conn, admin)


@ends_clean()
async def test_closing_twice_does_not_affect_later_requests(conn: AsyncConn) -> None:
    async with conn.copy_out("copy (select 1) to stdout") as data:
        assert [buffer async for buffer in data] == [b"1\n"]
        await data.aclose()
        others = [asyncio.create_task(asleep(conn, n)) for n in range(3)]
        await asyncio.sleep(0.01)
        await data.aclose()
    assert await asyncio.gather(*others) == [0, 1, 2]
    await answers(conn)


async def asleep(conn: AsyncConn, number: int) -> int:
    [(_, value)] = await conn.exec_query("select pg_sleep(0.02), $1::int4", (str(number),))
    return int(value or b"")


@ends_clean()
async def test_use_outside_the_block_is_refused(conn: AsyncConn) -> None:
    copy = conn.copy_out(ENDLESS_COPY)
    async with copy as data:
        await anext(aiter(data))
    with pytest.raises((UsageError, StopAsyncIteration)):
        for _ in itertools.count():  # it may still yield the data that it has already received
            await anext(aiter(copy))
    with pytest.raises(UsageError):
        async with copy:
            pass
    await answers(conn)


@pytest.mark.parametrize("is_loose", [False, True], ids=["block", "loose"])
@ends_clean(60)
async def test_cancelling_at_any_await_stops_the_copy_on_the_server(
    conn: AsyncConn, admin: AsyncConn, is_loose: bool
) -> None:
    async def read() -> None:
        seen = 0
        copy = conn.copy_out(ENDLESS_COPY)
        async with contextlib.nullcontext(copy) if is_loose else copy as data:
            async for _ in data:
                await asyncio.sleep(0)
                seen += 1
                if seen == 2:
                    break

    for n in itertools.count(1):
        work = Cancelled(read(), at=n)
        result = await outcome_of(work.run())
        assert result is None or isinstance(result, asyncio.CancelledError), result
        del result
        await was_stopped(conn, admin)
        if not work.was_cancelled:
            break
    assert n > 3


@ends_clean()
async def test_a_copy_past_its_deadline_times_out_with_the_right_outcome(conn: AsyncConn, admin: AsyncConn) -> None:
    async def late(sql: str, limit: float, outcome: Outcome) -> None:
        begin = time.monotonic()
        with pytest.raises(RequestTimeout) as caught:
            await all_of(conn, sql, timeout=limit)
        assert limit - 0.001 <= time.monotonic() - begin < limit + LATE
        assert caught.value.outcome is outcome

    await late("copy (select 1) to stdout", 0, Outcome.NOT_SENT)
    await late("copy (select pg_sleep(30)) to stdout", 0.1, Outcome.UNKNOWN)
    await late(ENDLESS_COPY, 0.1, Outcome.UNKNOWN)
    await was_stopped(conn, admin)
    async with conn.exclusive():
        waiting = asyncio.create_task(late("copy (select 1) to stdout", 0.1, Outcome.NOT_SENT))
        await asyncio.wait([waiting], timeout=0.1 + LATE)
    await waiting


@ends_clean()
async def test_requests_of_the_owner_inside_the_block_are_refused(conn: AsyncConn) -> None:
    async with conn.copy_out("copy (select 1) to stdout") as data:
        for ask in (conn.exec_query, conn.simple_query, conn.describe):
            with pytest.raises(UsageError, match=r"copy_out\(\)"):
                ask("select 1")
        with pytest.raises(UsageError, match=r"copy_out\(\)"):
            await conn.copy_in("copy t from stdin", b"")
        assert [buffer async for buffer in data] == [b"1\n"]


@ends_clean()
async def test_copy_out_inside_a_transaction_can_be_read_or_left_early(conn: AsyncConn) -> None:
    async with conn.exclusive() as mine:
        await mine.simple_query("begin; create temp table copied as select generate_series(1, 3) as a")
        async with mine.copy_out("copy copied to stdout") as data:
            assert b"".join([buffer async for buffer in data]) == b"1\n2\n3\n"
        assert [buffer async for buffer in mine.copy_out("copy copied to stdout")] == [b"1\n2\n3\n"]
        assert mine.transaction_status.name == "IN_TRANSACTION"
        async with mine.copy_out(ENDLESS_COPY) as data:
            await anext(aiter(data))
        await mine.simple_query("rollback")
        async for _ in mine.copy_out(ENDLESS_COPY):
            break
        async with asyncio.timeout(SOON):
            await mine.simple_query("select 1")
    await answers(conn)
