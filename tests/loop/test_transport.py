"""The transport alone, over plain and TLS sockets: at any speed, every byte arrives exactly once."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator

import pytest
import trustme

from pg_wired.loop.transport import READ_BURST_BYTES, TLS_SLICE_BYTES
from rig.checks import ends_clean, repeatable, until
from rig.pair import KINDS, Kept, Pair, connected

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


@ends_clean()
async def test_data_flows_unchanged_in_both_directions_at_once(pair: Pair) -> None:
    rng = repeatable()
    ours, theirs = rng.randbytes(5 * MEGABYTE), rng.randbytes(5 * MEGABYTE)
    pair.write(ours)
    heard, _, got = await asyncio.gather(pair.hear(len(ours)), pair.say(theirs), pair.got(len(theirs)))
    assert (heard, got) == (ours, theirs)
    assert pair.receiver.handed == len(ours) and not pair.receiver.out and not pair.receiver.ends


@ends_clean()
async def test_one_iteration_of_the_loop_reads_a_limited_number_of_bytes(pair: Pair) -> None:
    """The peer sends as many bytes as were read, at once, so that there is always more to read."""
    loop, left = asyncio.get_running_loop(), 2 * MEGABYTE
    read: list[int] = [0]  # bytes read in each iteration

    def next_turn() -> None:
        read.append(0)
        if left:
            loop.call_soon(next_turn)

    def refill() -> None:
        nonlocal left
        n = pair.receiver.reads[-1]
        read[-1] += n
        pair.theirs.sendall(bytes(min(n, left)))
        left -= min(n, left)

    pair.receiver.on_data = refill
    pair.theirs.sendall(bytes(TLS_SLICE_BYTES))
    loop.call_soon(next_turn)
    await pair.got(TLS_SLICE_BYTES + 2 * MEGABYTE)
    # One burst when the socket is readable, and one that the previous iteration has scheduled.
    assert max(read) <= 2 * (READ_BURST_BYTES + len(pair.receiver.buffer))
    assert len(read) > 2 * MEGABYTE // (2 * (READ_BURST_BYTES + len(pair.receiver.buffer)))


def send_each(pair: Pair, data: bytes, size: int) -> None:
    """Send each part in its own TLS record."""
    for k in range(0, len(data), size):
        assert pair.theirs.send(data[k : k + size]) == size


@pytest.mark.parametrize("size", [1, 100, 16384])
@ends_clean()
async def test_records_of_every_size_arrive_unchanged(pair: Pair, size: int) -> None:
    data = random.Random(size).randbytes(size * 300)
    for i in range(0, len(data), size * 50):
        await asyncio.to_thread(send_each, pair, data[i : i + size * 50], size)
    assert await pair.got(len(data)) == data
    pair.write(data)
    assert await pair.hear(len(data), size) == data


@pytest.mark.parametrize("size", [1, 100, 5000])
@ends_clean()
async def test_bytes_that_tls_has_already_decrypted_are_read(pair: Pair, size: int) -> None:
    """The file descriptor is not readable then; only another read finds them."""
    pair.receiver.buffer = bytearray(size)
    data = random.Random(size).randbytes(16384)
    await pair.say(data)
    assert await pair.got(len(data)) == data
    assert max(pair.receiver.reads) == size


@ends_clean()
async def test_a_pause_takes_effect_in_the_middle_of_a_record(pair: Pair) -> None:
    pair.receiver.buffer = bytearray(1000)
    data = random.Random(1).randbytes(40_000)
    pair.receiver.on_data = pair.transport.pause
    saying = asyncio.ensure_future(pair.say(data))
    while len(pair.receiver.data) < len(data):
        size = len(pair.receiver.data)
        await until(lambda size=size: len(pair.receiver.data) > size, "more")  # type: ignore[misc]
        assert len(pair.receiver.data) - size <= 1000  # a pause takes effect at once
        pair.transport.resume()
    await saying
    assert pair.receiver.data == data


@ends_clean()
async def test_a_peer_that_reads_slowly_gets_every_byte_once(pair: Pair) -> None:
    data = bytearray()
    rng = repeatable()
    await pair.transport.drain()  # nothing to wait for
    for _ in range(100):
        part = rng.randbytes(rng.choice([1, 100, TLS_SLICE_BYTES - 1, TLS_SLICE_BYTES, TLS_SLICE_BYTES + 1, 100_000]))
        data += part
        pair.write(part)
        if rng.random() < 0.2:
            await asyncio.sleep(0)
    waiting = [asyncio.ensure_future(pair.transport.drain()) for _ in range(3)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    heard = bytearray()
    while len(heard) < len(data):
        heard += await pair.hear(min(len(data) - len(heard), rng.randrange(1, 300_000)), rng.randrange(1, 100_000))
        assert data.startswith(heard)
    ends = await asyncio.gather(*waiting, return_exceptions=True)
    assert isinstance(ends[0], asyncio.CancelledError) and ends[1:] == [None, None]
    assert heard == data and pair.receiver.handed == len(data)


@ends_clean()
async def test_flushes_of_one_loop_iteration_are_sent_together(pair: Pair) -> None:
    for n in range(10):
        pair.receiver.out += b"%d" % n
        pair.transport.flush_soon()
    assert pair.receiver.handed == 0
    assert await pair.hear(10) == b"0123456789"


@ends_clean()
async def test_hand_over_sends_later_data_to_the_new_receiver(pair: Pair) -> None:
    first, second = pair.receiver, Kept(10)
    await pair.say(b"first")
    await pair.got(5)
    pair.transport.hand_over(second)
    second.out += b"from the second"
    pair.transport.flush()
    await pair.say(b"second, longer than its buffer")
    await until(lambda: len(second.data) == 30, "the second's")
    assert [bytes(first.data), bytes(second.data)] == [b"first", b"second, longer than its buffer"]
    assert await pair.hear(15) == b"from the second"
