"""A pooler that handles one request at a time: `max_in_flight=1` works with it; otherwise timeouts end the wait."""

from __future__ import annotations

import asyncio

import pytest

from pg_wired import AsyncConn, Outcome, RequestTimeout
from pg_wired.testing import FakePG, Peer
from rig.checks import ends_clean

pytestmark = pytest.mark.both_loops

REQUESTS = 20


async def wedge(peer: Peer) -> None:
    """Answer each request with a number, and lose the requests that arrived together with it."""
    await peer.startup()
    for number in range(REQUESTS):
        await peer.answer_rows([(b"%d" % number,)])
        peer.talk.unread.clear()


async def loses_all_but_the_first(peer: Peer) -> None:
    await peer.startup()
    await peer.answer_rows([(b"first",)])
    peer.talk.unread.clear()
    while await peer.read():
        pass


@pytest.mark.parametrize("cache", [0, 256])
@ends_clean()
async def test_with_max_in_flight_1_every_request_is_answered(cache: int) -> None:
    async with (
        FakePG(wedge) as fake,
        await AsyncConn.connect(fake.dsn, max_in_flight=1, statement_cache_size=cache) as conn,
    ):
        asked = [conn.exec_query("select $1", (str(n),)) for n in range(REQUESTS)]
        assert [list(rows) for rows in await asyncio.gather(*asked)] == [[(b"%d" % n,)] for n in range(REQUESTS)]


@ends_clean()
async def test_pipelined_requests_that_the_pooler_loses_time_out() -> None:
    """The pooler loses them; the caller's timeout ends the wait."""
    async with FakePG(loses_all_but_the_first) as fake:
        conn = await AsyncConn.connect(fake.dsn)
        head = conn.exec_query("select 'head'")
        asked = [conn.exec_query("select $1", (str(n),), timeout=0.2) for n in range(REQUESTS)]
        assert await head == [(b"first",)]
        ends = await asyncio.gather(*asked, return_exceptions=True)
        assert all(isinstance(end, RequestTimeout) and end.outcome is Outcome.UNKNOWN for end in ends), ends
        conn.abort()
