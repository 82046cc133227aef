"""PgError, the server's ErrorResponse as an exception. Its text looks like psql's."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from ..errors import Outcome, PgWireError

if TYPE_CHECKING:
    from .rows import Rows

# libpq's fe-protocol3.c, reportErrorPosition: the most screen columns of a line, and the fewest shown to the right of
# the error position.
DISPLAY_COLUMNS = 60
MIN_RIGHT_COLUMNS = 10
# Characters examined on each side of the position: a statement may be a single line of megabytes.
REACH_CHARS = 10 * DISPLAY_COLUMNS


# On a crash or an immediate shutdown the server gives its reason as a notice: crash_shutdown, admin_shutdown.
SHUTDOWN_NOTICES = ("57P02", "57P01")


class PgError(PgWireError):
    """An error or notice from the server, with all eighteen fields of ErrorResponse. `str()` reads like psql.

    `code` is the SQLSTATE. Any field may be missing (poolers omit some): `severity` is then "ERROR", `code` and
    `message` are empty, and the others are None. `fields` has the fields received, by their letter. `sql` is the
    statement, if it is known. `partial` has the results of the earlier statements of a simple query. Source: protocol
    chapter, "Error and Notice Message Fields".
    """

    partial: list[Rows]

    def __init__(
        self, fields: Iterable[tuple[str, str]], outcome: Outcome = Outcome.UNKNOWN, sql: str | None = None
    ) -> None:
        self.fields: dict[str, str] = {}
        for letter, text in fields:
            self.fields.setdefault(letter, text.encode("utf-8", "surrogateescape").decode("utf-8", "replace"))
        super().__init__(outcome=outcome)
        self.args = (tuple(self.fields.items()), outcome, sql)
        self.sql = sql
        self.partial = []
        get = self.fields.get
        self.severity_localized = get("S", "ERROR")
        self.severity = get("V", self.severity_localized)
        self.code = get("C", "")
        self.message = get("M", "")
        self.detail = get("D")
        self.hint = get("H")
        self.position = _int(get("P"))
        self.internal_position = _int(get("p"))
        self.internal_query = get("q")
        self.where = get("W")
        self.schema_name = get("s")
        self.table_name = get("t")
        self.column_name = get("c")
        self.data_type_name = get("d")
        self.constraint_name = get("n")
        self.file = get("F")
        self.line = get("L")
        self.routine = get("R")

    @property
    def is_fatal(self) -> bool:
        """Whether the server ends the session with this error: its severity is FATAL or PANIC."""
        return self.severity in ("FATAL", "PANIC")

    def __str__(self) -> str:
        lines = [f"{self.severity_localized}:  {self.message}"]
        lines += point_at(self.sql, self.position) or point_at(self.internal_query, self.internal_position)
        more = (("DETAIL", self.detail), ("HINT", self.hint), ("QUERY", self.internal_query), ("CONTEXT", self.where))
        lines += [f"{label}:  {text}" for label, text in more if text]
        return "\n".join(lines)


def _int(text: str | None) -> int | None:
    return int(text) if text is not None and text.isascii() and text.isdigit() and len(text) < 10 else None


def point_at(sql: str | None, position: int | None) -> list[str]:
    """The line of `sql` with the character at `position`, counted from 1, and a line with a caret under it.

    A long line is cut to DISPLAY_COLUMNS. Returns an empty list without a position in `sql`.
    """
    if not sql or not position or position > len(sql) + 1:
        return []
    before = sql[: position - 1].replace("\r\n", "\n").replace("\r", "\n")
    at = len(before) - before.rfind("\n") - 1
    line = sql[position - 1 - at :].splitlines()[0] if sql[position - 1 - at :] else ""
    start, end = _window(line, at)
    label = f"LINE {before.count(chr(10)) + 1}: " + ("..." if start else "")
    indent = len(label) + sum(_width(char) for char in line[start:at])
    shown = line[start:end].replace("\t", " ")
    return [label + shown + ("..." if end < len(line) else ""), " " * indent + "^"]


def _window(line: str, at: int) -> tuple[int, int]:
    """The start and the end of the part of `line` to show, so that it contains the character at `at`."""
    base = max(0, at - REACH_CHARS)
    widths = [_width(char) for char in line[base : at + REACH_CHARS]]
    left, total = sum(widths[: at - base]), sum(widths)
    start, end = 0, len(widths)
    if len(widths) == len(line) and total <= DISPLAY_COLUMNS:
        return start, end
    if base == 0 and left + MIN_RIGHT_COLUMNS <= DISPLAY_COLUMNS:  # cutting on the right is enough
        while total > DISPLAY_COLUMNS:
            end -= 1
            total -= widths[end]
        return start, end
    while left + MIN_RIGHT_COLUMNS < total:
        end -= 1
        total -= widths[end]
    while total > DISPLAY_COLUMNS:
        total -= widths[start]
        start += 1
    return base + start, base + end


def _width(char: str) -> int:
    """Screen columns of one character."""
    if char.isascii():
        return 1
    from unicodedata import combining, east_asian_width  # needed only where such an error is shown

    if combining(char):
        return 0
    return 2 if east_asian_width(char) in "WF" else 1
