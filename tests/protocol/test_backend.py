"""Runs of DataRow and CopyData: read whole, cut anywhere, and refused if a count or a length does not fit."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pg_wired.errors import ProtocolError
from pg_wired.protocol import backend, messages, octets
from pg_wired.protocol.types import Row

ROWS = st.lists(st.lists(st.none() | st.binary(max_size=9), min_size=2, max_size=2).map(tuple), max_size=5)


def stream(rows: list[Row]) -> bytearray:
    return bytearray(messages.encode(*map(messages.DataRow, rows)))


def row_of(body: bytes, n: int | None = None) -> bytearray:
    """A DataRow with this body; `n` replaces its length field."""
    return bytearray(b"D" + (len(body) + 4 if n is None else n).to_bytes(4, "big", signed=True) + body)


def take(p: bytearray, columns: int = 2, i: int = 0, end: int | None = None) -> tuple[int, list[Row]]:
    out: list[Row] = []
    at = backend.check(p, i, len(p) if end is None else end, columns)
    assert backend.make(p, i, at, len(p), out) == at
    assert backend.count(p, i, at) == len(out)
    return at, out


@given(rows=ROWS, before=st.binary(max_size=3), behind=st.sampled_from([b"", b"C\0\0\0\4", b"D\0\0\0\x20\0\2", b"D\0"]))
def test_whole_rows_are_read_and_the_next_message_is_left(rows: list[Row], before: bytes, behind: bytes) -> None:
    p = bytearray(before) + stream(rows)
    i, taken = take(p + behind, i=len(before))
    assert (i, taken) == (len(p), rows)
    assert all(type(row) is tuple for row in taken)


@given(rows=ROWS, data=st.data())
def test_a_cut_row_is_left_for_later(rows: list[Row], data: st.DataObject) -> None:
    p = stream(rows)
    end = data.draw(st.integers(0, len(p)))
    i, taken = take(p, end=end)
    assert taken == rows[: len(taken)]
    assert i == len(stream(rows[: len(taken)])) <= end
    rest, others = take(p, i=i)
    assert (rest, taken + others) == (len(p), rows)


@given(rows=ROWS, limit=st.integers(0, 6))
def test_at_most_limit_rows_are_made(rows: list[Row], limit: int) -> None:
    p, out = stream(rows), list[Row]()
    assert backend.make(p, 0, len(p), limit, out) == len(stream(rows[:limit]))
    assert out == rows[:limit]


def test_null_empty_values_and_every_byte_arrive_unchanged() -> None:
    row = (None, b"", b"\0", bytes(range(256)))
    assert take(stream([row, row]), columns=4)[1] == [row, row]


@pytest.mark.parametrize("n", [0, 1, 1664, 65535])
def test_rows_may_have_any_number_of_columns(n: int) -> None:
    row = (None,) * n
    assert take(stream([row]), columns=n)[1] == [row]
    assert take(stream([row, (), row]), columns=octets.ANY_COUNT)[1] == [row, (), row]


@pytest.mark.parametrize(
    ("p", "error"),
    [
        (row_of(b"\0\1\0\0\0\0"), "1 columns where 2 were described"),
        (row_of(b"\0\3" + bytes(12)), "3 columns where 2 were described"),
        (row_of(b"\xff\xff" + bytes(12)), "65535 columns where 2"),
        (row_of(b"\0\2", 0), "DataRow of 0 bytes has no room for its column count"),
        (row_of(b"\0\2", -1), "DataRow of -1 bytes has no room"),
        (row_of(b"\0\2", -(2**31)), "DataRow of -2147483648 bytes has no room"),
        (row_of(b"\0\2", 5), "DataRow of 5 bytes has no room"),
        (row_of(b"\0\2" + bytes(7)), "DataRow of 13 bytes cannot hold 2 columns"),
        (row_of(b"\0\2\0\0\0\1" + bytes(4)), "DataRow ends before its last column"),
        (row_of(b"\0\2" + bytes(8) + b"!"), "1 bytes after its last column"),
        (row_of(b"\0\2\xff\xff\xff\xff\xff\xff\xff\xfe"), "a column of -2 bytes where 0 are left"),
        (row_of(b"\0\2\0\0\0\0\x80\0\0\0!"), "a column of -2147483648 bytes where 1 are left"),
        (row_of(b"\0\2\0\0\0\0\0\0\0\2!"), "a column of 2 bytes where 1 are left"),
        (row_of(b"\0\2\0\0\0\0\x7f\xff\xff\xff!"), "a column of 2147483647 bytes where 1 are left"),
    ],
)
def test_a_row_with_a_wrong_count_or_length_is_refused(p: bytearray, error: str) -> None:
    good = stream([(b"x", b"y")])
    with pytest.raises(ProtocolError, match=error):
        backend.check(good + p, 0, len(good + p), 2)


@given(p=st.binary(max_size=60).map(lambda data: bytearray(b"D\0\0\0" + data)), columns=st.integers(-2, 3))
def test_any_bytes_are_rows_or_a_protocol_error(p: bytearray, columns: int) -> None:
    """The rows read encode to exactly the bytes they came from; nothing after `end` is read."""
    try:
        i, out = take(p, columns)
    except ProtocolError:
        return
    assert p[:i] == stream(out)
    assert columns == octets.ANY_COUNT or all(len(row) == columns for row in out)


@given(parts=st.lists(st.binary(max_size=9)), before=st.binary(max_size=3), data=st.data())
def test_whole_copy_data_messages_are_appended_as_one_piece(
    parts: list[bytes], before: bytes, data: st.DataObject
) -> None:
    stream = [messages.encode(messages.CopyData(part)) for part in parts]
    p = bytearray(before + b"".join(stream) + data.draw(st.sampled_from([b"", b"c\0\0\0\4", b"d\0\0\0\3", b"d\0"])))
    end = data.draw(st.integers(len(before), len(p)))
    out = bytearray(b"kept")
    i = backend.data(p, len(before), end, out)
    whole = [n for n in range(len(stream) + 1) if len(before) + len(b"".join(stream[:n])) <= end][-1]
    assert i == len(before) + len(b"".join(stream[:whole]))
    assert out == b"kept" + b"".join(parts[:whole])


def test_encoded_rows_are_the_messages_that_they_were_made_of() -> None:
    rows: list[Row] = [(b"a", None, b""), (), (b"b" * 300,)]
    assert bytes(backend.encode(rows)) == messages.encode(*map(messages.DataRow, rows))
