"""The machine verbs, in Python; `octets.pxd` says the same in C. Only here do the two builds differ.

`p` is bytes being read, `q` bytes being written (compiled: pointers), `i` a position, `n` a length. No verb checks
bounds: the caller has.
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
    """UTF-8; `errors` says what becomes of what is none."""
    return p[i : i + n].decode("utf-8", errors)


def find_nul(p: bytearray | bytes, i: int, end: int) -> int:
    """Where the first NUL from `i` on stands, before `end`; -1 without one."""
    return p.find(0, i, end)


def begins_with(p: bytearray | bytes, n: int, head: bytes) -> bool:
    """Whether the `n` bytes of `p` begin with these."""
    return p[:n].startswith(head)


def grow(out: bytearray, n: int) -> bytearray:
    """Make `out` longer by `n` bytes; what comes back is written to, and valid until `out` changes size."""
    out.extend(bytes(n))
    return out


def drop(out: bytearray, n: int) -> None:
    """Make `out` shorter by its first `n` bytes."""
    del out[:n]


def put_i32(q: bytearray, i: int, n: int) -> int:
    q[i : i + 4] = n.to_bytes(4, "big", signed=True)
    return i + 4


def put_bytes(q: bytearray, i: int, data: bytes) -> int:
    q[i : i + len(data)] = data
    return i + len(data)


def put_part(q: bytearray, i: int, p: bytearray | bytes, j: int, n: int) -> int:
    """Put the `n` bytes of `p` from `j` on."""
    q[i : i + n] = p[j : j + n]
    return i + n


def put_short(q: bytearray, i: int, p: bytearray | bytes, j: int, n: int) -> int:
    """The same, where `n` is mostly small."""
    q[i : i + n] = p[j : j + n]
    return i + n


def put_native(q: bytearray, i: int, n: int) -> None:
    """Put an integer of 32 bits in the machine's own order."""
    q[i : i + 4] = n.to_bytes(4, byteorder, signed=True)


def longs(room: bytearray) -> memoryview:
    """Its bytes as integers of 64 bits in the machine's own order; valid while somebody holds `room`."""
    return memoryview(room).cast("q")


def new_row(columns: int) -> list[bytes | None]:
    return [None] * columns


def set_cell(row: list[bytes | None], column: int, p: bytearray | bytes, i: int, n: int) -> None:
    """Put `n` bytes into a cell; NULL where `n` is negative."""
    row[column] = bytes(p[i : i + n]) if n >= 0 else None


def seal(row: list[bytes | None]) -> tuple[bytes | None, ...]:
    """The finished row."""
    return tuple(row)


def new_record(cls: type[Any], first: object, second: object, third: object) -> Any:
    """A NamedTuple of three fields, without the call of Python's that its constructor is."""
    return tuple.__new__(cls, (first, second, third))


# ---- limits and marks that compiled modules compare with

# libpq's rule (fe-protocol3.c, VALID_LONG_MESSAGE_TYPE): only these may be longer than 30,000 bytes, and `t`, which
# 65,535 parameters make 262,146 bytes long.
LONG_MESSAGES = "TDdENAt"
SHORT_LIMIT_BYTES = 30_000
# PostgreSQL's own limit of a message (PQ_LARGE_MESSAGE_LIMIT, MaxAllocSize - 1).
LONG_LIMIT_BYTES = 0x3FFFFFFE
# Encoded bytes that wait for the socket; requests beyond wait as objects, until it has taken all but so many.
HIGH_WATER_BYTES = 1024 * 1024
LOW_WATER_BYTES = HIGH_WATER_BYTES // 2
# A request's `columns` where no DataRow may come, and where each row's own count counts, for want of a description.
NO_ROWS = -2
ANY_COUNT = -1
# `begin` of a request that is not encoded: no count of bytes gets there.
NEVER = 1 << 62
