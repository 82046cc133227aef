"""The low-level functions do what their names say, and the header has the same numbers as the Python module."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pg_wired.protocol import octets

PXD = Path(__file__).parents[2] / "src/pg_wired/protocol/octets.pxd"
I32 = st.integers(-(2**31), 2**31 - 1)


def constants() -> dict[str, int]:
    """Every line `NAME = number` inside an `enum` of the header."""
    found = re.findall(r"^    ([A-Z_0-9]+) = (\S+)$", PXD.read_text(), re.M)
    return {name: int(number, 0) for name, number in found}


def test_the_header_has_the_same_numbers() -> None:
    ours = {name: value for name, value in vars(octets).items() if name.isupper() and isinstance(value, int)}
    assert constants() == ours


def test_special_numbers_cannot_be_real_counts_or_offsets() -> None:
    assert octets.NO_ROWS < octets.ANY_COUNT < 0
    assert octets.NEVER > 2**60


@given(st.integers(0, 65535), st.integers(0, 3))
def test_get_u16_reads_an_unsigned_big_endian_number(n: int, i: int) -> None:
    assert octets.get_u16(bytes(i) + n.to_bytes(2, "big"), i) == n


@given(I32, st.integers(0, 3))
def test_put_i32_and_get_i32_are_inverse(n: int, i: int) -> None:
    q = bytearray(b"\xaa" * 10)
    assert octets.put_i32(q, i, n) == i + 4
    assert octets.get_i32(q, i) == n
    assert q == b"\xaa" * i + n.to_bytes(4, "big", signed=True) + b"\xaa" * (6 - i)


@given(st.binary(max_size=9), st.integers(0, 3))
def test_put_bytes_and_get_bytes_are_inverse(data: bytes, i: int) -> None:
    q = bytearray(12)
    assert octets.put_bytes(q, i, data) == i + len(data)
    taken = octets.get_bytes(q, i, len(data))
    assert (type(taken), taken, len(q)) == (bytes, data, 12)


@pytest.mark.parametrize("put", [octets.put_part, octets.put_short])
@given(data=st.binary(max_size=9), i=st.integers(0, 3), j=st.integers(0, 3))
def test_put_part_and_put_short_copy_a_part_of_another_buffer(
    put: Callable[..., int], data: bytes, i: int, j: int
) -> None:
    q = bytearray(12)
    assert put(q, i, bytes(j) + data + b"behind", j, len(data)) == i + len(data)
    assert q == bytes(i) + data + bytes(12 - i - len(data))


@pytest.mark.parametrize("n", [0, 1, -1, 2**31 - 1, -(2**31)])
def test_put_native_writes_in_the_byte_order_of_the_machine(n: int) -> None:
    q = bytearray(6)
    octets.put_native(q, 1, n)
    assert q == b"\0" + n.to_bytes(4, sys.byteorder, signed=True) + b"\0"


@given(st.binary(max_size=9), st.integers(0, 9), st.integers(0, 9))
def test_find_nul_returns_the_offset_of_the_first_nul_or_minus_one(data: bytes, i: int, end: int) -> None:
    end = min(end, len(data))
    places = [at for at in range(i, end) if data[at] == 0]
    assert octets.find_nul(data, i, end) == (places[0] if places else -1)


@given(st.binary(max_size=4), st.binary(max_size=4), st.booleans())
def test_begins_with_compares_only_the_first_n_bytes(head: bytes, rest: bytes, is_so: bool) -> None:
    data = head + rest if is_so else rest
    for n in range(len(data) + 1):
        assert octets.begins_with(data, n, head) == data[:n].startswith(head)


def test_get_text_decodes_a_part_of_the_buffer() -> None:
    assert octets.get_text(b".\xc3\xa4\xff.", 1, 3, "replace") == "\xe4\ufffd"


def test_longs_is_a_view_of_64_bit_numbers() -> None:
    room = bytearray(24)
    longs = octets.longs(room)
    longs[1] = -5
    longs[2] += 2**40
    assert room == b"".join([n.to_bytes(8, sys.byteorder, signed=True) for n in (0, -5, 2**40)])


def test_new_record_makes_a_tuple_of_the_class() -> None:
    cls = type("Three", (tuple,), {})
    record = octets.new_record(cls, 1, "two", None)
    assert type(record) is cls and record == (1, "two", None)


def test_drop_removes_bytes_from_the_front() -> None:
    out = bytearray(b"12345")
    octets.drop(out, 2)
    assert out == b"345"
    octets.drop(out, 3)
    assert not out
    out += b"6"
    assert out == b"6"


def test_grow_appends_zeros_in_place() -> None:
    out = bytearray(b"ab")
    assert octets.grow(out, 3) is out
    assert out == b"ab\0\0\0"


def test_sealed_cells_become_a_row() -> None:
    row = octets.new_row(4)
    p = bytearray(b"xyz")
    for column, (i, n) in enumerate([(0, 2), (3, 0), (0, -1), (2, 1)]):
        octets.set_cell(row, column, p, i, n)
    assert octets.seal(row) == (b"xy", b"", None, b"z")
    assert octets.seal(octets.new_row(0)) == ()
