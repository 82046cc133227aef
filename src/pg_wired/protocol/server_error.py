"""PgError: the server's ErrorResponse as an exception, shown as psql shows it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from ..errors import Outcome, PgWireError

if TYPE_CHECKING:
    from .rows import Rows

# libpq's fe-protocol3.c, reportErrorPosition: screen columns that a line may take, and those kept behind the error.
DISPLAY_COLUMNS = 60
MIN_RIGHT_COLUMNS = 10
# Characters looked at on either side: a statement may be one line of megabytes.
REACH_CHARS = 10 * DISPLAY_COLUMNS


# On a crash or an immediate shutdown the server gives its reason as a notice: crash_shutdown, admin_shutdown.
SHUTDOWN_NOTICES = ("57P02", "57P01")


class PgError(PgWireError):
    """The server's ErrorResponse: SQLSTATE in `code`, and all eighteen fields; `str()` reads like psql.

    Every field may be missing (poolers leave some out): then `severity` is "ERROR", `code` and `message` are empty and
    the others None. `fields` keeps what came, by letter. `partial` holds the results of a simple query's earlier
    statements.
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
        """Whether the server ends the session with it."""
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
    """The line that holds the character `position` (counted from 1) and a caret under it, cut to fit; or nothing."""
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
    """From where to where the line is shown, that the character at `at` is among it."""
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
    from unicodedata import combining, east_asian_width  # needed only where an error is shown

    if combining(char):
        return 0
    return 2 if east_asian_width(char) in "WF" else 1
