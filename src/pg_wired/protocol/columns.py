"""The columns of a result in Arrow's variable-size binary layout: offsets, a validity bitmap and the bytes of values.

All columns of a result share one block of memory, which lives as long as any of them. Source: Arrow's "Columnar
Format", Variable-size Binary Layout and Validity bitmaps.
"""

from __future__ import annotations

from dataclasses import dataclass
from sys import byteorder
from typing import TYPE_CHECKING

from . import octets

if TYPE_CHECKING:
    from .records import FieldDescription

# Arrow recommends buffers that begin at a multiple of 64 bytes.
ALIGNMENT_BYTES = 64
# The largest signed 32-bit offset.
MAX_BODY_BYTES = 2**31 - 1


@dataclass(frozen=True, repr=False)
class Column:
    """One column of a result, with `count` values, of which `null_count` are NULL.

    Its three buffers are memoryviews, which Arrow can use without a copy. `data` has the bytes of all values in order;
    value n is `data[offsets[n] : offsets[n + 1]]`. `offsets` has count + 1 signed 32-bit integers in native byte order.
    In `validity`, bit n % 8 of byte n // 8 is 0 if value n is NULL. `field` describes the column, or is None if the
    result has no description.
    """

    field: FieldDescription | None
    count: int
    null_count: int
    data: memoryview
    offsets: memoryview
    validity: memoryview

    def __len__(self) -> int:
        return self.count

    def __repr__(self) -> str:
        name = self.field.name if self.field else ""
        return f"<Column {name!r}: {self.count} values, {self.null_count} of them NULL, {len(self.data)} bytes>"


def columns(p: bytearray, rows: int, fields: tuple[FieldDescription, ...]) -> tuple[Column, ...]:
    """Make the columns of `rows` checked DataRow messages in `p`, as many as the first row has.

    Raises ValueError for a column of more than MAX_BODY_BYTES, and for rows of different widths.
    """
    width = octets.get_u16(p, 5) if rows else len(fields)
    sizes, nulls = bytearray(8 * width), bytearray(8 * width)
    measure(p, rows, width, sizes, nulls)
    places: list[tuple[int, int, int]] = []
    end = 0
    for size in memoryview(sizes).cast("q"):
        if size > MAX_BODY_BYTES:
            raise ValueError(f"a column has {size} bytes, and offsets of 32 bits: take the batches of a stream")
        offsets = end
        validity = offsets + _aligned(4 * (rows + 1))
        data = validity + _aligned((rows + 7) // 8)
        end = data + _aligned(size)
        places.append((offsets, validity, data))
    room = bytearray(end)
    begins = bytearray(b"".join([place.to_bytes(8, byteorder) for triple in places for place in triple]))
    fill(p, rows, width, room, begins)
    view = memoryview(room)
    return tuple(
        [
            Column(
                field=fields[number] if number < len(fields) else None,
                count=rows,
                null_count=null_count,
                data=view[data : data + size],
                offsets=view[offsets : offsets + 4 * (rows + 1)].cast("i"),
                validity=view[validity : validity + (rows + 7) // 8],
            )
            for number, ((offsets, validity, data), size, null_count) in enumerate(
                zip(places, memoryview(sizes).cast("q"), memoryview(nulls).cast("q"), strict=True)
            )
        ]
    )


def _aligned(n: int) -> int:
    return (n + ALIGNMENT_BYTES - 1) // ALIGNMENT_BYTES * ALIGNMENT_BYTES


def measure(p: bytearray, rows: int, width: int, sizes: bytearray, nulls: bytearray) -> None:
    """Add up the bytes and count the NULLs of each column, into arrays of 64-bit integers."""
    size = octets.longs(sizes)
    null = octets.longs(nulls)
    i = 0
    for row in range(rows):
        count = octets.get_u16(p, i + 5)
        if count != width:
            raise ValueError(f"row {row} has {count} columns where the first has {width}")
        i += 7
        for column in range(width):
            n = octets.get_i32(p, i)
            i += 4
            if n < 0:
                null[column] += 1
            else:
                size[column] += n
                i += n


def fill(p: bytearray, rows: int, width: int, room: bytearray, begins: bytearray) -> None:
    """Copy each value into its column. `begins` has the positions of its offsets, validity and data in `room`."""
    q = octets.grow(room, 0)
    begin = octets.longs(begins)
    moved = bytearray(begins)
    ends = octets.longs(moved)
    i = 0
    for row in range(rows):
        i += 7
        byte = row // 8
        bit = 1 << row % 8
        for column in range(width):
            n = octets.get_i32(p, i)
            i += 4
            at = ends[3 * column + 2]
            if n >= 0:
                at = octets.put_short(q, at, p, i, n)
                i += n
                ends[3 * column + 2] = at
                q[begin[3 * column + 1] + byte] |= bit
            octets.put_native(q, begin[3 * column] + 4 * (row + 1), at - begin[3 * column + 2])
