"""COPY in: every byte of any source arrives; a mistake of the client raises an error and does no harm."""

from __future__ import annotations

import asyncio
import io
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from typing import Any

import pytest

from pg_wired import AsyncConn, ConfigError, PgError, UsageError
from pg_wired.client.copy_in import COPY_FRAME_BYTES
from pg_wired.protocol import messages as m
from pg_wired.testing import FakePG, Peer, error
from rig.checks import answers, ends_clean, outcome_of, repeatable
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


# ---- data


@ends_clean()
async def test_every_kind_of_source_delivers_its_rows(conn: AsyncConn) -> None:
    data = b"1\tone\n2\ttwo\n"
    sources: list[Any] = [
        data,
        bytearray(data),
        memoryview(data),
        io.BytesIO(data),
        [data[:5], bytearray(data[5:7]), memoryview(data)[7:]],
        (data[i : i + 1] for i in range(len(data))),
        later([data[:5], b"", data[5:]]),
        later([data[i : i + 1] for i in range(len(data))], pause=0),
    ]
    for source in sources:
        assert await conn.copy_in(SQL, source) == 2
        assert await copied(conn) == [(b"1", b"one"), (b"2", b"two")]
        await conn.exec_query("truncate copied")


@ends_clean()
async def test_an_empty_source_copies_no_rows(conn: AsyncConn) -> None:
    sources: list[Any] = [b"", bytearray(), memoryview(b""), io.BytesIO(), [], [b"", b""], iter([]), later([])]
    for source in sources:
        assert await conn.copy_in(SQL, source) == 0
    assert await conn.copy_in_rows(SQL + " (format binary)", []) == 0
    assert await copied(conn) == []
    await answers(conn)


@ends_clean()
async def test_text_csv_and_binary_data_pass_through_unchanged(conn: AsyncConn) -> None:
    assert await conn.copy_in(SQL, b"1\ta\\tb\n2\t\\N\n\\.\n") == 2
    assert await conn.copy_in(SQL + " (format csv, header)", b'i,s\n3,"a ""b"",\n"\n4,\n') == 2
    binary = b"PGCOPY\n\xff\r\n\0" + bytes(8) + struct.pack("!hiiii", 2, 4, 5, 1, 0x78)[:14]
    binary = b"PGCOPY\n\xff\r\n\0" + bytes(8) + b"\0\2\0\0\0\4\0\0\0\5\0\0\0\1x" + b"\xff\xff"
    assert await conn.copy_in(SQL + " (format binary)", binary) == 1
    assert await copied(conn) == [(b"1", b"a\tb"), (b"2", None), (b"3", b'a "b",\n'), (b"4", None), (b"5", b"x")]


@ends_clean()
async def test_copy_in_rows_encodes_rows_in_binary_and_refuses_other_types(conn: AsyncConn) -> None:
    rows = [(struct.pack("!i", n), None if n % 3 else b"x" * n) for n in range(2000)]
    assert await conn.copy_in_rows(SQL + " (format binary)", rows) == 2000
    assert await copied(conn) == [(b"%d" % n, s) for n, (_, s) in enumerate(rows)]
    for wrong in ([("a", b"b")], [b"ab"], [1], ["ab"]):
        with pytest.raises(TypeError):
            await conn.copy_in_rows(SQL + " (format binary)", wrong)  # type: ignore[arg-type]
        await answers(conn)


@ends_clean(60)
async def test_a_row_may_be_split_across_chunks_anywhere(conn: AsyncConn) -> None:
    rng = repeatable()
    data = b"".join(b"%d\t%s\n" % (n, b"y" * rng.randrange(2000)) for n in range(1000))
    before = None
    for most in (3, 1000, COPY_FRAME_BYTES - 1, COPY_FRAME_BYTES, COPY_FRAME_BYTES + 1, 10**9):
        at, chunks = 0, []
        while at < len(data):
            n = rng.randint(1, most) if most < COPY_FRAME_BYTES - 1 else most
            chunks.append(data[at : at + n])
            at += n
        assert await conn.copy_in(SQL, chunks) == 1000
        [digest] = await conn.exec_query("select md5(string_agg(i || s, ',' order by i)) from copied")
        assert before in (None, digest)
        before = digest
        await conn.exec_query("truncate copied")


@ends_clean(60)
async def test_a_chunk_of_64_mib_arrives_whole(conn: AsyncConn) -> None:
    line = b"7\t" + b"z" * 1021 + b"\n"
    assert await conn.copy_in(SQL, line * 65536) == 65536
    assert list(await conn.exec_query("select sum(length(s)), min(i), max(i) from copied")) == [
        (b"%d" % (1021 * 65536), b"7", b"7")
    ]


@ends_clean()
async def test_requests_before_and_after_a_copy_are_answered_in_order(conn: AsyncConn) -> None:
    before = conn.exec_query("select count(*) from copied")
    copying = asyncio.create_task(conn.copy_in(SQL, later([b"1\tx\n"] * 10, pause=0.001)))
    await asyncio.sleep(0)
    behind = conn.exec_query("select count(*) from copied")
    assert list(await before) == [(b"0",)]
    assert await copying == 10
    assert list(await behind) == [(b"10",)]


# ---- mistakes of the client


@ends_clean()
async def test_sources_of_a_wrong_type_are_refused(conn: AsyncConn) -> None:
    sources: list[Any] = [
        "1\tx\n",
        None,
        1,
        object(),
        ["1\tx\n"],
        [1],
        later(["1\tx\n"]),
        io.StringIO("1\tx\n"),
        [None],
    ]
    for source in sources:
        with pytest.raises(TypeError, match="bytes"):
            await conn.copy_in(SQL, source)
        await answers(conn)
    assert await copied(conn) == []


@ends_clean()
async def test_an_exception_of_the_source_propagates_and_no_row_is_kept(conn: AsyncConn) -> None:
    def broken(rows: int) -> Iterator[bytes]:
        yield from [b"1\tx\n"] * rows
        raise KeyError("mine\0", "ü" * 3000)

    async def broken_later(rows: int) -> AsyncIterator[bytes]:
        for chunk in [b"1\tx\n"] * rows:
            await asyncio.sleep(0)
            yield chunk
        raise KeyError("mine")

    for rows in (0, 1, 200_000):
        for source in (broken(rows), broken_later(min(rows, 1000))):
            with pytest.raises(KeyError, match="mine"):
                await conn.copy_in(SQL, source)
            await answers(conn)
    assert await copied(conn) == []


@ends_clean()
async def test_an_exception_of_the_source_is_sent_in_copy_fail(conn: AsyncConn) -> None:
    async def script(peer: Peer) -> None:
        await peer.startup()
        await peer.expect(m.Query(SQL))
        await peer.send(m.CopyInResponse(0, (0,)))
        [fail] = await peer.expect(m.CopyFail)
        assert "KeyError" in fail.message and "mine" in fail.message
        await peer.send(error("57014", "COPY from stdin failed"), READY)
        await peer.answer_rows([(b"1",)])

    def broken() -> Iterator[bytes]:
        yield b"lost\n"
        raise KeyError("mine")

    async with FakePG(script) as fake, await AsyncConn.connect(fake.dsn) as conn:
        with pytest.raises(KeyError):
            await conn.copy_in(SQL, broken())
        assert list(await conn.exec_query("select 1")) == [(b"1",)]


@ends_clean()
async def test_an_exception_of_the_source_propagates_even_if_the_connection_is_lost() -> None:
    async def script(peer: Peer) -> None:
        await peer.startup()
        await peer.expect(m.Query)
        await peer.send(m.CopyInResponse(0, (0,)))
        await peer.expect(m.CopyFail)
        peer.close()

    def broken() -> Iterator[bytes]:
        yield b""
        raise KeyError("mine")

    async with FakePG(script) as fake:
        conn = await AsyncConn.connect(fake.dsn)
        with pytest.raises(KeyError):
            await conn.copy_in(SQL, broken())
        assert not conn.is_alive


@ends_clean()
async def test_anything_but_one_copy_from_stdin_is_refused(conn: AsyncConn) -> None:
    async def source() -> AsyncIterator[bytes]:
        pytest.fail("the source was asked")
        yield b""

    for sql in (
        "select 1",
        "",
        "insert into copied values (1)",
        "select generate_series(1, 200000)",
        "copy copied to stdout",
        "copy (select repeat('x', 1000) from generate_series(1, 20000)) to stdout",
    ):
        with pytest.raises(UsageError, match="COPY"):
            await conn.copy_in(sql, source())
        await answers(conn)
    for sql in (f"{SQL}; {SQL}", f"select 1; {SQL}"):
        assert isinstance(await outcome_of(conn.copy_in(sql, b"1\tx\n")), UsageError)
        await answers(conn)
    for wrong in (b"copy", None, "copy\0"):
        with pytest.raises((TypeError, ConfigError)):
            await conn.copy_in(wrong, source())  # type: ignore[arg-type]
    await answers(conn)


@ends_clean()
async def test_a_failed_copy_inside_a_transaction_fails_the_transaction(conn: AsyncConn) -> None:
    async with conn.exclusive() as mine:
        await mine.simple_query("begin")
        assert await mine.copy_in(SQL, b"1\tx\n") == 1
        with pytest.raises(PgError, match="integer"):
            await mine.copy_in(SQL, b"bad\tx\n")
        with pytest.raises(PgError) as caught:
            await mine.copy_in(SQL, b"2\tx\n")
        assert caught.value.code == "25P02" and mine.transaction_status.name == "FAILED"
        await mine.simple_query("rollback")
        assert mine.transaction_status.name == "IDLE"
        await mine.simple_query("begin")
        with pytest.raises(ZeroDivisionError):
            await mine.copy_in(SQL, (b"%d\tx\n" % (1 // n) for n in (1, 0)))
        await mine.simple_query("rollback")
        await mine.simple_query("begin")
        assert await mine.copy_in(SQL, b"3\tx\n") == 1
        await mine.simple_query("commit")
    assert await copied(conn) == [(b"3", b"x")]


@ends_clean()
async def test_a_source_may_reuse_its_buffer(conn: AsyncConn) -> None:
    def source() -> Iterator[bytearray]:
        buffer = bytearray()
        for number in range(5):
            buffer += b"%d\n" % number * (COPY_FRAME_BYTES if number == 2 else 1)
            yield buffer
            buffer.clear()

    async def the_same() -> AsyncIterator[bytearray]:
        for buffer in source():
            yield buffer

    await conn.simple_query("create temp table again(a int)")
    for kind in (source, the_same):
        assert await conn.copy_in("copy again from stdin", kind()) == 4 + COPY_FRAME_BYTES
    await answers(conn)
