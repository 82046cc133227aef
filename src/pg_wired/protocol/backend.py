"""The fast decoder for DataRow and CopyData messages. It knows no requests.

The other functions for DataRow trust the lengths in the messages, so `check` must run first.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from ..errors import ProtocolError
from . import octets

if TYPE_CHECKING:
    from .types import Row


def check(p: bytearray, i: int, end: int, columns: int) -> int:
    """Check the complete DataRow messages that begin at `i`, and return the position after the last one.

    Each must have the given number of columns, or any with ANY_COUNT. Raises ProtocolError for a wrong count or length
    (chapter "Message Formats", DataRow).
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
        for _ in range(count):
            if stop - i < 4:
                raise ProtocolError("DataRow ends before its last column")
            n = octets.get_i32(p, i)
            i += 4
            if n > stop - i or n < -1:
                raise ProtocolError(f"DataRow has a column of {n} bytes where {stop - i} are left")
            if n > 0:
                i += n
        if i != stop:
            raise ProtocolError(f"DataRow has {stop - i} bytes after its last column")
    return i


def make(p: bytearray, i: int, end: int, limit: int, out: list[Row]) -> int:
    """Append at most `limit` rows of the checked DataRow messages from `i` on. Returns the position after them."""
    while i < end and limit > 0:
        limit -= 1
        count = octets.get_u16(p, i + 5)
        i += 7
        row = octets.new_row(count)
        for column in range(count):
            n = octets.get_i32(p, i)
            i += 4
            octets.set_cell(row, column, p, i, n)
            if n > 0:
                i += n
        out.append(octets.seal(row))
    return i


def count(p: bytearray, i: int, end: int) -> int:
    """Return the number of checked messages from `i` to `end`."""
    n = 0
    while i < end:
        i += 1 + octets.get_i32(p, i + 1)
        n += 1
    return n


def data(p: bytearray, i: int, end: int, out: bytearray) -> int:
    """Append the data of the complete CopyData messages that begin at `i`. Returns the position after them."""
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


def encode(rows: Iterable[Row]) -> bytearray:
    """Encode rows as DataRow messages with their headers: the inverse of `make`."""
    out = bytearray()
    for row in rows:
        cells = [b"\xff\xff\xff\xff" if cell is None else len(cell).to_bytes(4, "big") + cell for cell in row]
        body = len(row).to_bytes(2, "big") + b"".join(cells)
        out += b"D" + (4 + len(body)).to_bytes(4, "big") + body
    return out
