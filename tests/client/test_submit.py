"""Messages encoded by a higher layer: sent unchanged if they form one request, singly or in batches."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from pg_wired import AsyncConn, ConfigError, Outcome, PgError, RequestTimeout, ResponseCollector, Rows
from pg_wired.protocol import messages as m
from rig.checks import answers, ends_clean, outcome_of, segments_sent
from rig.postgres import Server
from tests.outcomes import GATE, gate

pytestmark = pytest.mark.both_loops

ROWS, DRAIN = ResponseCollector.ROWS, ResponseCollector.DRAIN
SYNC = m.Sync()


@pytest.fixture
async def conn(postgres: Server) -> AsyncIterator[AsyncConn]:
    async with await AsyncConn.connect(postgres.dsn) as conn:
        yield conn


def query(sql: str, *params: bytes | None) -> bytes:
    return m.encode(m.Parse("", sql), m.Bind(params=params), m.Describe("P"), m.Execute(), SYNC)


@ends_clean()
async def test_submit_returns_the_rows_of_one_query(conn: AsyncConn) -> None:
    rows = await conn.submit(query("select $1::text as a, null as b", b"x"))
    assert (list(rows), rows.command_tag) == ([(b"x", None)], "SELECT 1")
    assert [field.name for field in rows.fields] == ["a", "b"]
    rows = await conn.submit(m.encode(m.Query("select 1 as a")))
    assert (list(rows), [field.name for field in rows.fields]) == ([(b"1",)], ["a"])


TWO_STATEMENTS = [m.Parse("a", "select 1"), m.Parse("b", "select 1, 2")]
TWO_PORTALS = [m.Parse("", "select 1, 2"), m.Bind("p"), m.Parse("", "values (3)"), m.Bind("q")]
RESULTS: list[tuple[list[m.Message], list[Any], str]] = [
    ([m.Query("")], [], ""),
    ([m.Query("select 1; select 2, 3")], [(b"2", b"3")], "SELECT 1"),
    ([SYNC], [], ""),
    ([m.Flush(), SYNC], [], ""),
    ([m.Parse("one", "select 1"), SYNC], [], ""),
    ([m.Parse("", "select 1"), m.Describe("S"), m.Close("S"), SYNC], [], ""),
    ([m.Parse("", "select 1"), m.Bind(), m.Execute(), SYNC], [(b"1",)], "SELECT 1"),
    ([m.Parse("", "select 1"), m.Bind(), m.Execute(), m.Describe("P"), SYNC], [(b"1",)], "SELECT 1"),
    ([*TWO_STATEMENTS, m.Describe("S", "a"), m.Bind("", "b"), m.Execute(), SYNC], [(b"1", b"2")], "SELECT 1"),
    (
        [m.Parse("", "select generate_series(1, 5)"), m.Bind(), m.Execute("", 2), m.Execute("", 2), SYNC],
        [(b"3",), (b"4",)],
        "",
    ),
    (
        [*TWO_PORTALS, m.Describe("P", "p"), m.Describe("P", "q"), m.Execute("p"), m.Execute("q"), SYNC],
        [(b"3",)],
        "SELECT 1",
    ),
]


@pytest.mark.parametrize(("messages", "rows", "tag"), RESULTS)
@ends_clean()
async def test_submit_returns_the_last_of_several_results(
    conn: AsyncConn, messages: list[m.Message], rows: list[Any], tag: str
) -> None:
    neighbours = [conn.exec_query("select 'left'"), conn.submit(m.encode(*messages)), conn.exec_query("select 'right'")]
    left, result, right = await asyncio.gather(*neighbours)
    assert (list(result), result.command_tag) == (rows, tag)
    assert (list(left), list(right)) == ([(b"left",)], [(b"right",)])
    await answers(conn)


@ends_clean()
async def test_drain_discards_the_rows(conn: AsyncConn) -> None:
    drained = await conn.submit(query("select generate_series(1, 100000)"), DRAIN)
    assert (list(drained), drained.command_tag, drained.rows_affected) == ([], "SELECT 100000", 100_000)
    drained = await conn.submit(m.encode(m.Query("select 1; values (1), (2)")), DRAIN)
    assert (list(drained), drained.command_tag) == ([], "SELECT 2")
    with pytest.raises(PgError, match="division by zero"):
        await conn.submit(query("select 1/0"), DRAIN)
    await answers(conn)


@ends_clean()
async def test_submit_raises_the_errors_of_the_server(conn: AsyncConn) -> None:
    for messages, code in (
        (query("selec"), "42601"),
        (query("select 1/0"), "22012"),
        (m.encode(m.Bind("", "missing"), m.Execute(), SYNC), "26000"),
        (m.encode(m.Parse("", "select 1"), m.Bind(), m.Execute(), m.Execute("none"), SYNC), "34000"),
        (m.encode(m.Parse("", "select 1; select 2"), SYNC), "42601"),
        (m.encode(m.Query("select 1; select 1/0")), "22012"),
    ):
        with pytest.raises(PgError) as caught:
            await conn.submit(messages)
        assert (caught.value.code, caught.value.outcome) == (code, Outcome.REJECTED)
    await answers(conn)


WHOLE = query("select 1")
REFUSED: dict[str, Any] = {
    "nothing": b"",
    "no Sync": WHOLE[:-5],
    "two Syncs": WHOLE + m.encode(SYNC),
    "behind the Sync": WHOLE + m.encode(m.Flush()),
    "cut off": WHOLE[:-1],
    "cut off in a head": WHOLE + b"S\0",
    "two requests": WHOLE + WHOLE,
    "Query with Sync": m.encode(m.Query("select 1"), SYNC),
    "two Queries": m.encode(m.Query("select 1"), m.Query("select 2")),
    "Terminate": m.encode(m.Terminate()),
    "password": m.encode(m.PasswordMessage("x"), SYNC),
    "CopyData": m.encode(m.CopyData(b"x"), SYNC),
    "FunctionCall": m.encode(m.FunctionCall(1, (), (), 0)),
    "startup": m.encode(m.SSLRequest()),
    "a body too short": b"Q\0\0\0\x04",
    "a body too long": m.encode(m.Query("select 1"))[:4] + b"\x0fselect 1\0x",
    "unknown kind": b"D\0\0\0\x06X\0" + m.encode(SYNC),
    "length too short": b"S\0\0\0\x03",
    "negative length": b"S\xff\xff\xff\xff",
    "from the server": m.encode(m.ReadyForQuery("I")),
}


@pytest.mark.parametrize("messages", REFUSED.values(), ids=REFUSED)
@ends_clean()
async def test_messages_that_are_not_exactly_one_request_are_refused(conn: AsyncConn, messages: bytes) -> None:
    with pytest.raises(ConfigError) as caught:
        conn.submit(messages)
    assert caught.value.outcome is Outcome.NOT_SENT and conn.in_flight == 0
    with pytest.raises(ConfigError):
        conn.submit_batch([(WHOLE, ROWS), (messages, ROWS)])
    assert conn.in_flight == 0  # the valid item was not sent either
    await answers(conn)


@ends_clean()
async def test_submit_accepts_bytes_like_messages_and_refuses_other_types(conn: AsyncConn) -> None:
    buffer = bytearray(WHOLE)
    replies = [conn.submit(buffer), conn.submit(memoryview(bytes(WHOLE)))]  # type: ignore[arg-type]
    buffer[:] = bytes(len(buffer))
    assert [list(rows) for rows in await asyncio.gather(*replies)] == [[(b"1",)]] * 2
    for wrong in ("select 1", None, 5, [1]):
        with pytest.raises((TypeError, ConfigError)):
            conn.submit(wrong)  # type: ignore[arg-type]
    await answers(conn)


@pytest.mark.parametrize(
    "collector", [ResponseCollector.STREAM, ResponseCollector.COPY_IN, ResponseCollector.COPY_OUT, 7, None]
)
@ends_clean()
async def test_collectors_other_than_rows_and_drain_are_refused(conn: AsyncConn, collector: Any) -> None:
    with pytest.raises(ConfigError, match="ROWS and DRAIN") as caught:
        conn.submit(WHOLE, collector)
    assert caught.value.outcome is Outcome.NOT_SENT
    await answers(conn)


@ends_clean()
async def test_a_batch_returns_a_result_for_each_item(conn: AsyncConn) -> None:
    texts = [query("select $1::text", b"%d" % n) if n % 3 else query("select 1/0") for n in range(60)]
    items = [(text, DRAIN if n % 2 else ROWS) for n, text in enumerate(texts)]
    results = await conn.submit_batch(items)
    for n, result in enumerate(results):
        if n % 3 == 0:
            assert isinstance(result, PgError) and result.code == "22012"
        else:
            assert isinstance(result, Rows) and list(result) == ([] if n % 2 else [(b"%d" % n,)])
    assert await conn.submit_batch([]) == []
    await answers(conn)


@ends_clean()
async def test_a_batch_is_sent_in_one_write(conn: AsyncConn) -> None:
    sock = conn._core.transport._sock
    before = segments_sent(sock)
    await conn.submit_batch([(query("select $1::text", b"%d" % n), ROWS) for n in range(20)])
    assert segments_sent(sock) - before == 1
    before = segments_sent(sock)
    await asyncio.gather(*[conn.exec_query("select 1") for _ in range(50)])
    assert segments_sent(sock) - before <= 2  # the first at once, then the others of the same loop iteration


@ends_clean()
async def test_a_batch_has_one_deadline_and_is_cancelled_as_a_whole(postgres: Server, conn: AsyncConn) -> None:
    slow = [(query(f"select {GATE}"), ROWS)] * 3
    async with gate(postgres.dsn):
        results = await conn.submit_batch(slow, timeout=0.02)
        assert all(isinstance(result, RequestTimeout) for result in results)
        results = await conn.submit_batch(slow, timeout=0)
        assert [getattr(result, "outcome", None) for result in results] == [Outcome.NOT_SENT] * 3
        batch = asyncio.ensure_future(conn.submit_batch(slow))
        await asyncio.sleep(0)
        batch.cancel()
        assert isinstance(await outcome_of(batch), asyncio.CancelledError)
    await answers(conn)


async def test_sql_text_instead_of_messages_is_refused(conn: AsyncConn) -> None:
    text: Any = "select 1"
    with pytest.raises(TypeError, match=r"^messages is str: .* simple_query"):
        conn.submit(text)
    with pytest.raises(TypeError, match=r"^messages is str: .* simple_query"):
        conn.submit_batch([(text, ROWS)])
