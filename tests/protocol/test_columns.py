"""Columns hold the values of the rows, in the layout that the Arrow documentation describes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pg_wired.protocol import columns as arrow
from pg_wired.protocol import messages
from pg_wired.protocol.records import FieldDescription
from pg_wired.protocol.types import Row

CELLS = st.none() | st.binary(max_size=9)
TABLES = st.integers(0, 5).flatmap(lambda width: st.lists(st.tuples(*[CELLS] * width), max_size=40))


def field(name: str) -> FieldDescription:
    return FieldDescription(name, 0, 0, 25, -1, -1, 0)


def columns(rows: list[Row], *names: str) -> tuple[arrow.Column, ...]:
    p = bytearray(messages.encode(*map(messages.DataRow, rows)))
    return arrow.columns(p, len(rows), tuple(map(field, names)))


def values(column: arrow.Column) -> list[bytes | None]:
    """The values as a reader of the Arrow layout finds them."""
    return [
        bytes(column.data[column.offsets[n] : column.offsets[n + 1]]) if column.validity[n // 8] >> n % 8 & 1 else None
        for n in range(len(column))
    ]


@given(rows=TABLES)
def test_columns_hold_the_values_of_the_rows(rows: list[Row]) -> None:
    found = columns(rows)
    assert list(zip(*map(values, found), strict=True)) == rows or not (rows and rows[0])
    for number, column in enumerate(found):
        assert (column.count, column.null_count) == (len(rows), sum(row[number] is None for row in rows))
        assert bytes(column.data) == b"".join([row[number] or b"" for row in rows])
        assert (column.offsets.format, len(column.offsets), column.offsets[0]) == ("i", len(rows) + 1, 0)
        assert len(column.validity) == (len(rows) + 7) // 8
        assert column.offsets.tolist() == sorted(column.offsets)
        assert all(view.contiguous for view in (column.data, column.offsets, column.validity))


def test_values_of_every_length_are_copied_correctly() -> None:
    """Short values are copied differently from long ones."""
    rows: list[Row] = [(bytes(range(n)), bytes(n)) for n in [*range(80), *range(80)]]
    assert list(zip(*map(values, columns(rows)), strict=True)) == rows


def test_a_result_without_rows_has_empty_columns() -> None:
    first, second = columns([], "a", "b")
    assert (first.field, second.field) == (field("a"), field("b"))
    assert (len(first), first.null_count, bytes(first.data), first.offsets.tolist(), bytes(first.validity)) == (
        0,
        0,
        b"",
        [0],
        b"",
    )


def test_a_column_that_was_not_described_has_no_field() -> None:
    assert [column.field for column in columns([(b"1", b"2")], "a")] == [field("a"), None]


def test_rows_of_different_widths_have_no_columns() -> None:
    with pytest.raises(ValueError, match="row 1 has 2 columns where the first has 1"):
        columns([(b"1",), (b"1", b"2")])


def test_a_column_too_large_for_its_offsets_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrow, "MAX_BODY_BYTES", 9)
    assert columns([(b"x" * 9,)])
    with pytest.raises(ValueError, match="a column has 10 bytes"):
        columns([(b"x" * 9,), (b"y",)])


def test_the_repr_shows_no_value() -> None:
    column, _ = columns([(b"secret", None)], "a")
    assert repr(column) == "<Column 'a': 1 values, 0 of them NULL, 6 bytes>"
