"""Encodes and decodes rows in the binary format of COPY. It knows no messages. It checks each length before it reads.

Source: PostgreSQL's reference page of COPY, "Binary Format".
"""

from __future__ import annotations

from typing import Any

from ..errors import ConfigError, ProtocolError
from . import octets
from .types import Row

SIGNATURE = b"PGCOPY\n\xff\r\n\0"
HEADER = SIGNATURE + b"\0\0\0\0" + b"\0\0\0\0"  # no flags, no header extension
TRAILER = b"\xff\xff"
MAX_COLUMNS = 32_767  # the count is an Int16


def append_row(out: bytearray, row: Any) -> None:
    """Append a row. Raises TypeError or ConfigError for an invalid row, and then leaves `out` unchanged."""
    if isinstance(row, (str, bytes, bytearray)):
        raise TypeError(f"a row is a sequence of bytes and None, not {type(row).__name__}")
    values: tuple[Any, ...] = tuple(row)
    count = len(values)
    if count > MAX_COLUMNS:
        raise ConfigError(f"a row of {count} columns: COPY takes at most {MAX_COLUMNS}")
    n = 2 + 4 * count
    for value in values:
        if value is not None:
            if type(value) is not bytes:
                raise TypeError(f"a row has a value of {type(value).__name__}: pass bytes, or None")
            n += len(value)
    i = len(out)
    q = octets.grow(out, n)
    q[i] = count >> 8
    q[i + 1] = count & 255
    i += 2
    for value in values:
        if value is None:
            i = octets.put_i32(q, i, -1)
        else:
            i = octets.put_i32(q, i, len(value))
            i = octets.put_bytes(q, i, value)


class RowDecoder:
    """Decodes rows from the data of a binary COPY, which may be split at any byte."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self.size = 0  # bytes in all pieces
        self.need = 0  # bytes needed before decoding can continue: a long value may arrive in many pieces
        self.has_header = False
        self.has_trailer = False

    def feed(self, data: bytes) -> list[Row]:
        """Take the next part of the data, and return the rows that are now complete. ProtocolError for invalid data."""
        rows: list[Row] = []
        self.pieces.append(data)
        self.size += len(data)
        if self.size < self.need:
            return rows
        data = b"".join(self.pieces)
        self.need = 0
        i = 0
        if not self.has_header:
            i = self.header(data)
        if self.has_header:
            i = self.rows(data, i, len(data), rows)
        self.pieces = [data[i : len(data)]]
        self.size = len(data) - i
        if self.has_trailer and self.size:
            raise ProtocolError("binary COPY goes on after its trailer")
        return rows

    def header(self, data: bytes) -> int:
        """Check the header, and return the position of the first row; 0 if more data is needed."""
        if not SIGNATURE.startswith(data[: len(SIGNATURE)]):
            raise ProtocolError("binary COPY does not begin with its signature")
        if len(data) < len(HEADER):
            return 0
        if octets.get_u16(data, 11):
            raise ProtocolError("binary COPY has a critical flag that is not known")
        n = octets.get_i32(data, 15)
        if n < 0:
            raise ProtocolError(f"binary COPY has a header extension of {n} bytes")
        if len(data) < len(HEADER) + n:
            return 0
        self.has_header = True
        return len(HEADER) + n

    def rows(self, p: bytes, i: int, end: int, rows: list[Row]) -> int:
        """Append the complete rows from `i` on to `rows`, and return the position of the first incomplete one."""
        while end - i >= 2 and not self.has_trailer:
            count = octets.get_u16(p, i)
            if count == 65535:
                self.has_trailer = True
                return i + 2
            if count > 32767:
                raise ProtocolError(f"binary COPY has a row of {count - 65536} columns")
            if end - i - 2 < 4 * count:
                break
            at = i + 2
            row = octets.new_row(count)
            for column in range(count):
                if end - at < 4:
                    return i
                n = octets.get_i32(p, at)
                at += 4
                if n < -1:
                    raise ProtocolError(f"binary COPY has a value of {n} bytes")
                if n > end - at:
                    self.need = at - i + n
                    return i
                octets.set_cell(row, column, p, at, n)
                if n > 0:
                    at += n
            rows.append(octets.seal(row))
            i = at
        return i

    def end(self) -> None:
        """Note the end of the data. Raises ProtocolError if the trailer is missing."""
        if not self.has_trailer:
            raise ProtocolError("binary COPY ended without its trailer")
