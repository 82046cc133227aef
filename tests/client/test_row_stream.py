"""The rows of a stream: in order, with errors after the rows before them, and a server that waits for the reader."""

from __future__ import annotations

import asyncio
import gc
import hashlib
import resource
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from pg_wired import AsyncConn, ConfigError, ConnectionClosed, FormatCode, Outcome, PgError
from pg_wired.client.incoming import BUFFERED_BYTES
from pg_wired.protocol import messages as m
from pg_wired.testing import FakePG, Peer, describe
from rig.checks import answers, ends_clean, repeatable, until
from rig.postgres import Server

pytestmark = pytest.mark.both_loops


@pytest.fixture
async def conn(postgres: Server) -> AsyncIterator[AsyncConn]:
    async with await AsyncConn.connect(postgres.dsn) as conn:
        yield conn


@pytest.fixture
async def admin(postgres: Server) -> AsyncIterator[AsyncConn]:
    async with await AsyncConn.connect(postgres.dsn) as conn:
        yield conn


async def numbers(conn: AsyncConn, count: int, **options: Any) -> list[int]:
    """The numbers up to `count`, read from a stream."""
    async with conn.stream("select generate_series(1, $1::int4)", (str(count),), **options) as rows:
        return [int(row[0] or b"") async for row in rows]


# ---- rows


@ends_clean()
async def test_fields_come_before_the_first_row(conn: AsyncConn) -> None:
    for _ in range(3):  # parsed, described, cached
        async with conn.stream("select 1 as one, 'x' as two, null as three") as rows:
            assert [field.name for field in rows.fields] == ["one", "two", "three"]
            assert [row async for row in rows] == [(b"1", b"x", None)]
            assert rows.command_tag == "SELECT 1"
    await answers(conn)


@ends_clean()
async def test_a_statement_without_rows_yields_none_and_has_a_tag(conn: AsyncConn) -> None:
    await conn.simple_query("create temp table streamed(a int)")
    for sql, columns, tag in (
        ("select a from streamed", ["a"], "SELECT 0"),
        ("insert into streamed values (1)", [], "INSERT 0 1"),
        ("", [], ""),
    ):
        for _ in range(2):
            async with conn.stream(sql) as rows:
                assert [field.name for field in rows.fields] == columns
                assert [row async for row in rows] == []
                assert rows.command_tag == tag
    await answers(conn)


@ends_clean()
async def test_parameters_and_formats_are_applied_and_wrong_ones_refused(conn: AsyncConn) -> None:
    sql = "select $1, $2::text, $3::text"
    for _ in range(2):
        async with conn.stream(
            sql, (b"\0\0\0\7", "ü", None), (23,), param_formats=[1, 0, 0], result_formats=[1, 0, 0]
        ) as rows:
            assert [field.format for field in rows.fields] == [FormatCode.BINARY, FormatCode.TEXT, FormatCode.TEXT]
            assert [row async for row in rows] == [(b"\0\0\0\7", "ü".encode(), None)]
    for wrong in ({"params": "abc"}, {"params": (1,)}, {"row_buffer": 0}, {"row_buffer": True}, {"timeout": -1}):
        with pytest.raises((TypeError, ConfigError)):
            conn.stream("select 1", **wrong)
    await answers(conn)


@ends_clean(60)
async def test_any_row_buffer_gives_the_same_rows(conn: AsyncConn) -> None:
    rng = repeatable()
    for row_buffer in (1, 2, 999, 10_000, 10**9):
        count = rng.randrange(20_000)
        assert await numbers(conn, count, row_buffer=row_buffer) == list(range(1, count + 1))
    await answers(conn)


@ends_clean()
async def test_batches_and_single_rows_can_be_mixed(conn: AsyncConn) -> None:
    seen: list[int] = []
    async with conn.stream("select generate_series(1, 100000)", row_buffer=100) as rows:
        async for row in rows:
            seen.append(int(row[0] or b""))
            if len(seen) % 10 == 3:
                async for batch in rows.batches():
                    assert batch
                    seen += [int(row[0] or b"") for row in batch]
                    break
    assert seen == list(range(1, 100_001))
    async with conn.stream("select generate_series(1, 10)") as rows:
        assert [row async for batch in rows.batches() for row in batch] == [(b"%d" % n,) for n in range(1, 11)]
        assert [batch async for batch in rows.batches()] == [] == [row async for row in rows]


@ends_clean()
async def test_values_larger_than_all_buffers_arrive_unchanged(conn: AsyncConn) -> None:
    size = 3 * BUFFERED_BYTES
    async with conn.stream("select repeat(chr(96 + i), $1::int4) from generate_series(1, 3) i", (str(size),)) as rows:
        seen = [hashlib.md5(row[0] or b"").digest() async for row in rows]
    assert seen == [hashlib.md5(letter * size).digest() for letter in (b"a", b"b", b"c")]
    await answers(conn)


@ends_clean()
async def test_a_stream_follows_a_table_whose_columns_change(conn: AsyncConn) -> None:
    await conn.simple_query("drop table if exists changing; create table changing as select 1 as a")
    for columns in (1, 2, 3):
        async with conn.stream("select * from changing") as rows:
            assert len(rows.fields) == columns
            assert [row async for row in rows] == [(b"1",) * columns]
        await conn.simple_query(f"alter table changing add column b{columns} int default 1")


@ends_clean()
async def test_reading_a_buffered_row_does_not_yield_to_the_loop() -> None:
    async def script(peer: Peer) -> None:
        await peer.startup()
        await peer.answer_rows([(b"%d" % n,) for n in range(5000)])

    def count() -> None:
        turns.append(None)
        if not is_over.is_set():
            loop.call_soon(count)

    loop = asyncio.get_running_loop()
    turns: list[None] = []
    is_over = asyncio.Event()
    count()
    async with FakePG(script) as fake, await AsyncConn.connect(fake.dsn) as conn:
        async with conn.stream("select") as rows:
            await until(lambda: rows._incoming.reply.done(), "all rows")
            before = len(turns)
            assert len([row async for row in rows]) == 5000
            assert len(turns) == before
        is_over.set()


# ---- errors


@ends_clean()
async def test_errors_before_the_first_row_are_raised(conn: AsyncConn) -> None:
    for sql, code in (("selec", "42601"), ("select 1/0", "22012"), ("select $1::int4", "08P01")):
        with pytest.raises(PgError) as caught:
            async with conn.stream(sql) as rows:
                [row async for row in rows]
        assert caught.value.code == code and caught.value.outcome is Outcome.REJECTED
        await answers(conn)


@pytest.mark.parametrize("row_buffer", [1, 10_000])
@ends_clean()
async def test_rows_before_an_error_are_delivered(conn: AsyncConn, row_buffer: int) -> None:
    sql = "select 10 / (50001 - i) from generate_series(1, 60000) i"
    seen = 0
    with pytest.raises(PgError) as caught:
        async with conn.stream(sql, row_buffer=row_buffer) as rows:
            async for _ in rows:
                seen += 1
    assert seen == 50_000 and caught.value.code == "22012"
    await answers(conn)


@ends_clean()
async def test_an_unread_error_leaves_the_connection_usable(conn: AsyncConn) -> None:
    async with conn.stream("select 1 / (3 - i) from generate_series(1, 5) i") as rows:
        assert await anext(rows) == (b"0",)
    await answers(conn)


@ends_clean(60)
async def test_an_end_at_any_byte_is_never_a_success() -> None:
    """Only ReadyForQuery means success (I2); complete rows that arrived before the end are delivered."""
    rows = [(b"one",), (None,), (b"",)]
    answer: list[m.BackendMessage] = [m.ParseComplete(), m.ParameterDescription(()), describe(["a"], ())]
    answer += [m.BindComplete(), *map(m.DataRow, rows), m.CommandComplete("SELECT 3"), m.ReadyForQuery("I")]
    data = m.encode(*answer)

    async def script(peer: Peer) -> None:
        await peer.startup()
        await peer.group()
        await peer.send(data[: next(cuts)])
        peer.close()

    cuts = iter(range(len(data)))
    async with FakePG(script) as fake:
        for cut in range(len(data)):
            seen = []
            conn = await AsyncConn.connect(fake.dsn)
            with pytest.raises(ConnectionClosed) as caught:
                async with conn.stream("select") as stream:
                    async for row in stream:
                        seen.append(row)
            assert caught.value.outcome is Outcome.UNKNOWN, cut
            assert seen == rows[: len(seen)]
        assert len(seen) == 3


@ends_clean()
async def test_a_lost_connection_in_the_middle_raises_connection_closed(conn: AsyncConn, admin: AsyncConn) -> None:
    # Rows too large for the server's buffer are sent at once; then it sleeps. A server blocked in a send says nothing.
    slow = "select repeat('x', 20000), pg_sleep(case when n < 3 then 0 else 60 end) from generate_series(1, 3) n"
    with pytest.raises(ConnectionClosed) as caught:
        async with conn.stream(slow) as rows:
            await anext(rows)
            await admin.exec_query(f"select pg_terminate_backend({conn.backend_pid})")
            async for batch in rows.batches():
                assert batch
    cause = caught.value.__cause__  # none if there was no room for the last message: postgres.c, whereToSendOutput
    assert cause is None or (isinstance(cause, PgError) and cause.code == "57P01")
    assert not conn.is_alive


# ---- back-pressure


@pytest.mark.parametrize(("size", "row_buffer"), [(1000, 10), (BUFFERED_BYTES // 2, 10**9)], ids=["rows", "bytes"])
@ends_clean()
async def test_the_server_waits_for_a_slow_reader(size: int, row_buffer: int) -> None:
    sent = 0

    async def script(peer: Peer) -> None:
        nonlocal sent
        await peer.startup()
        await peer.group()
        row = m.encode(m.DataRow((b"x" * size,)))
        rows = max(65536 // len(row), 1)
        await peer.send(m.ParseComplete(), m.ParameterDescription(()), describe(["a"], ()), m.BindComplete())
        while sent < total:
            await asyncio.get_running_loop().sock_sendall(peer.sock, row * rows)
            sent += len(row) * rows
        await peer.send(m.CommandComplete("SELECT 1"), m.ReadyForQuery("I"))

    async def stands_still() -> int:
        before = -1
        while before != sent:
            before = sent
            await asyncio.sleep(0.05)
        return sent

    total = 64 * 1024 * 1024
    async with FakePG(script, unix=True) as fake, await AsyncConn.connect(fake.dsn) as conn:
        async with conn.stream("select", row_buffer=row_buffer) as rows:
            held = await stands_still()
            # the buffered rows, one more read, and what a Unix socket holds
            assert held < (BUFFERED_BYTES if row_buffer > 10 else 0) + size + 1024 * 1024
            await anext(rows)
            assert await stands_still() - held < size + 2 * 1024 * 1024
            assert 1 + len([row async for row in rows]) == sent // (size + 11)
        assert sent >= total


def resident() -> int:
    """Bytes of this process in memory now (proc(5), statm)."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


@ends_clean(60)
async def test_streaming_a_gigabyte_needs_little_memory(conn: AsyncConn) -> None:
    gc.collect()
    before, highest, total = resident(), 0, 0
    async with conn.stream("select repeat('x', 1048576) from generate_series(1, 1024)") as rows:
        async for (value,) in rows:
            total += len(value or b"")
            highest = max(highest, resident())
    assert total == 1024**3
    assert highest - before < 10 * BUFFERED_BYTES
