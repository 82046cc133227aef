"""The line of a statement that an error points at, as psql shows it. Knows nothing of errors."""

from __future__ import annotations

from unicodedata import combining, east_asian_width

# libpq's fe-protocol3.c, reportErrorPosition: screen columns that a line may take, and those kept behind the error.
DISPLAY_SIZE = 60
MIN_RIGHT_CUT = 10
# Characters looked at on either side: a statement may be one line of megabytes.
REACH = 10 * DISPLAY_SIZE


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
    base = max(0, at - REACH)
    widths = [_width(char) for char in line[base : at + REACH]]
    left, total = sum(widths[: at - base]), sum(widths)
    start, end = 0, len(widths)
    if len(widths) == len(line) and total <= DISPLAY_SIZE:
        return start, end
    if base == 0 and left + MIN_RIGHT_CUT <= DISPLAY_SIZE:  # cutting on the right is enough
        while total > DISPLAY_SIZE:
            end -= 1
            total -= widths[end]
        return start, end
    while left + MIN_RIGHT_CUT < total:
        end -= 1
        total -= widths[end]
    while total > DISPLAY_SIZE:
        total -= widths[start]
        start += 1
    return base + start, base + end


def _width(char: str) -> int:
    """Screen columns of one character."""
    if combining(char):
        return 0
    return 2 if east_asian_width(char) in "WF" else 1
