"""Every method of WireConn, on a real server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from pg_wired import AsyncConn, ConnectionClosed, Outcome, PgError, TransactionStatus, UsageError, WireConn
from pg_wired.connect.wire_conn import HIGH_WATER_BYTES
from pg_wired.protocol import messages as m
from rig.checks import ends_clean, outcome_of, until
from rig.postgres import Server
from tests.outcomes import until_asleep

pytestmark = pytest.mark.both_loops


@pytest.fixture
async def wire(postgres: Server) -> AsyncIterator[WireConn]:
    async with await WireConn.connect(postgres.dsn) as wire:
        yield wire


async def alive(wire: WireConn) -> None:
    await wire.send(m.Query("select 'alive'"))
    assert await wire.collect_rows() == ([(b"alive",)], "SELECT 1")
    assert not wire.has_pending_data


@pytest.mark.smoke
@ends_clean()
async def test_an_extended_query_is_sent_and_received_message_by_message(wire: WireConn) -> None:
    await wire.send(m.Parse("", "select $1::int4 + 1"), m.Bind(params=(b"41",)), m.Execute(), m.Sync())
    seen = []
    while True:
        match await wire.recv_msg():
            case m.DataRow(values):
                seen.append(values)
            case m.CommandComplete(command_tag=tag):
                assert tag == "SELECT 1"
            case m.ReadyForQuery(status="I"):
                break
            case message:
                assert isinstance(message, m.ParseComplete | m.BindComplete)
    assert seen == [(b"42",)]
    await alive(wire)


@ends_clean()
async def test_recv_msg_returns_an_error_as_a_message(wire: WireConn) -> None:
    await wire.send(m.Query("select 1/0"))
    message = await wire.recv_msg()
    while not isinstance(message, m.ErrorResponse):
        message = await wire.recv_msg()
    assert dict(message.fields)["C"] == "22012"
    assert await wire.recv_msg() == m.ReadyForQuery("I")
    await alive(wire)


@ends_clean()
async def test_has_pending_data_tells_of_unread_messages(wire: WireConn) -> None:
    assert not wire.has_pending_data
    await wire.send(m.Query("select 1"))
    await until(lambda: wire.has_pending_data, "the answer")
    await wire.drain_until_ready()
    assert not wire.has_pending_data


@ends_clean()
async def test_collect_rows_returns_all_rows_and_the_last_tag_or_raises(wire: WireConn) -> None:
    await wire.send(m.Query("select 1; create temp table t(); select 2 union all select null"))
    assert await wire.collect_rows() == ([(b"1",), (b"2",), (None,)], "SELECT 2")
    await wire.send(m.Query(""))
    assert await wire.collect_rows() == ([], "")
    await wire.send(m.Query("select generate_series(1, 10); select 1/0"))
    with pytest.raises(PgError, match="division by zero") as caught:
        await wire.collect_rows()
    assert caught.value.outcome is Outcome.REJECTED
    await alive(wire)


@ends_clean()
async def test_drain_until_ready_skips_rows_and_raises_errors(wire: WireConn) -> None:
    await wire.send(m.Query("select generate_series(1, 1000)"))
    await wire.drain_until_ready()
    await wire.send(m.Query("nonsense"))
    with pytest.raises(PgError, match="syntax error"):
        await wire.drain_until_ready()
    await alive(wire)


@ends_clean()
async def test_describe_statement_returns_parameters_and_fields(wire: WireConn) -> None:
    described = await wire.describe_statement("select $1::int8 as a, $2::text as b")
    assert described.param_oids == (20, 25)
    assert [(field.name, field.type_oid) for field in described.fields] == [("a", 20), ("b", 25)]
    assert await wire.describe_statement("listen x") == ((), ())
    with pytest.raises(PgError) as caught:
        await wire.describe_statement("select nonsense")
    assert "LINE 1: select nonsense" in str(caught.value)
    await alive(wire)


@ends_clean()
async def test_parameters_and_transaction_status_follow_the_server(wire: WireConn) -> None:
    assert wire.parameters["client_encoding"] == "UTF8" and wire.pid
    for sql, status in (
        ("begin", TransactionStatus.IN_TRANSACTION),
        ("set local timezone = 'Asia/Tokyo'", TransactionStatus.IN_TRANSACTION),
        ("nonsense", TransactionStatus.FAILED),
        ("rollback", TransactionStatus.IDLE),
    ):
        await wire.send(m.Query(sql))
        await outcome_of(wire.drain_until_ready())
        assert wire.transaction_status is status
        assert (wire.parameters["TimeZone"] == "Asia/Tokyo") == sql.startswith("set")  # the error reverts the setting


@ends_clean()
async def test_copy_works_in_both_directions(wire: WireConn) -> None:
    await wire.send(m.Query("create temp table copied(a int, b text)"))
    await wire.drain_until_ready()
    await wire.send(m.Query("copy copied from stdin"))
    assert isinstance(await wire.recv_msg(), m.CopyInResponse)
    await wire.send(m.CopyData(b"1\tone\n"), m.CopyData(b"2\t\\N\n"), m.CopyDone())
    assert await wire.collect_rows() == ([], "COPY 2")
    await wire.send(m.Query("copy copied to stdout"))
    assert isinstance(await wire.recv_msg(), m.CopyOutResponse)
    assert [await wire.recv_msg() for _ in range(3)] == [
        m.CopyData(b"1\tone\n"),
        m.CopyData(b"2\t\\N\n"),
        m.CopyDone(),
    ]
    await wire.drain_until_ready()
    await wire.send(m.Query("copy copied from stdin"), m.CopyFail("not today"))
    with pytest.raises(PgError, match="not today"):
        await wire.collect_rows()
    await alive(wire)


@ends_clean()
async def test_unread_rows_stop_the_reading_from_the_socket(wire: WireConn) -> None:
    rows, size = 40_000, 1000
    await wire.send(m.Query(f"select repeat('x', {size}) from generate_series(1, {rows})"))
    await until(lambda: wire._queue.size >= HIGH_WATER_BYTES, "the inbox to be full")
    for _ in range(20):
        await asyncio.sleep(0.001)
    assert wire._queue.size < HIGH_WATER_BYTES + 2 * len(wire._queue.buffer)
    found, tag = await wire.collect_rows()
    assert (len(found), set(found), tag) == (rows, {(b"x" * size,)}, f"SELECT {rows}")
    await alive(wire)


@ends_clean()
async def test_a_message_larger_than_all_buffers_is_sent(wire: WireConn) -> None:
    text = b"x" * 20_000_000
    await wire.send(m.Parse("", "select length($1)"), m.Bind(params=(text,)), m.Execute(), m.Sync())
    assert await wire.collect_rows() == ([(b"20000000",)], "SELECT 1")
    assert not wire._queue.out
    await wire.send_raw(m.encode(m.Query("select 1 -- " + "y" * 5_000_000)))
    assert await wire.collect_rows() == ([(b"1",)], "SELECT 1")


@ends_clean()
async def test_a_second_reader_is_refused(wire: WireConn) -> None:
    await wire.send(m.Query("select pg_sleep(0.05)"))
    first = asyncio.ensure_future(wire.collect_rows())
    await asyncio.sleep(0)
    with pytest.raises(UsageError, match="one owner") as caught:
        await wire.recv_msg()
    assert caught.value.outcome is Outcome.NOT_SENT
    assert await first == ([(b"",)], "SELECT 1")
    await alive(wire)


@ends_clean()
async def test_a_cancelled_reader_loses_nothing(wire: WireConn) -> None:
    await wire.send(m.Query("select pg_sleep(0.05), 'here'"))
    for _ in range(3):
        reader = asyncio.ensure_future(wire.recv_msg())
        await asyncio.sleep(0)
        reader.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reader
    assert await wire.collect_rows() == ([(b"", b"here")], "SELECT 1")


@ends_clean()
async def test_a_cancel_token_cancels_the_running_query(wire: WireConn, postgres: Server) -> None:
    token = wire.cancel_token()
    assert str(token.pid) in repr(token) and repr(token.secret_key) not in repr(token)
    await wire.send(m.Query("select pg_sleep(30)"))
    async with await AsyncConn.connect(postgres.dsn) as admin:
        await until_asleep(admin, wire.pid)  # a cancel request that comes before the query has begun is lost
    await token.cancel()
    with pytest.raises(PgError) as caught:
        await wire.collect_rows()
    assert caught.value.code == "57014"
    await alive(wire)


@ends_clean()
async def test_notices_and_notifications_are_received_as_messages(wire: WireConn) -> None:
    await wire.send(m.Query("listen here; notify here, 'payload'; do $$ begin raise notice 'heard'; end $$"))
    seen = [await wire.recv_msg()]
    while not isinstance(seen[-1], m.ReadyForQuery):
        seen.append(await wire.recv_msg())
    assert wire.pid and m.NotificationResponse(wire.pid, "here", "payload") in seen
    [notice] = [message for message in seen if isinstance(message, m.NoticeResponse)]
    assert dict(notice.fields)["M"] == "heard"


@ends_clean()
async def test_messages_that_cannot_be_encoded_are_not_sent(wire: WireConn) -> None:
    with pytest.raises(ValueError, match="Query"):
        await wire.send(m.Query("select 1"), m.Query("select '\0'"))
    await alive(wire)


@ends_clean()
async def test_after_close_every_use_raises_connection_closed(postgres: Server) -> None:
    wire = await WireConn.connect(postgres.dsn)
    reader = asyncio.ensure_future(wire.recv_msg())
    await asyncio.sleep(0)
    await asyncio.gather(wire.close(), wire.close())
    await wire.close()
    wire.abort()
    assert type(await outcome_of(reader)) is ConnectionClosed
    for use in (wire.send(m.Sync()), wire.recv_msg(), wire.collect_rows(), wire.describe_statement("x")):
        with pytest.raises(ConnectionClosed):
            await use
    await wire.cancel_token().cancel()  # inert


@ends_clean()
async def test_close_works_in_the_middle_of_an_answer(postgres: Server) -> None:
    wire = await WireConn.connect(postgres.dsn)
    await wire.send(m.Query("select repeat('x', 1000) from generate_series(1, 20000)"))
    await until(lambda: wire._queue.size >= HIGH_WATER_BYTES, "the inbox to be full")
    await wire.close()
    wire = await WireConn.connect(postgres.dsn)
    await wire.send(m.Query("select pg_sleep(30)"))
    await wire.close(timeout=0.05)
    assert wire._transport.is_closed


@ends_clean()
async def test_errors_after_a_termination_name_its_cause(wire: WireConn, postgres: Server) -> None:
    async with await WireConn.connect(postgres.dsn) as other:
        await other.send(m.Query(f"select pg_terminate_backend({wire.pid})"))
        await other.collect_rows()
    await until(lambda: wire._transport.is_closed, "the end")
    for is_read in (False, True):  # the server's last error is the cause, whether or not it was read
        if is_read:
            assert isinstance(await wire.recv_msg(), m.ErrorResponse)
        for use in (wire.send(m.Query("select 1")), wire.describe_statement("select 1")):
            with pytest.raises(ConnectionClosed) as closed:
                await use
            assert isinstance(closed.value.__cause__, PgError) and closed.value.__cause__.code == "57P01"
    with pytest.raises(ConnectionClosed, match="terminating connection"):
        await wire.recv_msg()


@ends_clean()
async def test_a_termination_during_a_query_raises_its_error_as_unknown(wire: WireConn, postgres: Server) -> None:
    await wire.send(m.Query("select pg_sleep(30)"))
    async with await WireConn.connect(postgres.dsn) as other:
        await other.send(m.Query(f"select pg_terminate_backend({wire.pid})"))
        await other.collect_rows()
    with pytest.raises(PgError) as caught:
        await wire.collect_rows()
    assert (caught.value.code, caught.value.is_fatal, caught.value.outcome) == ("57P01", True, Outcome.UNKNOWN)


@ends_clean()
@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
async def test_raw_messages_may_be_in_any_buffer(postgres: Server, kind: Callable[[bytes], Any]) -> None:
    async with await WireConn.connect(postgres.dsn) as wire:
        await wire.send_raw(kind(m.encode(m.Query("select 1"))))
        assert (await wire.collect_rows())[0] == [(b"1",)]
