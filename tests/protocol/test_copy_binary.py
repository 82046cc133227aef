"""Binary COPY: rows to bytes and back, however they are cut, and what is not kept to is refused."""

from __future__ import annotations

import time
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pg_wired.error import ConfigError, Outcome, ProtocolError
from pg_wired.protocol.copy_binary import HEADER, MAX_COLUMNS, SIGNATURE, TRAILER, RowDecoder, append_row
from pg_wired.protocol.types import Row

ROWS = st.lists(st.lists(st.none() | st.binary(max_size=9), max_size=4).map(tuple), max_size=6)
# PostgreSQL's reference page of COPY, by hand: one row of (NULL, 'ab', '').
GOLDEN = b"PGCOPY\n\xff\r\n\0" + bytes(8) + b"\0\3\xff\xff\xff\xff\0\0\0\2ab\0\0\0\0" + b"\xff\xff"


def encode(rows: list[Row]) -> bytes:
    out = bytearray(HEADER)
    for row in rows:
        append_row(out, row)
    return bytes(out + TRAILER)


def decode(*parts: bytes) -> list[Row]:
    decoder = RowDecoder()
    rows = [row for part in parts for row in decoder.feed(part)]
    decoder.end()
    return rows


def test_golden_bytes() -> None:
    assert encode([(None, b"ab", b"")]) == GOLDEN
    assert decode(GOLDEN) == [(None, b"ab", b"")]


@given(rows=ROWS, cuts=st.lists(st.integers(0, 200), max_size=6))
def test_any_rows_in_any_pieces(rows: list[Row], cuts: list[int]) -> None:
    data = encode(rows)
    places = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    taken = decode(*[data[begin:end] for begin, end in pairwise(places)])
    assert taken == rows and all(type(row) is tuple for row in taken)


def test_byte_by_byte() -> None:
    rows: list[Row] = [(), (b"x" * 300, None), (b"",)]
    assert decode(*[bytes([byte]) for byte in encode(rows)]) == rows


def test_a_long_value_in_small_pieces() -> None:
    """The time grows with its length, not with the square of it."""
    data = encode([(bytes(16 * 1024 * 1024),)])
    begin = time.process_time()
    [row] = decode(*[data[i : i + 1000] for i in range(0, len(data), 1000)])
    assert row == (bytes(16 * 1024 * 1024),)
    assert time.process_time() - begin < 3


def test_rows_are_given_as_soon_as_they_are_complete() -> None:
    decoder = RowDecoder()
    assert decoder.feed(GOLDEN[:-2] + b"\0\1\0\0") == [(None, b"ab", b"")]
    assert decoder.feed(b"\0\1") == []
    assert decoder.feed(b"x") == [(b"x",)]
    with pytest.raises(ProtocolError, match="ended without its trailer"):
        decoder.end()
    decoder.feed(TRAILER)
    decoder.end()


@pytest.mark.parametrize("row", [[b"a"], (b"a",), iter([b"a"]), {b"a": 1}])
def test_a_row_is_anything_that_can_be_iterated(row: Any) -> None:
    out = bytearray()
    append_row(out, row)
    assert out == b"\0\1\0\0\0\1a"


@pytest.mark.parametrize(
    ("row", "kind", "text"),
    [
        ("ab", TypeError, "a row is a sequence of bytes and None, not str"),
        (b"ab", TypeError, "not bytes"),
        (bytearray(b"ab"), TypeError, "not bytearray"),
        (7, TypeError, "int"),
        (("a",), TypeError, "a value of str: pass bytes, or None"),
        ((b"x", bytearray(b"a")), TypeError, "a value of bytearray"),
        ((None,) * (MAX_COLUMNS + 1), ConfigError, "a row of 32768 columns: COPY takes at most 32767"),
    ],
    ids=["str", "bytes", "bytearray", "int", "str inside", "bytearray inside", "too wide"],
)
def test_what_is_no_row_is_refused_before_a_byte_is_written(row: Any, kind: type[Exception], text: str) -> None:
    out = bytearray(b"before")
    with pytest.raises(kind, match=text) as caught:
        append_row(out, row)
    assert out == b"before"
    assert getattr(caught.value, "outcome", Outcome.NOT_SENT) is Outcome.NOT_SENT


def test_the_widest_row() -> None:
    row = (None,) * MAX_COLUMNS
    assert decode(encode([row])) == [row]


def test_a_header_extension_is_passed_over() -> None:
    data = SIGNATURE + bytes(4) + b"\0\0\0\5" + b"extra" + GOLDEN[len(HEADER) :]
    assert decode(data) == decode(*[bytes([byte]) for byte in data]) == [(None, b"ab", b"")]
    assert decode(SIGNATURE + b"\0\0\xff\xff" + bytes(4) + TRAILER) == []  # flags that are not critical


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"PGCOPY\r\n", "does not begin with its signature"),
        (b"1\t2\n", "does not begin with its signature"),
        (SIGNATURE + b"\0\1\0\0" + bytes(4), "a critical flag that is not known"),
        (SIGNATURE + b"\x80\0\0\0" + bytes(4), "a critical flag"),
        (SIGNATURE + bytes(4) + b"\xff\xff\xff\xff", "a header extension of -1 bytes"),
        (HEADER + b"\xff\xfe", "a row of -2 columns"),
        (HEADER + b"\x80\0", "a row of -32768 columns"),
        (HEADER + b"\0\1\xff\xff\xff\xfe", "a value of -2 bytes"),
        (HEADER + b"\0\1\x80\0\0\0", "a value of -2147483648 bytes"),
        (HEADER + TRAILER + b"\0", "goes on behind its trailer"),
        (HEADER + TRAILER + TRAILER, "goes on behind its trailer"),
    ],
)
def test_what_does_not_fit_is_refused(data: bytes, text: str) -> None:
    with pytest.raises(ProtocolError, match=text):
        decode(data)
    with pytest.raises(ProtocolError, match=text):
        decode(*[bytes([byte]) for byte in data])


@pytest.mark.parametrize("end", range(len(GOLDEN)))
def test_over_too_early(end: int) -> None:
    with pytest.raises(ProtocolError, match="ended without its trailer"):
        decode(GOLDEN[:end])


@given(st.binary(max_size=60))
def test_any_bytes_are_rows_or_a_protocol_error(data: bytes) -> None:
    decoder = RowDecoder()
    try:
        rows = decoder.feed(HEADER + data)
    except ProtocolError:
        return
    out = bytearray()
    for row in rows:
        append_row(out, row)
    assert bytes(out) + TRAILER * decoder.has_trailer + b"".join(decoder.pieces) == data
