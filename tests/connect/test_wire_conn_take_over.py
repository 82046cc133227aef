"""A WireConn that an AsyncConn takes over, that is dropped, or that is used in another thread or loop."""

from __future__ import annotations

import asyncio
import gc
import threading
from typing import Any

import pytest

from pg_wired import AsyncConn, ConnectionClosed, Outcome, PgWireError, ProtocolError, UsageError, WireConn
from pg_wired.protocol import messages as m
from pg_wired.testing import FakePG, Peer
from rig.checks import answers, ends_clean, outcome_of, until
from rig.postgres import Server

pytestmark = pytest.mark.both_loops


@ends_clean()
async def test_unread_messages_go_to_the_new_owner(postgres: Server) -> None:
    wire = await WireConn.connect(postgres.dsn)
    await wire.send(m.Query("listen here"))
    await wire.drain_until_ready()
    async with await AsyncConn.connect(postgres.dsn) as other:
        await other.simple_query("notify here, 'a'; notify here, 'b'")
    await until(lambda: wire.has_pending_data, "the notifications")
    async with AsyncConn(wire) as conn:
        await answers(conn)
        assert conn.dropped_notifications == 2 and conn.backend_pid == wire.pid


@ends_clean()
async def test_half_a_received_message_goes_to_the_new_owner() -> None:
    halves = m.encode(m.ParameterStatus("TimeZone", "Asia/Tokyo"))

    async def script(peer: Peer) -> None:
        await peer.startup()
        await peer.send(halves[:7])
        await peer.group()
        await peer.send(halves[7:], m.ParseComplete(), m.ReadyForQuery("I"))
        await peer.answer_rows([(b"1",)])

    async with FakePG(script) as fake:
        wire = await WireConn.connect(fake.dsn)
        await until(lambda: wire.has_pending_data, "half a message")
        async with AsyncConn(wire) as conn:
            await conn.submit(m.encode(m.Parse("s", ""), m.Sync()))
            assert conn.parameters["TimeZone"] == "Asia/Tokyo"
            assert list(await conn.exec_query("select 1")) == [(b"1",)]


@ends_clean()
async def test_an_unread_answer_makes_the_taken_connection_fail(postgres: Server) -> None:
    wire = await WireConn.connect(postgres.dsn)
    await wire.send(m.Query("select 1"))
    await until(lambda: wire.has_pending_data, "the answer")
    conn = AsyncConn(wire)
    assert not conn.is_alive and wire._transport.is_closed
    with pytest.raises(ProtocolError) as caught:
        conn.exec_query("select 1")
    assert caught.value.outcome is Outcome.NOT_SENT
    await conn.close()


@ends_clean()
async def test_a_connection_that_is_still_sending_cannot_be_taken_over() -> None:
    async def script(peer: Peer) -> None:
        await peer.startup()
        await may_read.wait()
        await peer.group()
        await peer.send(m.EmptyQueryResponse(), m.ReadyForQuery("I"))
        await peer.answer_rows([(b"1",)])

    may_read = asyncio.Event()
    async with FakePG(script) as fake, await WireConn.connect(fake.dsn) as wire:
        sending = asyncio.ensure_future(wire.send(m.Query("--" + "x" * 20_000_000)))
        await asyncio.sleep(0.01)
        assert not sending.done()
        with pytest.raises(UsageError, match="still being sent"):
            AsyncConn(wire)
        may_read.set()
        await sending
        await wire.drain_until_ready()
        async with AsyncConn(wire) as conn:
            assert list(await conn.exec_query("select 1")) == [(b"1",)]


@ends_clean()
async def test_a_connection_in_a_transaction_cannot_be_taken_over(postgres: Server) -> None:
    async with await WireConn.connect(postgres.dsn) as wire:
        await wire.send(m.Query("begin"))
        await wire.drain_until_ready()
        with pytest.raises(UsageError, match="transaction"):
            AsyncConn(wire)
        await wire.send(m.Query("rollback"))
        await wire.drain_until_ready()
        async with AsyncConn(wire) as conn:
            await answers(conn)


@ends_clean()
async def test_a_closed_connection_cannot_be_taken_over(postgres: Server) -> None:
    wire = await WireConn.connect(postgres.dsn)
    await wire.close()
    with pytest.raises(ConnectionClosed):
        AsyncConn(wire)


@ends_clean()
async def test_a_connection_whose_reading_was_paused_works_after_the_take_over(postgres: Server) -> None:
    async with await WireConn.connect(postgres.dsn) as wire:
        await wire.send(m.Query("select repeat('x', 1000) from generate_series(1, 5000)"))
        await until(lambda: wire._queue.size > 1_000_000, "the inbox to be full")
        while not isinstance(await wire.recv_msg(), m.ReadyForQuery):
            pass
        async with AsyncConn(wire) as conn:
            await answers(conn)


@ends_clean()
async def test_the_wire_conn_refuses_use_after_it_was_taken_over(postgres: Server) -> None:
    async with await WireConn.connect(postgres.dsn) as wire:
        await wire.send(m.Query("listen here; notify here"))
        await wire.drain_until_ready()
        conn = AsyncConn(wire)
        uses: list[Any] = [
            lambda: wire.send(m.Sync()),
            lambda: wire.send_raw(b""),
            wire.recv_msg,
            wire.collect_rows,
            wire.drain_until_ready,
            lambda: wire.describe_statement("select 1"),
        ]
        for use in uses:
            with pytest.raises(UsageError, match="taken") as caught:
                await use()
            assert caught.value.outcome is Outcome.NOT_SENT
        with pytest.raises(UsageError, match="taken"):
            AsyncConn(wire)
        await wire.close()
        wire.abort()
        await answers(conn)
    await answers(conn)  # leaving the block of the former owner does not close the connection either
    await conn.close()


@ends_clean()
async def test_a_broken_message_ends_a_wire_conn_for_good() -> None:
    async def script(peer: Peer) -> None:
        await peer.startup()
        await peer.send(b"D\0\0\0\x07\0\x01\0", m.ReadyForQuery("I"))

    async with FakePG(script) as fake:
        wire = await WireConn.connect(fake.dsn)
        for _ in range(2):
            with pytest.raises(ProtocolError, match="DataRow"):
                while True:
                    await wire.recv_msg()
        assert wire._transport.is_closed
        with pytest.raises(ProtocolError):
            await wire.send(m.Sync())


@ends_clean()
async def test_a_dropped_wire_conn_warns_and_closes() -> None:
    async def script(peer: Peer) -> None:
        await peer.startup()
        await peer.eof()

    async with FakePG(script) as fake:
        with pytest.warns(ResourceWarning, match="unclosed <WireConn"):
            wire = await WireConn.connect(fake.dsn)
            del wire
            gc.collect()


@ends_clean()
async def test_use_from_another_thread_or_loop_is_refused(postgres: Server) -> None:
    async with await WireConn.connect(postgres.dsn) as wire:
        refused: list[PgWireError] = []

        def elsewhere() -> None:
            refused.append(asyncio.run(outcome_of(wire.send(m.Sync()))))

        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
        assert isinstance(refused[0], UsageError) and refused[0].outcome is Outcome.NOT_SENT
        await wire.send(m.Query("select 1"))
        await wire.drain_until_ready()
