"""Rows: what every request returns. It holds what the server sent, and interprets nothing but the command tag."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any, overload

from . import backend, octets
from .types import Row

if TYPE_CHECKING:
    from .columns import Column
    from .records import FieldDescription

# Rows made at a time while iterating: their memory is used again and again, and the call for each lot costs nothing.
BATCH_ROWS = 256


class RowBody:
    """DataRow messages as they came, headers included, one behind the other; every length in them is checked."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.count = 0
        self._starts: bytearray | None = None  # where each row begins, once somebody has asked for one by its number

    def append(self, p: bytearray, i: int, end: int) -> None:
        """Keep the messages of `p` from `i` to `end`."""
        n = len(self.data)
        q = octets.grow(self.data, end - i)
        octets.put_part(q, n, p, i, end - i)
        self.count += backend.count(p, i, end)

    def batches(self) -> Iterator[list[Row]]:
        """The rows, made in small lists; none is kept here."""
        i = 0
        while i < len(self.data):
            batch: list[Row] = []
            i = backend.make(self.data, i, len(self.data), BATCH_ROWS, batch)
            yield batch

    def row(self, number: int) -> Row:
        """One row, `number` from 0 to `count` - 1."""
        if self._starts is None:
            self._starts = self._index()
        starts = octets.longs(self._starts)
        made: list[Row] = []
        backend.make(self.data, starts[number], len(self.data), 1, made)
        return made[0]

    def _index(self) -> bytearray:
        found = bytearray(8 * self.count)
        starts = octets.longs(found)
        p = self.data
        i = 0
        for number in range(self.count):
            starts[number] = i
            i += 1 + octets.get_i32(p, i + 1)
        return found


class RowStore:
    """The compiled half of Rows: rows that are made already, or a `body` from which they are made when touched."""

    def __init__(
        self, fields: tuple[FieldDescription, ...], rows: list[Row], command_tag: str, body: RowBody | None = None
    ) -> None:
        self.fields = fields
        self.command_tag = command_tag
        self._rows = rows
        self._body = body

    def __len__(self) -> int:
        return len(self._rows) if self._body is None else self._body.count

    def __getitem__(self, index: Any) -> Any:
        body = self._body
        if body is None:
            return self._rows[index]
        chosen = range(body.count)[index]  # which checks it, and counts from the end
        return body.row(chosen) if isinstance(chosen, int) else [body.row(number) for number in chosen]

    def __iter__(self) -> Iterator[Row]:
        return iter(self._rows) if self._body is None else chain.from_iterable(self._body.batches())

    def columns(self) -> tuple[Column, ...]:
        """The same values column by column, each in one piece as Arrow has it, without an object for a value.

        Raises ValueError for a column over 2 GiB (its offsets have 32 bits: take a stream's batches), and for rows of
        different widths.
        """
        from . import columns

        if self._body is None:
            body = RowBody()
            data = backend.encode(self._rows)
            body.append(data, 0, len(data))
        else:
            body = self._body
        return columns.columns(body.data, body.count, self.fields)


class Rows(RowStore, Sequence[Row]):
    """The rows of one statement, each a tuple of `bytes | None`; empty where the statement returned none.

    `fields` describes the columns, `command_tag` is the server's CommandComplete ("SELECT 3"), empty after an empty
    query or a portal that was suspended. A large result is kept as it came, and its rows are made each time they are
    touched: `list(rows)` keeps them.
    """

    __slots__ = ()

    if TYPE_CHECKING:

        @overload
        def __getitem__(self, index: int) -> Row: ...
        @overload
        def __getitem__(self, index: slice) -> list[Row]: ...
        def __getitem__(self, index: Any) -> Any: ...

    @property
    def rows_affected(self) -> int | None:
        """The number in the command tag; None where it has none ("CREATE TABLE")."""
        count = self.command_tag.rpartition(" ")[2]
        return int(count) if count.isascii() and count.isdigit() and len(count) <= 20 else None  # uint64 in the server

    def __eq__(self, other: object) -> bool:
        """Equal to any sequence of the same rows."""
        if not isinstance(other, (Rows, list, tuple)):
            return NotImplemented
        return len(self) == len(other) and all(mine == theirs for mine, theirs in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<Rows {self.command_tag!r}: {len(self)} rows of {len(self.fields)} columns>"
