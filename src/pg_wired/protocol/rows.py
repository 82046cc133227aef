"""The class Rows, which holds the result of a statement as the server sent it.

It interprets the command tag, but not the values.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any, overload

from . import backend, octets
from .types import Row

if TYPE_CHECKING:
    from .columns import Column
    from .records import FieldDescription

# Rows made at a time while iterating: few enough that their memory is reused, and enough that the cost of a call does
# not matter.
BATCH_ROWS = 256


class RowBody:
    """Consecutive DataRow messages as received, with their headers. All lengths in them have been checked."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.count = 0
        self._starts: bytearray | None = None  # the offset of each row, made when a row is first asked for by number

    def append(self, p: bytearray, i: int, end: int) -> None:
        """Append a copy of the messages in `p` from `i` to `end`."""
        n = len(self.data)
        q = octets.grow(self.data, end - i)
        octets.put_part(q, n, p, i, end - i)
        self.count += backend.count(p, i, end)

    def batches(self) -> Iterator[list[Row]]:
        """Yield the rows in lists of at most BATCH_ROWS. The lists are not kept."""
        i = 0
        while i < len(self.data):
            batch: list[Row] = []
            i = backend.make(self.data, i, len(self.data), BATCH_ROWS, batch)
            yield batch

    def row(self, number: int) -> Row:
        """Return one row; `number` is from 0 to `count` - 1."""
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
    """The compiled base class of Rows. It has either finished rows, or a `body` from which rows are made on access."""

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
        chosen = range(body.count)[index]  # checks the index, and resolves negative ones
        return body.row(chosen) if isinstance(chosen, int) else [body.row(number) for number in chosen]

    def __iter__(self) -> Iterator[Row]:
        return iter(self._rows) if self._body is None else chain.from_iterable(self._body.batches())

    def columns(self) -> tuple[Column, ...]:
        """The same values as a Column for each column, in Arrow's layout, without creating an object for each value.

        Raises ValueError for a column over 2 GiB (its offsets have 32 bits: use the batches of a stream instead), and
        for rows of different widths.
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
    """The rows of one statement: a sequence of tuples of `bytes | None`, empty if the statement returned no rows.

    `fields` describes the columns. `command_tag` is the tag of the server's CommandComplete, such as "SELECT 3"; it is
    empty after an empty query or a suspended portal. A large result is kept as received, and each access to a row makes
    the tuple anew: use `list(rows)` to make all tuples once.
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
        """The row count in the command tag; None if the tag has none ("CREATE TABLE")."""
        count = self.command_tag.rpartition(" ")[2]
        return int(count) if count.isascii() and count.isdigit() and len(count) <= 20 else None  # uint64 in the server

    def __eq__(self, other: object) -> bool:
        """Whether `other` is a Rows, a list or a tuple with equal rows."""
        if not isinstance(other, (Rows, list, tuple)):
            return NotImplemented
        return len(self) == len(other) and all(mine == theirs for mine, theirs in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<Rows {self.command_tag!r}: {len(self)} rows of {len(self.fields)} columns>"
