"""Low-level functions on bytes, in Python. `octets.pxd` has the same functions in C, for the compiled build.

`p` is a buffer to read from, `q` a buffer to write to (pointers in the compiled build), `i` a position and `n` a
length. The `put_` functions, except `put_native`, return the position after what they wrote. No function checks bounds:
the caller must.
"""

from __future__ import annotations

from sys import byteorder
from typing import Any


def get_u16(p: bytearray | bytes, i: int) -> int:
    return p[i] << 8 | p[i + 1]


def get_i32(p: bytearray | bytes, i: int) -> int:
    return int.from_bytes(p[i : i + 4], "big", signed=True)


def get_bytes(p: bytearray | bytes, i: int, n: int) -> bytes:
    return bytes(p[i : i + n])


def get_text(p: bytearray | bytes, i: int, n: int, errors: str) -> str:
    """Decode `n` bytes as UTF-8. `errors` is the error handler for invalid bytes, as in `bytes.decode`."""
    return p[i : i + n].decode("utf-8", errors)


def find_nul(p: bytearray | bytes, i: int, end: int) -> int:
    """The position of the first NUL from `i` on and before `end`; -1 if there is none."""
    return p.find(0, i, end)


def begins_with(p: bytearray | bytes, n: int, head: bytes) -> bool:
    """Whether the first `n` bytes of `p` begin with `head`."""
    return p[:n].startswith(head)


def grow(out: bytearray, n: int) -> bytearray:
    """Extend `out` by `n` bytes, and return it for writing. The result is valid until `out` changes its size."""
    out.extend(bytes(n))
    return out


def drop(out: bytearray, n: int) -> None:
    """Remove the first `n` bytes of `out`."""
    del out[:n]


def put_i32(q: bytearray, i: int, n: int) -> int:
    q[i : i + 4] = n.to_bytes(4, "big", signed=True)
    return i + 4


def put_bytes(q: bytearray, i: int, data: bytes) -> int:
    q[i : i + len(data)] = data
    return i + len(data)


def put_part(q: bytearray, i: int, p: bytearray | bytes, j: int, n: int) -> int:
    """Copy `n` bytes of `p`, from `j` on, to `q`."""
    q[i : i + n] = p[j : j + n]
    return i + n


def put_short(q: bytearray, i: int, p: bytearray | bytes, j: int, n: int) -> int:
    """The same as `put_part`, optimised for small `n`."""
    q[i : i + n] = p[j : j + n]
    return i + n


def put_native(q: bytearray, i: int, n: int) -> None:
    """Write a signed 32-bit integer in native byte order."""
    q[i : i + 4] = n.to_bytes(4, byteorder, signed=True)


def longs(room: bytearray) -> memoryview:
    """A view of `room` as signed 64-bit integers in native byte order. Valid as long as `room` exists."""
    return memoryview(room).cast("q")


def new_row(columns: int) -> list[bytes | None]:
    return [None] * columns


def set_cell(row: list[bytes | None], column: int, p: bytearray | bytes, i: int, n: int) -> None:
    """Set a cell to `n` bytes of `p`, from `i` on; to None if `n` is negative, which means NULL."""
    row[column] = bytes(p[i : i + n]) if n >= 0 else None


def seal(row: list[bytes | None]) -> tuple[bytes | None, ...]:
    """Return the finished row as a tuple."""
    return tuple(row)


def new_record(cls: type[Any], first: object, second: object, third: object) -> Any:
    """Make a NamedTuple of three fields without calling its constructor, which is a Python function."""
    return tuple.__new__(cls, (first, second, third))


# ---- limits and special values that compiled modules compare with

# Only these messages may be longer than 30,000 bytes. That is libpq's rule (fe-protocol3.c, VALID_LONG_MESSAGE_TYPE)
# with `t` added, which has 262,146 bytes for 65,535 parameters.
LONG_MESSAGES = "TDdENAt"
SHORT_LIMIT_BYTES = 30_000
# PostgreSQL's limit for a message (PQ_LARGE_MESSAGE_LIMIT, MaxAllocSize - 1).
LONG_LIMIT_BYTES = 0x3FFFFFFE
# Limits for encoded bytes that wait for the socket. From the high limit on, further requests are not encoded until
# fewer bytes than the low limit are left.
HIGH_WATER_BYTES = 1024 * 1024
LOW_WATER_BYTES = HIGH_WATER_BYTES // 2
# Special values of a request's `columns`: no DataRow may arrive; each row may have any number of columns, because there
# is no description to check it against.
NO_ROWS = -2
ANY_COUNT = -1
# `start` of a request that is not encoded: larger than any count of bytes.
NEVER = 1 << 62
