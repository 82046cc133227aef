"""The hot decoder: runs of DataRow and CopyData. Knows no requests; reads only bytes it has checked to be there."""

from __future__ import annotations

from ..error import ProtocolError
from . import octets
from .types import Row


def rows(p: bytearray, i: int, end: int, columns: int, out: list[Row] | None) -> int:
    """Append the complete DataRow messages that begin at `i` to `out`, or only check them where it is None.

    Returns the position behind the last of them. Raises ProtocolError where a count or a length does not fit (chapter
    "Message Formats", DataRow), before any of that row is kept.
    """
    while i + 7 <= end and p[i] == 68:  # D
        stop = i + 1 + octets.get_i32(p, i + 1)
        if stop > end:
            break
        if stop < i + 7:
            raise ProtocolError(f"DataRow of {stop - i - 1} bytes has no room for its column count")
        count = octets.get_u16(p, i + 5)
        if count != columns and columns != octets.ANY_COUNT:
            raise ProtocolError(f"DataRow has {count} columns where {columns} were described")
        if stop - i - 7 < 4 * count:
            raise ProtocolError(f"DataRow of {stop - i - 1} bytes cannot hold {count} columns")
        i += 7
        row = octets.new_row(count if out is not None else 0)
        for column in range(count):
            if stop - i < 4:
                raise ProtocolError("DataRow ends before its last column")
            n = octets.get_i32(p, i)
            i += 4
            if n > stop - i or n < -1:
                raise ProtocolError(f"DataRow has a column of {n} bytes where {stop - i} are left")
            if out is not None:
                octets.set_cell(row, column, p, i, n)
            if n > 0:
                i += n
        if i != stop:
            raise ProtocolError(f"DataRow has {stop - i} bytes behind its last column")
        if out is not None:
            out.append(octets.seal(row))
    return i


def data(p: bytearray, i: int, end: int, out: bytearray) -> int:
    """Append what the complete CopyData messages that begin at `i` hold to `out`; returns the position behind them."""
    at = i
    total = 0
    while end - at >= 5 and p[at] == 100:  # d
        stop = at + 1 + octets.get_i32(p, at + 1)
        if stop > end or stop < at + 5:
            break
        total += stop - at - 5
        at = stop
    j = len(out)
    q = octets.grow(out, total)
    while i < at:
        n = octets.get_i32(p, i + 1) - 4
        j = octets.put_part(q, j, p, i + 5, n)
        i += 5 + n
    return at
