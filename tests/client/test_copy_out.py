"""COPY out: the server's data arrives unchanged, and an error or a lost connection is never taken for success."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from pg_wired import AsyncConn, ConfigError, ConnectionClosed, Outcome, PgError, ProtocolError, UsageError
from pg_wired.protocol import messages as m
from pg_wired.protocol.copy_binary import HEADER, TRAILER
from pg_wired.testing import FakePG, Peer, error
from rig.checks import answers, ends_clean, outcome_of
from rig.postgres import Server
from tests.endless_queries import ENDLESS_COPY

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


# ---- data


@ends_clean()
async def test_text_csv_and_binary_data_pass_through_unchanged(conn: AsyncConn) -> None:
    query = "select 1 as a, null as b, e'x\\ty' as c"
    for options, expected in (
        ("", b"1\t\\N\tx\\ty\n"),
        ("(format csv, header)", b"a,b,c\n1,,x\ty\n"),
        ("(format binary)", HEADER + b"\0\3\0\0\0\4\0\0\0\1\xff\xff\xff\xff\0\0\0\3x\ty" + TRAILER),
    ):
        assert await all_of(conn, f"copy ({query}) to stdout {options}") == expected
    await answers(conn)


@ends_clean()
async def test_the_copy_header_is_known_before_the_first_data(conn: AsyncConn) -> None:
    for options, code in (("", 0), ("(format csv)", 0), ("(format binary)", 1)):
        copy = conn.copy_out(f"copy (select 1, 2) to stdout {options}")
        assert copy.copy_header is None
        async with copy as data:
            header = data.copy_header
            assert header is not None and header.format == code and tuple(header.column_formats) == (code, code)


@ends_clean()
async def test_an_empty_result_yields_no_data(conn: AsyncConn) -> None:
    assert await all_of(conn, "copy (select 1 where false) to stdout") == b""
    async with conn.copy_out_rows("copy (select 1 where false) to stdout (format binary)") as rows:
        assert [row async for row in rows] == []
    assert [buffer async for buffer in conn.copy_out("copy (select 1 where false) to stdout")] == []
    await answers(conn)


@ends_clean()
async def test_large_data_arrives_unchanged(conn: AsyncConn) -> None:
    sql = "copy (select i, repeat('y', i % 1000) from generate_series(1, 40000) i) to stdout"
    expected = b"".join(b"%d\t%s\n" % (i, b"y" * (i % 1000)) for i in range(1, 40001))
    assert await all_of(conn, sql) == expected
    assert b"".join([buffer async for buffer in conn.copy_out(sql)]) == expected
    assert await all_of(conn, "copy (select repeat('z', 10000000)) to stdout") == b"z" * 10_000_000 + b"\n"
    await answers(conn)


@ends_clean()
async def test_copy_out_rows_decodes_binary_rows_and_refuses_text(conn: AsyncConn) -> None:
    sql = "copy (select i, case when i % 3 > 0 then repeat('y', i) end from generate_series(1, 3000) i) to stdout"
    expected = [(i.to_bytes(4, "big"), b"y" * i if i % 3 else None) for i in range(1, 3001)]
    async with conn.copy_out_rows(sql + " (format binary)") as rows:
        assert [row async for row in rows] == expected
    assert [row async for row in conn.copy_out_rows(sql + " (format binary)")] == expected
    for _ in range(2):
        with pytest.raises(ConfigError, match="FORMAT binary"):
            async with conn.copy_out_rows(sql) as rows:
                [row async for row in rows]
        await answers(conn)


@ends_clean()
async def test_reading_continues_where_it_stopped(conn: AsyncConn) -> None:
    sql = "copy (select generate_series(1, 5)) to stdout (format binary)"
    seen = []
    async with conn.copy_out_rows(sql) as rows:
        async for row in rows:
            seen.append(row)
            break
        async for row in rows:
            seen.append(row)
            if len(seen) == 3:
                break
        seen += [row async for row in rows]
    assert seen == [(i.to_bytes(4, "big"),) for i in range(1, 6)]


@ends_clean()
async def test_anext_reads_rows_inside_and_outside_a_block(conn: AsyncConn) -> None:
    """It is an asynchronous iterator, so `anext` accepts it, with or without a block."""
    sql = "copy (select generate_series(1, 2)) to stdout (format binary)"
    async with conn.copy_out_rows(sql) as rows:
        assert [await anext(rows), await anext(rows), await anext(rows, None)] == [(b"\0\0\0\1",), (b"\0\0\0\2",), None]
    loose = aiter(conn.copy_out_rows(sql))
    assert [await anext(loose), await anext(loose), await anext(loose, None)] == [(b"\0\0\0\1",), (b"\0\0\0\2",), None]
    other = conn.exec_query("select pg_sleep(0.05), 1")
    assert await anext(loose, None) is None  # it has ended and does not affect other requests
    assert list(await other) == [(b"", b"1")]
    await answers(conn)


# ---- errors


@ends_clean()
async def test_data_before_an_error_is_delivered(conn: AsyncConn) -> None:
    sql = "copy (select 10 / (50001 - i) from generate_series(1, 60000) i) to stdout"
    lines = 0
    with pytest.raises(PgError) as caught:
        async with conn.copy_out(sql) as data:
            async for buffer in data:
                lines += buffer.count(b"\n")
    assert lines == 50_000 and caught.value.code == "22012" and caught.value.outcome is Outcome.REJECTED
    with pytest.raises(PgError):
        [buffer async for buffer in conn.copy_out(sql)]
    await answers(conn)
    for wrong, code in (("copy missing to stdout", "42P01"), ("cop", "42601")):
        with pytest.raises(PgError) as caught:
            await all_of(conn, wrong)
        assert caught.value.code == code
        await answers(conn)


@ends_clean()
async def test_anything_but_one_copy_to_stdout_is_refused(conn: AsyncConn) -> None:
    await conn.simple_query("create temp table copied(a int)")
    copy = "copy (select 1) to stdout"
    for sql in (
        "select 1",
        "",
        "select generate_series(1, 200000)",
        "insert into copied values (1) returning a",
        "copy copied from stdin",
        f"{copy}; {copy}",
        f"select 1; {copy}",
    ):
        with pytest.raises(UsageError, match="COPY"):
            await all_of(conn, sql)
        await answers(conn)
    assert await all_of(conn, f"{copy}; select generate_series(1, 200000)") == b"1\n"  # no row is mistaken for data
    await answers(conn)


@ends_clean(60)
async def test_an_end_at_any_byte_is_never_a_success() -> None:
    answer = m.encode(m.CopyOutResponse(0, (0,)), m.CopyData(b"one\n"), m.CopyData(b"two\n"))
    answer += m.encode(m.CopyDone(), m.CommandComplete("COPY 2"), READY)

    async def script(peer: Peer) -> None:
        await peer.startup()
        await peer.group()
        await peer.send(answer[: next(cuts)])
        peer.close()

    cuts = iter(range(len(answer)))
    async with FakePG(script) as fake:
        for cut in range(len(answer)):
            seen = b""
            conn = await AsyncConn.connect(fake.dsn)
            with pytest.raises(ConnectionClosed) as caught:
                async with conn.copy_out("copy t to stdout") as data:
                    async for buffer in data:
                        seen += buffer
            assert caught.value.outcome is Outcome.UNKNOWN, cut
            assert b"one\ntwo\n".startswith(seen)
        assert seen == b"one\ntwo\n"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([m.CopyData(HEADER + b"\0\1"), m.CopyDone()], "without its trailer"),
        ([m.CopyData(b"1\tone\n"), m.CopyDone()], "signature"),
        ([m.CopyData(HEADER + b"\0\1\xff\xff\xff\x80"), m.CopyDone()], "value of -128 bytes"),
        ([m.CopyData(HEADER + TRAILER + b"x"), m.CopyDone()], "after its trailer"),
    ],
)
@ends_clean()
async def test_malformed_binary_data_raises_an_error_but_keeps_the_connection(
    data: list[m.BackendMessage], message: str
) -> None:
    """The messages themselves were valid, so the connection stays open."""

    async def script(peer: Peer) -> None:
        await peer.startup()
        await peer.group()
        await peer.send(m.CopyOutResponse(1, (1,)), *data, m.CommandComplete("COPY 1"), READY)
        await peer.answer_rows([(b"1",)])

    async with FakePG(script) as fake, await AsyncConn.connect(fake.dsn) as conn:
        with pytest.raises(ProtocolError, match=message):
            async with conn.copy_out_rows("copy t to stdout (format binary)") as rows:
                [row async for row in rows]
        assert list(await conn.exec_query("select 1")) == [(b"1",)]


@pytest.mark.parametrize("stray", [m.DataRow((b"x",)), m.CommandComplete("COPY 1"), READY], ids=repr)
@ends_clean()
async def test_messages_out_of_place_between_the_data_end_the_connection(stray: m.BackendMessage) -> None:
    async with FakePG(copying(m.CopyData(b"x"), stray, wait=None)) as fake:
        conn = await AsyncConn.connect(fake.dsn)
        with pytest.raises(ProtocolError, match="out of place"):
            await all_of(conn, "copy t to stdout")
        assert not conn.is_alive


@pytest.mark.parametrize("stray", [m.CopyData(b"x"), m.CopyDone(), m.CopyOutResponse(0, ())], ids=repr)
@ends_clean()
async def test_copy_messages_outside_a_copy_end_the_connection(stray: m.BackendMessage) -> None:
    async def script(peer: Peer) -> None:
        await peer.startup()
        await peer.group()
        await peer.send(m.ParseComplete(), stray)
        await peer.eof()

    async with FakePG(script) as fake:
        conn = await AsyncConn.connect(fake.dsn)
        assert isinstance(await outcome_of(conn.exec_query("select 1")), ProtocolError)
        assert not conn.is_alive


@ends_clean()
async def test_an_error_after_the_data_fails_the_copy() -> None:
    """Neither CopyDone nor CommandComplete means success (I2)."""
    done: list[m.BackendMessage] = [m.CopyData(b"x"), m.CopyDone(), m.CommandComplete("COPY 1")]
    for count in (1, 2, 3):

        async def script(peer: Peer, count: int = count) -> None:
            await peer.startup()
            await peer.group()
            await peer.send(m.CopyOutResponse(0, (0,)), *done[:count], error("58030"), READY)

        async with FakePG(script) as fake, await AsyncConn.connect(fake.dsn) as conn:
            with pytest.raises(PgError) as caught:
                await all_of(conn, "copy t to stdout")
            assert caught.value.code == "58030"


@ends_clean()
async def test_a_lost_connection_in_the_middle_raises_connection_closed(conn: AsyncConn, admin: AsyncConn) -> None:
    with pytest.raises(ConnectionClosed) as caught:
        async with conn.copy_out(ENDLESS_COPY) as data:
            await anext(aiter(data))
            await admin.exec_query(f"select pg_terminate_backend({conn.backend_pid})")
            async for buffer in data:
                assert buffer
    cause = caught.value.__cause__  # none if there was no room for the last message: postgres.c, whereToSendOutput
    assert cause is None or (isinstance(cause, PgError) and cause.code == "57P01")
