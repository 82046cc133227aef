"""How a transport ends, over plain and TLS sockets, and its binding to one thread and loop."""

from __future__ import annotations

import asyncio
import os
import resource
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import trustme

from pg_wired import PgWireError, UsageError
from rig.checks import ends_clean, outcome_of, until
from rig.pair import KINDS, Pair, connected

pytestmark = pytest.mark.both_loops

MEGABYTE = 1_000_000


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(params=KINDS)
async def pair(request: pytest.FixtureRequest, authority: trustme.CA) -> AsyncIterator[Pair]:
    pair = connected(request.param, authority)
    yield pair
    pair.close()


async def ended(pair: Pair) -> BaseException | None:
    await until(lambda: pair.transport.is_closed, "the end")
    assert pair.transport.closed.done() and len(pair.receiver.ends) <= 1
    cause = pair.receiver.ends.pop() if pair.receiver.ends else None
    pair.write(b"too late")
    await pair.transport.drain()
    pair.transport.pause()
    pair.transport.resume()
    pair.transport.abort()
    return cause


def shut(pair: Pair) -> None:
    """Send a FIN, without a TLS close_notify."""
    pair.raw.shutdown(socket.SHUT_RDWR)


@ends_clean()
async def test_an_orderly_end_has_no_cause(pair: Pair) -> None:
    await pair.say(b"last")
    goodbye = getattr(pair.theirs, "unwrap", None)  # TLS sends close_notify
    saying = asyncio.to_thread(outcome, goodbye) if goodbye else asyncio.to_thread(shut, pair)
    _, cause = await asyncio.gather(saying, ended(pair))
    assert cause is None and pair.receiver.data == b"last"


def outcome(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except OSError as error:
        return error


@ends_clean()
async def test_an_end_without_close_notify_is_an_error_for_tls_only(pair: Pair) -> None:
    await pair.say(b"last")
    shut(pair)
    cause = await ended(pair)
    assert pair.receiver.data == b"last"
    assert isinstance(cause, ssl.SSLError) if pair.is_tls else cause is None


@ends_clean()
async def test_bytes_that_are_not_a_tls_record_end_a_tls_transport(pair: Pair) -> None:
    await asyncio.to_thread(pair.raw.sendall, b"not a record at all")
    if pair.is_tls:
        assert isinstance(await ended(pair), ssl.SSLError)
    else:
        assert await pair.got(19) == b"not a record at all"


@ends_clean()
async def test_an_end_while_writing_wakes_the_drain(pair: Pair) -> None:
    pair.write(bytes(20 * MEGABYTE))
    draining = asyncio.ensure_future(pair.transport.drain())
    await pair.hear(1000)
    shut(pair)
    await draining
    cause = await ended(pair)
    assert cause is None or isinstance(cause, OSError)
    assert 0 < pair.receiver.handed < 20 * MEGABYTE


@ends_clean()
async def test_a_failed_write_ends_the_transport_once_nothing_is_left_to_read(pair: Pair) -> None:
    pair.raw.shutdown(socket.SHUT_RD)
    pair.write(b"into the void")
    assert not pair.transport.is_closed  # first it reads what the peer has sent
    assert isinstance(await ended(pair), ssl.SSLError if pair.is_tls else BrokenPipeError)


@ends_clean()
async def test_abort_ends_the_transport_and_wakes_the_drain(pair: Pair) -> None:
    pair.write(bytes(20 * MEGABYTE))
    draining = asyncio.ensure_future(pair.transport.drain())
    await asyncio.sleep(0)
    pair.transport.abort()
    await draining
    assert pair.receiver.ends == [None]
    assert await ended(pair) is None


@ends_clean()
async def test_a_receiver_that_has_failed_is_not_told_of_the_end(pair: Pair) -> None:
    def fail() -> None:
        pair.receiver.failure = PgWireError("no sense")

    pair.receiver.on_data = fail
    await pair.say(b"garbage")
    await until(lambda: pair.transport.is_closed, "the end")
    assert pair.receiver.ends == []


@ends_clean()
async def test_an_exception_in_the_receiver_ends_the_transport_and_is_reported(pair: Pair) -> None:
    """After any exception the position in the stream is unknown; the loop's exception handler gets the error."""

    def fail() -> None:
        raise MemoryError("no room")

    heard: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: heard.append(context))
    pair.receiver.on_data = fail
    await pair.say(b"x")
    assert isinstance(await ended(pair), MemoryError)
    assert [type(context.get("exception")) for context in heard] == [MemoryError]


@ends_clean()
async def test_a_reset_ends_the_transport_with_connection_reset_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ours = socket.create_connection(listener.getsockname())
        theirs, _ = listener.accept()
        ours.setblocking(False)
        pair = Pair(ours, theirs)
        pair.raw.close()
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        theirs.close()
        assert isinstance(await ended(pair), ConnectionResetError)
        pair.close()


# ---- threads and loops, and descriptors


@ends_clean()
async def test_check_owner_refuses_another_thread_or_loop(pair: Pair) -> None:
    pair.transport.check_owner()
    with pytest.raises(UsageError, match="no event loop"):
        await asyncio.to_thread(pair.transport.check_owner)

    async def elsewhere() -> None:
        pair.transport.check_owner()

    def in_a_loop_of_its_own() -> Any:
        return asyncio.run(outcome_of(elsewhere()))

    assert "another event loop" in str(await asyncio.to_thread(in_a_loop_of_its_own))


@contextmanager
def many_descriptors() -> Iterator[None]:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(2000, limits[0]), limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


@ends_clean()
async def test_a_file_descriptor_above_1023_works() -> None:
    """select() supports descriptors up to 1,023."""
    with many_descriptors():
        ours, theirs = socket.socketpair()
        high = socket.socket(fileno=os.dup2(ours.fileno(), 1999))
        ours.close()
        high.setblocking(False)
        pair = Pair(high, theirs)
        pair.write(b"ping")
        assert await pair.hear(4) == b"ping"
        await pair.say(b"pong")
        assert await pair.got(4) == b"pong"
        pair.close()
