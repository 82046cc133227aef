"""How a COPY in ends if the server refuses it, or if it is cancelled, times out or loses its connection."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Any

import pytest

from pg_wired import AsyncConn, ConnectionClosed, Outcome, PgError, PgWireError, RequestTimeout
from pg_wired.client.copy_in import COPY_FRAME_BYTES, HIGH_WATER_BYTES
from pg_wired.protocol import messages as m
from pg_wired.testing import FakePG, Peer, error
from rig.checks import LATE, SOON, Cancelled, answers, ends_clean, outcome_of, until, until_sql
from rig.postgres import Server

pytestmark = pytest.mark.both_loops

SQL = "copy copied from stdin"
READY = m.ReadyForQuery("I")


@pytest.fixture
async def conn(postgres: Server) -> AsyncIterator[AsyncConn]:
    async with await AsyncConn.connect(postgres.dsn) as conn:
        await conn.simple_query("drop table if exists copied; create table copied(i int, s text)")
        yield conn


@pytest.fixture
async def admin(postgres: Server) -> AsyncIterator[AsyncConn]:
    async with await AsyncConn.connect(postgres.dsn) as conn:
        yield conn


async def copied(conn: AsyncConn) -> list[tuple[bytes | None, ...]]:
    return list(await conn.exec_query("select i, s from copied order by i, s"))


async def later(chunks: Iterable[Any], pause: float | None = None) -> AsyncIterator[Any]:
    """The same chunks, asynchronously."""
    for chunk in chunks:
        if pause is not None:
            await asyncio.sleep(pause)
        yield chunk


class Source:
    """An endless source of rows that counts the chunks it was asked for."""

    def __init__(self, line: bytes = b"1\tx\n" * 1000, last: Callable[[], Awaitable[None]] | None = None) -> None:
        self.line = line
        self.asked = 0
        self.is_closed = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            while True:
                self.asked += 1
                yield self.line
                await asyncio.sleep(0)
        finally:
            self.is_closed = True


async def never() -> AsyncIterator[bytes]:
    """Yield one row, then wait forever."""
    yield b"1\tx\n"
    await asyncio.get_running_loop().create_future()


# ---- errors of the server


@ends_clean()
async def test_the_source_is_not_read_before_the_server_accepts_the_copy(conn: AsyncConn) -> None:
    source = Source()
    for sql, code in (("copy missing from stdin", "42P01"), (SQL + " (format nonsense)", "22023"), ("cop", "42601")):
        with pytest.raises(PgError) as caught:
            await conn.copy_in(sql, source)
        assert caught.value.code == code and caught.value.outcome is Outcome.REJECTED
        assert source.asked == 0
        await answers(conn)


@ends_clean()
async def test_a_bad_row_stops_an_endless_source(conn: AsyncConn) -> None:
    """It stops after what the sockets and one frame hold, and the source's own cleanup runs."""
    source = Source(b"bad\trow\n" * 16384)
    with pytest.raises(PgError) as caught:
        await conn.copy_in(SQL, source)
    assert caught.value.code == "22P02" and caught.value.outcome is Outcome.REJECTED
    assert source.asked * len(source.line) < 16 * HIGH_WATER_BYTES
    await until(lambda: source.is_closed, "the source to be closed")
    await answers(conn)


@ends_clean()
async def test_no_copy_done_is_sent_after_an_error() -> None:
    """The source stops within one chunk after the error arrives, and nothing more is sent for the COPY."""

    async def script(peer: Peer) -> None:
        await peer.startup()
        await peer.expect(m.Query(SQL))
        await peer.send(m.CopyInResponse(0, (0,)))
        await peer.expect(m.CopyData(b"x" * COPY_FRAME_BYTES))
        await peer.send(error("22P02"), READY)
        seen = 1
        while isinstance(message := await peer.recv(), m.CopyData):
            seen += 1
        assert message == m.Query("select 1") and seen <= 2
        await peer.send(m.CommandComplete("SELECT 0"), READY)

    async def source() -> AsyncIterator[bytes]:
        while True:
            asked.append(1)
            yield b"x" * COPY_FRAME_BYTES
            async with asyncio.timeout(SOON):
                await asyncio.Event().wait()

    asked: list[int] = []
    async with FakePG(script) as fake, await AsyncConn.connect(fake.dsn) as conn:
        with pytest.raises(PgError):
            await conn.copy_in(SQL, source())
        assert len(asked) <= 2
        await conn.simple_query("select 1")


@ends_clean()
async def test_unsent_data_after_an_error_does_not_block_the_next_request() -> None:
    """The unsent data delays the next request but must not block it forever."""

    async def script(peer: Peer) -> None:
        await peer.startup()
        await peer.expect(m.Query(SQL))
        await peer.send(m.CopyInResponse(0, (0,)))
        await has_much.wait()
        await peer.send(error("22P02"), READY)
        await is_answered.wait()
        while not isinstance(await peer.recv(), m.Query):
            pass
        await peer.send(m.CommandComplete("SELECT 0"), READY)

    has_much, is_answered = asyncio.Event(), asyncio.Event()
    async with FakePG(script) as fake, await AsyncConn.connect(fake.dsn) as conn:
        copying = asyncio.create_task(conn.copy_in(SQL, Source()))
        await until(lambda: len(conn._core.session.out) > HIGH_WATER_BYTES, "the client to wait")
        has_much.set()
        assert isinstance(await outcome_of(copying), PgError)
        following = conn.simple_query("select 1")
        is_answered.set()
        async with asyncio.timeout(SOON):
            await following


@ends_clean()
async def test_a_violated_deferred_constraint_fails_the_copy(conn: AsyncConn) -> None:
    await conn.simple_query("alter table copied add constraint one unique (i) deferrable initially deferred")
    with pytest.raises(PgError) as caught:
        await conn.copy_in(SQL, b"1\tx\n1\ty\n")
    assert caught.value.code == "23505"
    assert await copied(conn) == []


# ---- cancelling, deadlines, the end


@pytest.mark.parametrize("state", ["waits for data", "is busy"])
@ends_clean()
async def test_cancelling_stops_the_copy_in_every_state_of_the_server(
    conn: AsyncConn, admin: AsyncConn, state: str
) -> None:
    """A CancelRequest alone has no effect while the server waits for data, CopyFail alone none while it is busy."""
    await conn.simple_query(
        "create or replace function slow() returns trigger language plpgsql as "
        "$$ begin perform pg_sleep(30); return new; end $$; "
        "create trigger slow before insert on copied for each row execute function slow()"
    )
    source: Any = Source() if state == "is busy" else never()
    copying = asyncio.create_task(conn.copy_in(SQL, source))
    event = "PgSleep" if state == "is busy" else "ClientRead"
    await until_sql(admin, f"select wait_event = '{event}' from pg_stat_activity where pid = {conn.backend_pid}")
    begin = time.monotonic()
    copying.cancel()
    assert isinstance(await outcome_of(copying), asyncio.CancelledError)
    await answers(conn)
    assert time.monotonic() - begin < SOON
    assert await copied(conn) == []


@ends_clean(60)
async def test_cancelling_at_any_await_leaves_the_connection_usable(conn: AsyncConn) -> None:
    for n in itertools.count(1):
        work = Cancelled(conn.copy_in(SQL, later([b"1\tx\n"] * 3, pause=0)), at=n)
        result = await outcome_of(work.run())
        assert isinstance(result, asyncio.CancelledError) or result == 3, result
        await answers(conn)
        if not work.was_cancelled:
            break
    assert n > 5


@ends_clean()
async def test_cancelling_before_the_server_accepts_the_copy_sends_copy_fail() -> None:
    """The server begins the COPY anyway, and must be sent a CopyFail."""

    async def script(peer: Peer) -> None:
        await peer.startup()
        await peer.expect(m.Query(SQL))
        asked.set()
        await peer.cancel_request()
        await peer.send(m.CopyInResponse(0, (0,)))
        await peer.expect(m.CopyFail)
        await peer.send(error("57014"), READY)
        while not isinstance(message := await peer.recv(), m.Query):
            assert message == m.Sync()
            await peer.send(READY)
        await peer.send(m.CommandComplete("SELECT 0"), READY)

    asked = asyncio.Event()
    async with FakePG(script) as fake, await AsyncConn.connect(fake.dsn) as conn:
        copying = asyncio.create_task(conn.copy_in(SQL, b"1\n"))
        await asked.wait()
        copying.cancel()
        assert isinstance(await outcome_of(copying), asyncio.CancelledError)
        await conn.simple_query("select 1")


@ends_clean()
async def test_a_copy_past_its_deadline_times_out_with_the_right_outcome(conn: AsyncConn) -> None:
    async def late(limit: float, outcome: Outcome, source: Any) -> None:
        begin = time.monotonic()
        with pytest.raises(RequestTimeout) as caught:
            await conn.copy_in(SQL, source, timeout=limit)
        assert limit - 0.001 <= time.monotonic() - begin < limit + LATE
        assert caught.value.outcome is outcome
        await answers(conn)

    await late(0, Outcome.NOT_SENT, b"1\tx\n")
    await late(0.1, Outcome.UNKNOWN, never())
    await late(0.1, Outcome.UNKNOWN, Source())
    assert await conn.copy_in(SQL, b"1\tx\n", timeout=5) == 1
    async with conn.exclusive():
        waiting = asyncio.create_task(conn.copy_in(SQL, b"2\tx\n", timeout=0.1))
        late_one = await outcome_of(waiting)
    assert isinstance(late_one, RequestTimeout) and late_one.outcome is Outcome.NOT_SENT
    assert await copied(conn) == [(b"1", b"x")]


@pytest.mark.parametrize("end", ["cancel", "timeout"])
@ends_clean()
async def test_a_copy_to_a_server_that_does_not_read_can_be_cancelled_and_times_out(end: str) -> None:
    async def script(peer: Peer) -> None:
        await peer.startup()
        await peer.expect(m.Query(SQL))
        await peer.send(m.CopyInResponse(0, (0,)))
        await over.wait()
        peer.reset()

    over = asyncio.Event()
    source = Source()
    async with FakePG(script) as fake:
        conn = await AsyncConn.connect(fake.dsn)
        copying = asyncio.create_task(conn.copy_in(SQL, source, timeout=0.3 if end == "timeout" else None))
        await until(lambda: len(conn._core.session.out) > HIGH_WATER_BYTES, "the client to wait")
        asked = source.asked
        await asyncio.sleep(0.05)
        assert source.asked == asked  # the source has to wait too
        if end == "cancel":
            copying.cancel()
            await peer_may_end(over)
        result = await outcome_of(copying)
        assert isinstance(result, RequestTimeout if end == "timeout" else asyncio.CancelledError), result
        over.set()
        conn.abort()


async def peer_may_end(over: asyncio.Event) -> None:
    """A server that never reads receives no message: the connection has to end."""
    await asyncio.sleep(0.05)
    over.set()


@ends_clean()
async def test_a_lost_connection_fails_the_copy_as_unknown_and_the_next_as_not_sent(
    conn: AsyncConn, admin: AsyncConn
) -> None:
    copying = asyncio.create_task(conn.copy_in(SQL, never()))
    await until_sql(
        admin,
        f"select state = 'active' and wait_event = 'ClientRead' from pg_stat_activity where pid = {conn.backend_pid}",
    )
    await admin.exec_query(f"select pg_terminate_backend({conn.backend_pid})")
    lost = await outcome_of(copying)
    assert isinstance(lost, ConnectionClosed) and lost.outcome is Outcome.UNKNOWN
    assert isinstance(lost.__cause__, PgError) and lost.__cause__.code == "57P01"
    with pytest.raises(PgWireError) as caught:
        await conn.copy_in(SQL, b"")
    assert caught.value.outcome is Outcome.NOT_SENT


@ends_clean()
async def test_a_copy_succeeds_only_with_ready_for_query() -> None:
    """A copy whose connection ends within the answer to CopyDone has not succeeded (I2)."""
    answer = m.encode(m.CommandComplete("COPY 1"), READY)

    async def script(peer: Peer) -> None:
        await peer.startup()
        await peer.expect(m.Query)
        await peer.send(m.CopyInResponse(0, (0,)))
        await peer.expect(m.CopyData(b"1\n"), m.CopyDone)
        await peer.send(answer[: next(cuts)])
        peer.close()

    cuts = iter(range(len(answer) + 1))
    async with FakePG(script) as fake:
        for cut in range(len(answer) + 1):
            conn = await AsyncConn.connect(fake.dsn)
            result = await outcome_of(conn.copy_in(SQL, b"1\n"))
            assert result == 1 if cut == len(answer) else isinstance(result, ConnectionClosed), cut
            conn.abort()


@ends_clean()
async def test_a_refusal_stops_an_endless_source_before_ready_for_query() -> None:
    """The source never waits, so only the copy itself can let the loop read the server's error."""

    async def script(peer: Peer) -> None:
        await peer.startup()
        await peer.expect(m.Query(SQL))
        await peer.send(m.CopyInResponse(0, (0,)), error("22P04"))
        for _ in range(100):  # iterations of the loop
            await asyncio.sleep(0)
        await peer.send(READY)

    taken = itertools.count()

    async def endless() -> AsyncIterator[bytes]:
        while next(taken) < 10_000:
            yield b"1\n"

    async with FakePG(script) as fake, await AsyncConn.connect(fake.dsn) as conn:
        async with asyncio.timeout(SOON):
            refused = await outcome_of(conn.copy_in(SQL, endless()))
        assert isinstance(refused, PgError) and refused.code == "22P04"
    assert next(taken) < 50


@pytest.mark.parametrize("stray", [m.CopyData(b"x"), m.CopyDone(), m.CommandComplete("COPY 1"), READY], ids=repr)
@ends_clean()
async def test_messages_out_of_place_during_a_copy_end_the_connection(stray: m.BackendMessage) -> None:
    async def script(peer: Peer) -> None:
        await peer.startup()
        await peer.expect(m.Query)
        await peer.send(m.CopyInResponse(0, (0,)), stray)
        await peer.read()

    async with FakePG(script) as fake:
        conn = await AsyncConn.connect(fake.dsn)
        result = await outcome_of(conn.copy_in(SQL, never()))
        assert isinstance(result, PgWireError) and "out of place" in str(result)
        assert not conn.is_alive
