"""Many tasks on one connection: each gets its own answer, whatever the others do."""

from __future__ import annotations

import asyncio
import functools
import hashlib
import random
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest

from pg_wired import AsyncConn, FieldDescription, Outcome, PgError, RequestTimeout, Rows
from pg_wired.protocol import messages as m
from pg_wired.protocol.octets import HIGH_WATER_BYTES
from pg_wired.session.session import BUFFER_BYTES
from pg_wired.testing import FakePG, Peer
from rig.checks import LATE, answers, ends_clean, outcome_of, repeatable
from rig.postgres import Server
from tests.outcomes import GATE, gate

pytestmark = pytest.mark.both_loops

SIZES = [0, 1, 10, 100, 1000, 10_000, 100_000, 1_048_576]
OFTEN = [400, 400, 400, 400, 200, 100, 20, 2]  # the weight of each size


@pytest.fixture
async def conn(postgres: Server) -> AsyncIterator[AsyncConn]:
    async with await AsyncConn.connect(postgres.dsn) as conn:
        yield conn


class Caller:
    """One of many tasks: it queries its own nonce and knows the right answer."""

    def __init__(self, conn: AsyncConn, number: int, rng: random.Random) -> None:
        self.conn = conn
        self.number = number
        self.nonce = f"{number}-{rng.getrandbits(64):x}".encode()
        [self.size] = rng.choices(SIZES, OFTEN)
        self.how = rng.choice(["query", "query", "query", "new query", "simple", "describe", "submit"])
        self.fails = rng.random() < 0.1
        self.patience = rng.random() ** 2 * 0.02 if rng.random() < 0.1 else None  # seconds until it is cancelled
        self.delay = rng.random() * 0.2

    async def ask(self) -> None:
        await asyncio.sleep(self.delay)
        await getattr(self, self.how.replace(" ", "_"))()

    def check(self, rows: Rows) -> None:
        assert len(rows) == 1
        nonce, value, digest = rows[0]
        assert (nonce, len(value or b""), digest) == (self.nonce, self.size, self.digest)

    @property
    def text(self) -> str:
        return self.nonce.decode()[:1] * self.size

    @property
    def digest(self) -> bytes:
        return hashlib.md5(self.text.encode()).hexdigest().encode()

    @property
    def guard(self) -> str:
        return f"1/{0 if self.fails else 1} = 1"

    async def query(self) -> None:
        sql = f"select $1::text, $2::text, md5($2) where {self.guard}"
        self.check(await self.conn.exec_query(sql, (self.nonce, self.text)))

    async def new_query(self) -> None:
        sql = f"select $1::text, $2::text, md5($2) where {self.guard} -- {self.number}"
        self.check(await self.conn.exec_query(sql, (self.nonce, self.text)))

    async def simple(self) -> None:
        quoted = f"'{self.nonce.decode()}', '{self.text}', md5('{self.text}')"
        _, rows = await self.conn.simple_query(f"set timezone = 'UTC'; select {quoted} where {self.guard}")
        self.check(rows)

    async def describe(self) -> None:
        name = f"n{self.number}"
        described = await self.conn.describe(f"select 1 as {name} {'from nowhere' if self.fails else ''}")
        assert [field.name for field in described.fields] == [name]

    async def submit(self) -> None:
        sql = f"select $1::text, $2::text, md5($2) where {self.guard}"
        bind = m.Bind(params=(self.nonce, self.text.encode()))
        self.check(await self.conn.submit(m.encode(m.Parse("", sql), bind, m.Describe("P"), m.Execute(), m.Sync())))

    async def run(self) -> str:
        """Return how the request ended; raise any error that was not expected."""
        asking = asyncio.ensure_future(self.ask())
        if self.patience is not None:
            asyncio.get_running_loop().call_later(self.delay + self.patience, asking.cancel)
        result = await outcome_of(asking)
        if isinstance(result, asyncio.CancelledError):
            assert self.patience is not None
            return "cancelled"
        if isinstance(result, PgError):
            assert self.fails and result.code in ("22012", "42P01") and result.outcome is Outcome.REJECTED
            return "failed"
        if result is not None:
            raise result
        assert not self.fails
        return "answered"


@pytest.mark.parametrize("max_in_flight", [1, 3, 256])
@ends_clean(60)
async def test_each_of_a_thousand_tasks_gets_its_own_answer(postgres: Server, max_in_flight: int) -> None:
    rng = repeatable()
    async with await AsyncConn.connect(postgres.dsn, max_in_flight=max_in_flight, statement_cache_size=20) as conn:
        callers = [Caller(conn, number, rng) for number in range(1000)]
        ends = await asyncio.gather(*[caller.run() for caller in callers])
        assert ends.count("answered") > 700 and ends.count("failed") > 30 and "cancelled" in ends
        await answers(conn)


async def all_at_once(conn: AsyncConn, count: int, size: int = 32 * 1024) -> None:
    """Submit `count` requests in one loop iteration, before anything can be read; all must be answered."""
    payloads = [bytes([65 + n]) * size for n in range(26)]
    replies = [conn.exec_query("select $1::text", (payloads[n % 26],)) for n in range(count)]
    assert len(conn._core.session.out) <= HIGH_WATER_BYTES + 2 * size  # the rest wait as objects (I10)
    for n, reply in enumerate(replies):
        assert list(await reply) == [(payloads[n % 26],)]
    assert len(conn._core.session.buffer) == BUFFER_BYTES and not conn._core.session.out and conn.in_flight == 0


@ends_clean(60)
async def test_large_requests_and_results_never_block_each_other(conn: AsyncConn) -> None:
    await all_at_once(conn, 2000)
    await answers(conn)


@ends_clean(60)
async def test_large_requests_and_results_do_not_block_in_the_smallest_buffers() -> None:
    def shrink(sock: socket.socket) -> None:
        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            sock.setsockopt(socket.SOL_SOCKET, option, 4096)

    async def script(peer: Peer) -> None:
        await peer.startup()
        shrink(peer.sock)
        for _ in range(count):
            group = await peer.group()
            [bind] = [message for message in group if isinstance(message, m.Bind)]
            await peer.send(*answer(group, bind.params))

    count = 200
    async with FakePG(script, unix=True) as fake, await AsyncConn.connect(fake.dsn) as conn:
        shrink(conn._core.transport._sock)
        await all_at_once(conn, count)


def answer(group: list[m.FrontendMessage], row: tuple[bytes | None, ...]) -> list[m.BackendMessage]:
    """A server's answer to a query with one text parameter and one text column."""
    fields = m.RowDescription((FieldDescription("c", 0, 0, 25, -1, -1, 0),))
    kinds = {type(message) for message in group}
    parsed = [m.ParseComplete(), m.ParameterDescription((25,)), fields] if m.Parse in kinds else []
    described = [fields] if m.Describe in kinds and m.Parse not in kinds else []
    result = [m.DataRow(row), m.CommandComplete("SELECT 1"), m.ReadyForQuery("I")]
    return [*parsed, m.BindComplete(), *described, *result]


@ends_clean()
async def test_a_slow_request_does_not_delay_the_deadlines_of_others(postgres: Server, conn: AsyncConn) -> None:
    loop = asyncio.get_running_loop()

    async def hasty(limit: float) -> None:
        begin = loop.time()
        with pytest.raises(RequestTimeout):
            await conn.exec_query("select 2", timeout=limit)
        assert limit - 0.001 <= loop.time() - begin < limit + LATE

    async with gate(postgres.dsn):
        slow = conn.exec_query(f"select {GATE}, 1")
        patient = conn.exec_query("select 3", timeout=30)
        await asyncio.gather(*[hasty(limit) for limit in (0.05, 0.1, 0.2, 0.0001)])
    assert [list(await slow), list(await patient)] == [[(b"", b"1")], [(b"3",)]]
    await answers(conn)


@ends_clean()
async def test_small_requests_keep_their_order_around_a_large_result(conn: AsyncConn) -> None:
    order: list[int] = []
    replies: list[asyncio.Future[Any]] = []
    for n in range(300):
        sql = "select repeat('x', 1024) from generate_series(1, 32768)" if n == 100 else "select $1::int4"
        replies.append(conn.exec_query(sql, () if n == 100 else (str(n),)))
        replies[-1].add_done_callback(functools.partial(lambda n, _: order.append(n), n))
    results = await asyncio.gather(*replies)
    assert order == list(range(300))
    assert len(results[100]) == 32768 and {row for row in results[100]} == {(b"x" * 1024,)}
    del results[100]
    assert [list(rows) for rows in results] == [[(b"%d" % n,)] for n in range(300) if n != 100]
    await answers(conn)


@ends_clean()
async def test_simple_and_extended_requests_keep_their_order(conn: AsyncConn) -> None:
    replies: list[asyncio.Future[Any]] = []
    for n in range(200):
        replies.append(conn.simple_query(f"select {n}; select -{n}") if n % 2 else conn.exec_query(f"select {n}"))
    for n, result in enumerate(await asyncio.gather(*replies)):
        if n % 2:
            assert [list(rows) for rows in result] == [[(b"%d" % n,)], [(b"-%d" % n,)]]
        else:
            assert list(result) == [(b"%d" % n,)]


@ends_clean()
async def test_at_most_max_in_flight_requests_are_sent_unanswered() -> None:
    """The server sees at most `max_in_flight` unanswered requests, and sees all requests in order."""
    seen: list[bytes | None] = []

    async def script(peer: Peer) -> None:
        await peer.startup()
        for _ in range(25):
            groups = [await peer.group() for _ in range(4)]
            assert peer.talk.take() is None
            for group in groups:
                [bind] = [message for message in group if isinstance(message, m.Bind)]
                seen.append(bind.params[0])
                await peer.send(*answer(group, (b"x",)))

    async with FakePG(script) as fake, await AsyncConn.connect(fake.dsn, max_in_flight=4) as conn:
        replies = [conn.exec_query("select $1", (str(n),)) for n in range(100)]
        assert conn.in_flight == 4
        assert {tuple(rows) for rows in await asyncio.gather(*replies)} == {((b"x",),)}
    assert seen == [b"%d" % n for n in range(100)]
