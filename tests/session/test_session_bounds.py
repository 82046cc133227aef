"""Limits on what a session holds: bytes to send, bytes received, rows of cancelled requests."""

from __future__ import annotations

import tracemalloc

import pytest

from pg_wired.protocol import messages as m
from pg_wired.protocol import octets
from pg_wired.session.session import BUFFER_BYTES
from tests.session.conversation import READY, Client, first, result

SIMPLE = [*result(), READY]


def test_requests_beyond_the_high_water_mark_wait_unencoded() -> None:
    client = Client()
    value = bytes(octets.HIGH_WATER_BYTES // 2)
    for _ in range(10):
        client.query("insert", value)
    assert octets.HIGH_WATER_BYTES <= len(client.session.out) < 2 * octets.HIGH_WATER_BYTES
    assert (len(client.session.inflight), len(client.session.pending)) == (2, 8)
    client.take(octets.LOW_WATER_BYTES)
    assert len(client.session.pending) == 8
    client.take(octets.LOW_WATER_BYTES)  # the socket has now taken most of it
    assert len(client.session.out) >= octets.HIGH_WATER_BYTES and len(client.session.pending) < 8


def test_one_request_larger_than_the_high_water_mark_is_sent() -> None:
    client = Client()
    client.query("insert", bytes(3 * octets.HIGH_WATER_BYTES))
    assert len(client.take()) > 3 * octets.HIGH_WATER_BYTES
    client.feed(*first(names=(), tag="INSERT 0 1"))
    assert client.sinks[0].result.rows_affected == 1


@pytest.mark.parametrize("is_disowned", [False, True])
@pytest.mark.parametrize("before", [0, 100])
def test_the_answer_to_a_cancelled_request_takes_no_memory(is_disowned: bool, before: int) -> None:
    client = Client()
    sink = client.query("select")
    rows = m.encode(m.DataRow((bytes(1000),))) * 100
    client.feed(*first()[:4], *[rows] * before)
    sink.cancelled = True
    if is_disowned:
        client.disown()
    client.feed(rows)  # the bytes of one read may still be kept
    tracemalloc.start()
    client.feed(*[rows] * 50)
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept < 300_000
    client.feed(*result(), READY)
    assert client.session.failure is None and sink.result is None


def test_the_buffer_grows_with_the_bytes_received_and_shrinks_back() -> None:
    client = Client()
    value = bytes(range(256)) * (3 * 4096)  # 3 MiB
    sink = client.query("select")
    client.feed(*first()[:4])
    data = m.encode(m.DataRow((value,)), *result(), READY)
    sizes = []
    for i in range(0, len(data), 100_000):
        client.feed(data[i : i + 100_000])
        sizes.append(len(client.session.buffer))
        assert sizes[-1] <= max(BUFFER_BYTES, 2 * (i + 100_000))
    assert sink.result == [(value,)]
    assert max(sizes) == m.encode(m.DataRow((value,))).__len__()
    assert len(client.session.buffer) == BUFFER_BYTES


@pytest.mark.parametrize("size", range(BUFFER_BYTES - 16, BUFFER_BYTES + 8))
def test_a_message_about_as_long_as_the_buffer_is_read_correctly(size: int) -> None:
    client = Client()
    sink, behind = client.query("select"), client.simple("x")
    client.feed(*first()[:4], m.DataRow((bytes(size),)), *result(), READY, *SIMPLE)
    assert len(sink.result[0][0]) == size and behind.result == [[]]
