"""The line of a statement that an error points at, as psql shows it. Knows nothing of errors."""

from __future__ import annotations

from unicodedata import combining, east_asian_width

# libpq's fe-protocol3.c, reportErrorPosition: screen columns that a line may take, and those kept behind the error.
DISPLAY_SIZE = 60
MIN_RIGHT_CUT = 10


def point_at(sql: str | None, position: int | None) -> list[str]:
    """The line that holds the character `position` (counted from 1) and a caret under it, cut to fit; or nothing."""
    if not sql or not position or position > len(sql) + 1:
        return []
    before = sql[: position - 1].replace("\r\n", "\n").replace("\r", "\n")
    at = len(before) - before.rfind("\n") - 1
    line = sql[position - 1 - at :].splitlines()[0] if sql[position - 1 - at :] else ""
    start, end = _window([_width(char) for char in line], at)
    label = f"LINE {before.count(chr(10)) + 1}: " + ("..." if start else "")
    indent = len(label) + sum(_width(char) for char in line[start:at])
    shown = line[start:end].replace("\t", " ")
    return [label + shown + ("..." if end < len(line) else ""), " " * indent + "^"]


def _window(widths: list[int], at: int) -> tuple[int, int]:
    """From where to where a line of characters so wide is shown, that the one at `at` is among them."""
    start, end = 0, len(widths)
    if sum(widths) <= DISPLAY_SIZE:
        return start, end
    left = sum(widths[:at])
    if left + MIN_RIGHT_CUT <= DISPLAY_SIZE:  # cutting on the right is enough
        while sum(widths[:end]) > DISPLAY_SIZE:
            end -= 1
        return start, end
    while left + MIN_RIGHT_CUT < sum(widths[:end]):
        end -= 1
    while sum(widths[start:end]) > DISPLAY_SIZE:
        start += 1
    return start, end


def _width(char: str) -> int:
    """Screen columns of one character."""
    if combining(char):
        return 0
    return 2 if east_asian_width(char) in "WF" else 1
