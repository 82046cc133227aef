"""A request that cannot be encoded leaves nothing of itself: no byte, no statement, and no other request notices."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from pg_wired.session import transaction
from pg_wired.session.request import Request, query_request
from rig.postgres import Server
from tests.session.conversation import READY, Client, Sink, first, known, later, result


def broken(sql: str = "select $1, $2") -> Request:
    """A query whose second value fails when Bind is encoded, after Parse and Describe."""
    request = query_request(Sink(), sql, (b"1", b"2"), (), 0, 0, 0.0)
    values: Any = (b"1", 2)
    request.params = values
    return request


def item() -> Request:
    request = broken()
    request.become_item()
    return request


def unit() -> Request:
    return transaction.Transaction("set local role x", broken()).whole


def state(client: Client) -> tuple[object, ...]:
    session, cache = client.session, client.session.statements
    return (
        *(bytes(session.out), session.encoded, session.groups, session.is_in_group, list(session.inflight)),
        *(session.head, session.state, sorted(cache.keys), list(cache.closing)),
    )


@pytest.mark.parametrize("others", [0, 2])
@pytest.mark.parametrize("make", [broken, item, unit])
def test_nothing_of_it_stays(make: Callable[[], Request], others: int) -> None:
    client = Client()
    known(client, "select 'gone'")
    client.session.statements.drop_sql("select 'gone'")
    sinks = [client.simple("select 1") for _ in range(others)]
    before = state(client)
    with pytest.raises(TypeError):
        client.session.submit(make())
    assert state(client) == before
    sinks.append(client.query("select $1, $2", b"1", b"2"))
    assert client.tags() == "Q" * others + "C" + "PDBES"  # the evicted name is still closed
    client.feed(*[*result(), READY] * others, b"3\0\0\0\4", *first())
    assert client.session.failure is None and all(sink.result is not None for sink in sinks)


def test_a_statement_that_the_server_has_stays_in_the_cache() -> None:
    client = Client()
    known(client, "select $1, $2", b"1", b"2")
    with pytest.raises(TypeError):
        client.session.submit(broken())
    client.query("select $1, $2", b"1", b"2")
    assert client.tags() == "BES"
    client.feed(*later())
    assert client.session.failure is None


@pytest.mark.parametrize("make", [broken, unit])
def test_one_that_had_to_wait_fails_alone(make: Callable[[], Request]) -> None:
    client = Client(max_in_flight=1)
    client.simple("select 1")
    waiting = make()
    client.session.submit(waiting)
    client.simple("select 2")
    client.take()
    client.feed(*result(), READY)
    sink: Any = waiting.sink
    assert isinstance(sink.error, TypeError)
    assert client.tags() == "Q"
    client.feed(*result(), READY)
    assert client.session.failure is None and [len(each.result) for each in client.sinks] == [1, 1]


def test_one_that_completes_the_answer_to_others_ends_the_session() -> None:
    """Without a Sync, for example, the server would never send ReadyForQuery for its group."""
    client = Client(max_in_flight=1)
    client.simple("select 1")
    waiting = broken()
    waiting.sink = None
    client.session.submit(waiting)
    client.take()
    with pytest.raises(TypeError):
        client.feed(*result(), READY)


def test_the_bytes_of_a_subclass_are_sent_as_they_are() -> None:
    class Text(str):
        def encode(self, *_: object) -> Any:
            return 5

    class Octets(bytes):
        def __bytes__(self) -> Any:
            return Octets(b"other")

        def __len__(self) -> int:
            return 100

    request = query_request(Sink(), "select $1, $2", (Text("é"), Octets(b"raw")), (), 0, 0, 0.0)
    assert request.params == ("é".encode(), b"raw") and {type(value) for value in request.params} == {bytes}


PROGRAM = """
import asyncio, resource, sys
from pg_wired import AsyncConn

async def main():
    async with await AsyncConn.connect(sys.argv[1]) as conn:
        value = bytes(300_000_000)
        await conn.exec_query("select 'warm'")
        pages = int(open("/proc/self/statm").read().split()[0])
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + 150_000_000, resource.RLIM_INFINITY))
        other = conn.exec_query("select 'other'")
        try:
            conn.exec_query("select length($1)", [value])
        except MemoryError:
            print("refused")
        print(list(await other), list(await conn.exec_query("select 'after'")), conn.is_alive)

asyncio.run(main())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_AS is not kept elsewhere")
def test_only_the_request_for_which_there_is_no_memory_fails(postgres: Server) -> None:
    ran = subprocess.run([sys.executable, "-c", PROGRAM, postgres.dsn], capture_output=True, text=True, timeout=60)
    assert ran.stdout == "refused\n[(b'other',)] [(b'after',)] True\n", ran.stderr
