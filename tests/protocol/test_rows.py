"""Rows is a sequence of tuples, and reads the number in any command tag a server may send."""

from __future__ import annotations

import pytest

from pg_wired.protocol.rows import Rows
from pg_wired.protocol.types import FieldDescription

FIELD = FieldDescription("a", 0, 0, 25, -1, -1, 0)
TWO: list[tuple[bytes | None, ...]] = [(b"1",), (None,)]


def test_a_sequence() -> None:
    rows = Rows((FIELD,), list(TWO), "SELECT 2")
    assert (len(rows), rows[0], rows[-1], rows[1:]) == (2, (b"1",), (None,), [(None,)])
    assert list(rows) == TWO and list(reversed(rows)) == TWO[::-1]
    assert (b"1",) in rows and rows.index((None,)) == 1 and rows.count((b"1",)) == 1
    assert (rows.fields, rows.command_tag) == ((FIELD,), "SELECT 2")
    assert bool(rows) and not Rows((), [], "")
    with pytest.raises(IndexError):
        rows[2]


def test_equality() -> None:
    rows = Rows((FIELD,), list(TWO), "SELECT 2")
    assert rows == Rows((), list(TWO), "FETCH 2")
    assert rows == TWO and rows == tuple(TWO)
    assert rows != TWO[:1] and rows != Rows((FIELD,), [], "SELECT 0")
    assert rows != {b"1"} and rows != "x"
    with pytest.raises(TypeError, match="unhashable"):
        hash(rows)


@pytest.mark.parametrize(
    ("tag", "number"),
    [
        ("SELECT 3", 3),
        ("INSERT 0 4294967296", 4294967296),
        ("COPY 0", 0),
        ("MERGE 3", 3),
        ("UPDATE 18446744073709551615", 2**64 - 1),
        ("CREATE TABLE", None),
        ("SELECT", None),
        ("", None),
        (" ", None),
        ("SELECT -1", None),
        ("SELECT ²", None),
        ("SELECT ٣", None),
        ("SELECT 1_0", None),
        ("\ufffd 7 x", None),
        pytest.param("SELECT " + "9" * 20_000, None, id="digits that no server counts"),
    ],
)
def test_rows_affected(tag: str, number: int | None) -> None:
    assert Rows((), [], tag).rows_affected == number


def test_repr_shows_no_values() -> None:
    assert repr(Rows((FIELD,), [(b"secret",)], "SELECT 1")) == "<Rows 'SELECT 1': 1 rows of 1 columns>"
