"""Rows: what every request returns. It holds what the server sent, and interprets nothing but the command tag."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import overload

from .types import FieldDescription, Row


class Rows(Sequence[Row]):
    """The rows of one statement, each a tuple of `bytes | None`; empty where the statement returned none.

    `fields` describes the columns, `command_tag` is the server's CommandComplete ("SELECT 3"), empty after an empty
    query or a portal that was suspended.
    """

    __slots__ = ("_rows", "command_tag", "fields")

    def __init__(self, fields: tuple[FieldDescription, ...], rows: list[Row], command_tag: str) -> None:
        self.fields = fields
        self._rows = rows
        self.command_tag = command_tag

    @property
    def rows_affected(self) -> int | None:
        """The number in the command tag; None where it has none ("CREATE TABLE")."""
        count = self.command_tag.rpartition(" ")[2]
        return int(count) if count.isascii() and count.isdigit() and len(count) <= 20 else None  # uint64 in the server

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> list[Row]: ...
    def __getitem__(self, index: int | slice) -> Row | list[Row]:
        return self._rows[index]

    def __iter__(self) -> Iterator[Row]:
        return iter(self._rows)

    def __eq__(self, other: object) -> bool:
        """Equal to any sequence of the same rows."""
        if isinstance(other, Rows):
            return self._rows == other._rows
        return self._rows == list(other) if isinstance(other, (list, tuple)) else NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<Rows {self.command_tag!r}: {len(self._rows)} rows of {len(self.fields)} columns>"
