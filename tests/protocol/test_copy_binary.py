"""Binary COPY: rows encoded and decoded in pieces of any size; anything not in the format is a ProtocolError."""

from __future__ import annotations

import struct
import time
import tracemalloc
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pg_wired.errors import ConfigError, Outcome, ProtocolError
from pg_wired.protocol import copy_binary
from pg_wired.protocol.copy_binary import HEADER, MAX_COLUMNS, SIGNATURE, TRAILER, RowDecoder
from pg_wired.protocol.types import Row

VALUES = st.none() | st.binary(max_size=20)
ROWS = st.lists(st.lists(VALUES, max_size=4).map(tuple), max_size=8)
CUTS = st.lists(st.integers(0, 400))


def encoded(rows: list[Row]) -> bytes:
    out = bytearray(HEADER)
    for row in rows:
        copy_binary.append_row(out, row)
    return bytes(out) + TRAILER


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    """Cut `data` at these offsets."""
    places = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    return [data[begin:end] for begin, end in pairwise(places)]


def decoded(parts: list[bytes]) -> list[Row]:
    decoder = RowDecoder()
    rows = [row for part in parts for row in decoder.feed(part)]
    decoder.end()
    return rows


def outcome(parts: list[bytes]) -> list[Row] | str:
    """The result of decoding all parts: the rows, or the text of the error."""
    try:
        return decoded(parts)
    except ProtocolError as error:
        return str(error)


# ---- rows


@given(ROWS, CUTS)
def test_encoded_rows_decode_unchanged_however_they_are_cut(rows: list[Row], cuts: list[int]) -> None:
    assert decoded(pieces(encoded(rows), cuts)) == rows


def test_rows_are_encoded_as_the_reference_page_says() -> None:
    """Signature, flags, extension; then for each row an Int16 and for each value an Int32 and its bytes."""
    out = bytearray()
    copy_binary.append_row(out, [b"ab", None, b""])
    assert out == b"\0\3" + b"\0\0\0\2ab" + b"\xff\xff\xff\xff" + b"\0\0\0\0"
    assert b"PGCOPY\n\xff\r\n\0" + bytes(8) == HEADER and struct.pack("!h", -1) == TRAILER


def test_one_copy_decodes_unchanged_when_cut_at_any_byte() -> None:
    rows: list[Row] = [(b"abc", None, b""), (), (b"x" * 300,)]
    data = encoded(rows)
    for cut in range(len(data) + 1):
        assert decoded([data[:cut], data[cut:]]) == rows, cut
    assert decoded([data[i : i + 1] for i in range(len(data))]) == rows


def test_rows_are_returned_as_soon_as_they_are_complete() -> None:
    rows: list[Row] = [(b"abc", None), (b"",), ()]
    data, decoder, seen = encoded(rows), RowDecoder(), []
    ends = [len(encoded(rows[: n + 1])) - len(TRAILER) for n in range(3)]
    for i in range(len(data)):
        seen += decoder.feed(data[i : i + 1])
        assert seen == rows[: sum(end <= i + 1 for end in ends)], i
    decoder.end()


def test_a_row_may_have_the_maximum_number_of_columns_but_no_more() -> None:
    row: Row = (b"x", None) * (MAX_COLUMNS // 2) + (b"",)
    assert decoded([encoded([row])]) == [row]
    out = bytearray(b"before")
    with pytest.raises(ConfigError, match="32768") as caught:
        copy_binary.append_row(out, (*row, None))
    assert caught.value.outcome is Outcome.NOT_SENT and out == b"before"


@pytest.mark.parametrize("row", ["ab", b"ab", bytearray(b"ab"), None, 1, ["ab"], [b"a", 1], [b"a", bytearray(b"b")]])
def test_an_invalid_row_is_refused_before_a_byte_is_written(row: Any) -> None:
    out = bytearray(b"before")
    with pytest.raises(TypeError):
        copy_binary.append_row(out, row)
    assert out == b"before"


def test_a_row_may_be_any_sequence() -> None:
    out = bytearray(HEADER)
    for row in ([b"a", None], (b"a", None), (value for value in (b"a", None))):
        copy_binary.append_row(out, row)
    assert decoded([bytes(out) + TRAILER]) == [(b"a", None)] * 3


# ---- malformed data


@given(st.binary(max_size=60), CUTS)
@example(b"", [])
def test_any_bytes_are_rows_or_a_protocol_error(garbage: bytes, cuts: list[int]) -> None:
    for begin in (b"", SIGNATURE, HEADER, HEADER + b"\0\1\0\0\0\2ab"):
        data = begin + garbage
        whole = outcome([data])
        assert outcome(pieces(data, cuts)) == whole


@given(ROWS.filter(bool), st.data())
def test_one_wrong_byte_gives_other_rows_or_an_error(rows: list[Row], data: st.DataObject) -> None:
    whole = bytearray(encoded(rows))
    places = [place for place in range(len(whole)) if place not in (13, 14)]  # the flags without a meaning
    whole[data.draw(st.sampled_from(places))] ^= data.draw(st.integers(1, 255))
    assert outcome([bytes(whole)]) != rows


@given(ROWS, st.integers(min_value=1))
def test_a_copy_that_was_cut_off_is_never_a_success(rows: list[Row], cut: int) -> None:
    data = encoded(rows)
    with pytest.raises(ProtocolError, match="without its trailer"):
        decoded([data[: len(data) - 1 - cut % len(data)]])


HEAD = SIGNATURE + bytes(4)
WRONG = {
    "signature": (b"PGCOPY\n\xff\n", "signature"),
    "text": (b"1\tone\n", "signature"),
    "critical flag": (SIGNATURE + b"\0\1\0\0" + bytes(4), "critical flag"),
    "oids, which are a critical flag": (SIGNATURE + b"\0\1\0\0" + bytes(4) + TRAILER, "critical flag"),
    "negative extension": (HEAD + b"\xff\xff\xff\xff", "extension of -1 bytes"),
    "negative count": (HEADER + b"\xff\xfe", "-2 columns"),
    "smallest count": (HEADER + b"\x80\x00", "-32768 columns"),
    "negative length": (HEADER + b"\0\1\xff\xff\xff\xfe", "value of -2 bytes"),
    "smallest length": (HEADER + b"\0\1\x80\0\0\0", "value of -2147483648 bytes"),
    "bytes behind the trailer": (HEADER + TRAILER + b"\0", "after its trailer"),
    "a row behind the trailer": (HEADER + TRAILER + b"\0\0", "after its trailer"),
}


@pytest.mark.parametrize(("data", "message"), WRONG.values(), ids=WRONG)
def test_a_malformed_copy_is_refused_with_the_reason(data: bytes, message: str) -> None:
    with pytest.raises(ProtocolError, match=message):
        decoded([data])
    with pytest.raises(ProtocolError, match=message):
        decoded([data[i : i + 1] for i in range(len(data))])


def test_bytes_fed_after_the_trailer_are_refused() -> None:
    decoder = RowDecoder()
    assert decoder.feed(HEADER + TRAILER) == []
    assert decoder.feed(b"") == []
    with pytest.raises(ProtocolError, match="after its trailer"):
        decoder.feed(b"\0")


@given(st.binary(max_size=40), CUTS)
def test_header_extensions_and_noncritical_flags_are_skipped(extension: bytes, cuts: list[int]) -> None:
    """Reference page: flag bits 0-15 are not critical, and an unknown header extension is to be skipped."""
    head = SIGNATURE + b"\0\0\xff\xff" + struct.pack("!i", len(extension)) + extension
    rows: list[Row] = [(b"a",), (None,)]
    assert decoded(pieces(head + encoded(rows)[len(HEADER) :], cuts)) == rows


@pytest.mark.parametrize("claim", [HEADER + b"\0\1\x7f\xff\xff\xff", HEADER + b"\x7f\xff", HEAD + b"\x7f\xff\xff\xff"])
def test_no_memory_is_reserved_for_a_claimed_length(claim: bytes) -> None:
    tracemalloc.start()
    try:
        assert RowDecoder().feed(claim + b"x") == []
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


def test_a_value_in_many_pieces_is_decoded_in_linear_time() -> None:
    """The cost grows with the number of bytes: a value of 32 MiB in pieces of 16 KiB takes less than a second."""
    size, piece = 32 * 1024 * 1024, bytes(16384)
    decoder = RowDecoder()
    begin = time.process_time()
    rows = decoder.feed(HEADER + b"\0\1" + struct.pack("!i", size))
    for _ in range(size // len(piece)):
        rows += decoder.feed(piece)
    assert [len(value or b"") for (value,) in rows] == [size]
    assert time.process_time() - begin < 1
