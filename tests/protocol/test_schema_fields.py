"""The kinds of fields: values that fit, values that do not, and their bytes."""

from __future__ import annotations

import re
from typing import Any

import pytest

from pg_wired.protocol.schema import (
    Array,
    Body,
    Bytes,
    Char,
    Int,
    Layout,
    Record,
    Secret,
    String,
    Terminated,
    Value,
    Varies,
)

U16 = Int(2, signed=False)
PAIR = Record(Char(), String())


def written(layout: Layout, value: Any) -> bytes:
    out: list[bytes] = []
    layout.write(value, out)
    return b"".join(out)


def shown(value: object) -> str:
    """The repr of `value` without the address of an object."""
    return re.sub(" at 0x[0-9a-f]+", "", repr(value))


@pytest.mark.parametrize(
    ("layout", "value", "data"),
    [
        (Int(1), -1, b"\xff"),
        (Int(2), -2, b"\xff\xfe"),
        (U16, 65535, b"\xff\xff"),
        (Int(4), -(2**31), b"\x80\0\0\0"),
        (Int(2, allowed=(0, 1)), 1, b"\0\1"),
        (Char(), "\xff", b"\xff"),
        (Char("SP"), "P", b"P"),
        (String(), "", b"\0"),
        (String(), "é\udcff", b"\xc3\xa9\xff\0"),
        (Bytes(), b"", b""),
        (Bytes(2, 3), b"ab", b"ab"),
        (Value(), None, b"\xff\xff\xff\xff"),
        (Value(), b"", b"\0\0\0\0"),
        (Value(), b"a\0", b"\0\0\0\2a\0"),
        (PAIR, ("M", "x"), b"Mx\0"),
        (Record(Int(1), Int(1), make=list), [1, 2], b"\1\2"),
        (Array(Value(), U16), (), b"\0\0"),
        (Array(Value(), U16), (b"a", None), b"\0\2\0\0\0\1a\xff\xff\xff\xff"),
        (Terminated(PAIR), (), b"\0"),
        (Terminated(PAIR), (("M", ""), ("M", "y")), b"M\0My\0\0"),
        (Secret(String()), "x", b"x\0"),
        (Varies(Int(1)), 7, b"\7"),
    ],
    ids=shown,
)
def test_a_value_is_written_to_and_read_from_its_bytes(layout: Layout, value: Any, data: bytes) -> None:
    assert written(layout, value) == data
    body = Body(b"before" + data, len("before"))
    assert layout.read(body) == value
    assert body.left == 0


@pytest.mark.parametrize(
    ("layout", "value", "error"),
    [
        (Int(1), 128, "128 is not in the range of -128 to 127"),
        (Int(2), -32769, "range of -32768 to 32767"),
        (U16, -1, "range of 0 to 65535"),
        (U16, 65536, "range of 0 to 65535"),
        (Int(4), 2**31, "range"),
        (Int(2, allowed=(0, 1)), 2, "2 is none of 0, 1"),
        (Char(), "", "not one letter"),
        (Char(), "ab", "not one letter"),
        (Char(), "\u20ac", "latin-1"),
        (Char("SP"), "X", "'X' is none of S, P"),
        (String(), "a\0b", "cannot hold a NUL"),
        (String(), "\ud800", "surrogates not allowed"),
        (Bytes(4, 256), b"abc", "3 bytes where 4 to 256 are due"),
        (Bytes(4, 256), bytes(257), "257 bytes"),
        (PAIR, ("M",), "shorter"),
        (PAIR, ("M", "x", "y"), "longer"),
        (Array(Char(), U16), "a" * 65536, "65536 is not in the range"),
        (Terminated(String()), ("a", ""), "'' would end the list"),
        (Terminated(PAIR), (("\0", "x"),), "would end the list"),
    ],
)
def test_a_value_that_does_not_fit_is_refused(layout: Layout, value: Any, error: str) -> None:
    with pytest.raises(ValueError, match=error):
        written(layout, value)


@pytest.mark.parametrize("layout", [Bytes(), Value()], ids=shown)
@pytest.mark.parametrize("value", ["text", 3, bytearray(b"changes"), memoryview(b"wide")], ids=shown)
def test_a_bytes_field_refuses_other_types(layout: Layout, value: object) -> None:
    with pytest.raises(TypeError, match="bytes are due, not"):
        written(layout, value)


@pytest.mark.parametrize(
    ("layout", "data", "error"),
    [
        (Int(4), b"\0\0\0", "4 bytes are due where 3 are left"),
        (Int(2, allowed=(0, 1)), b"\0\2", "2 is none of 0, 1"),
        (Char(), b"", "1 bytes are due where 0 are left"),
        (Char("ITE"), b"X", "'X' is none of I, T, E"),
        (String(), b"abc", "no NUL at its end"),
        (Bytes(4, 4), b"abcde", "5 bytes where 4 to 4"),
        (Value(), b"\xff\xff\xff\xfe", "-2 is not the length of a value"),
        (Value(), b"\0\0\0\2a", "2 bytes are due where 1 are left"),
        (Value(), b"\x7f\xff\xff\xff", "2147483647 bytes are due where 0 are left"),
        (Array(Value(), Int(4, signed=False)), b"\xff\xff\xff\xff", "4 bytes are due where 0 are left"),
        (Terminated(PAIR), b"Mx\0", "1 bytes are due where 0 are left"),
        (Terminated(PAIR), b"M", "no NUL at its end"),
    ],
)
def test_bytes_that_do_not_fit_are_refused(layout: Layout, data: bytes, error: str) -> None:
    with pytest.raises(ValueError, match=error):
        layout.read(Body(data, 0))


def test_a_string_ends_at_its_first_nul() -> None:
    body = Body(b"a\0b\0", 0)
    assert [String().read(body), String().read(body)] == ["a", "b"]
