"""Rows is a sequence of tuples, and reads the number in any command tag that a server may send."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import pytest

from pg_wired.protocol import messages
from pg_wired.protocol.records import FieldDescription
from pg_wired.protocol.rows import BATCH_ROWS, RowBody, Rows
from pg_wired.protocol.types import Row

FIELD = FieldDescription("a", 0, 0, 25, -1, -1, 0)
TWO: list[tuple[bytes | None, ...]] = [(b"1",), (None,)]


def as_it_came(rows: list[Row], cuts: int = 1) -> Rows:
    """The rows as a body that arrived in `cuts` parts."""
    body = RowBody()
    for part in range(cuts):
        p = b"xx" + messages.encode(*map(messages.DataRow, rows[part::cuts])) + b"C\0\0\0\4"
        body.append(bytearray(p), 2, len(p) - 5)
    return Rows((FIELD,), [], f"SELECT {len(rows)}", body)


@pytest.mark.parametrize("rows", [Rows((FIELD,), list(TWO), "SELECT 2"), as_it_came(TWO), as_it_came(TWO, 2)])
def test_rows_is_a_sequence(rows: Rows) -> None:
    assert (len(rows), rows[0], rows[-1], rows[1:]) == (2, (b"1",), (None,), [(None,)])
    assert list(rows) == TWO and list(reversed(rows)) == TWO[::-1]
    assert (b"1",) in rows and rows.index((None,)) == 1 and rows.count((b"1",)) == 1
    assert (rows.fields, rows.command_tag) == ((FIELD,), "SELECT 2")
    assert bool(rows) and not Rows((), [], "")
    for beyond in (2, -3):
        with pytest.raises(IndexError):
            rows[beyond]
    with pytest.raises(TypeError):
        rows["0"]  # type: ignore[call-overload]


@pytest.mark.parametrize("n", [0, 1, BATCH_ROWS - 1, BATCH_ROWS, BATCH_ROWS + 1, 5 * BATCH_ROWS])
def test_rows_from_a_body_equal_rows_from_tuples(n: int) -> None:
    made: list[Row] = [(b"%d" % i, None, b"") for i in range(n)]
    rows = as_it_came(made)
    assert (len(rows), list(rows), list(rows)) == (n, made, made)
    assert [rows[i] for i in range(-n, n)] == made + made
    assert rows[3:-5:7] == made[3:-5:7] and rows[::-1] == made[::-1]
    assert rows == Rows((FIELD,), made, "") and rows == made and (rows == made[1:]) is (n == 0)
    assert all(type(row) is tuple for row in rows)


def test_several_iterators_may_run_at_the_same_time() -> None:
    rows = as_it_came([(b"%d" % i,) for i in range(1000)])
    assert [a + b for a, b in zip(rows, rows, strict=True)] == [(b"%d" % i,) * 2 for i in range(1000)]


def test_columns_are_available_from_tuples_and_from_a_body() -> None:
    for rows in (Rows((FIELD,), list(TWO), ""), as_it_came(TWO)):
        (column,) = rows.columns()
        assert (column.field, bytes(column.data), column.offsets.tolist()) == (FIELD, b"1", [0, 1, 1])


def test_rows_equal_sequences_with_the_same_values() -> None:
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
def test_rows_affected_is_the_number_in_the_command_tag(tag: str, number: int | None) -> None:
    assert Rows((), [], tag).rows_affected == number


def test_the_repr_shows_no_values() -> None:
    assert repr(Rows((FIELD,), [(b"secret",)], "SELECT 1")) == "<Rows 'SELECT 1': 1 rows of 1 columns>"


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, lambda rows: pickle.loads(pickle.dumps(rows))])
@pytest.mark.parametrize("rows", [Rows((FIELD,), list(TWO), "SELECT 2"), as_it_came(TWO, 2), Rows((), [], "SET")])
def test_rows_survive_copying_and_pickling(rows: Rows, again: Callable[[Rows], Rows]) -> None:
    """Needed to pass rows to other processes and to caches."""
    twin = again(rows)
    assert twin == rows and list(twin) == list(rows) and type(twin) is Rows
    assert (twin.fields, twin.command_tag, twin.rows_affected) == (rows.fields, rows.command_tag, rows.rows_affected)
