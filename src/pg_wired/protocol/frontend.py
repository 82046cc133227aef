"""The fast encoder for Bind, Execute and Sync, which writes directly to the send buffer; and checks of arguments."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Any

from ..errors import ConfigError
from . import octets
from .octets import LONG_LIMIT_BYTES
from .types import FormatCode, Oid, Value

# Bind counts its parameters in 16 bits (chapter "Message Formats").
MAX_PARAMETERS = 65_535
# Bytes left for values or SQL, next to names, counts, and for each parameter a length or OID and two format codes.
_ROOM = LONG_LIMIT_BYTES - 8 * MAX_PARAMETERS - 1024

_PORTAL = b"\0"  # the unnamed portal, and the unnamed statement
EXECUTE = b"E\0\0\0\x09\0\0\0\0\0"  # all rows of the unnamed portal
DESCRIBE_EXECUTE = b"D\0\0\0\x06P\0" + EXECUTE
SYNC = b"S\0\0\0\x04"
ALL_TEXT = b"\0\0"  # no format codes: all values are text
ALL_BINARY = b"\0\1\0\1"


def values(params: Sequence[Value]) -> tuple[bytes | None, ...]:
    """A copy of the parameters as bytes or None. A str is encoded as UTF-8.

    Raises TypeError for other types and for `params` that are not a sequence. Raises ConfigError for too many
    parameters or bytes, and for a str that cannot be encoded.
    """
    if type(params) is not tuple and type(params) is not list:
        _check_order(params)
    taken: tuple[Any, ...] = tuple(params)
    if len(taken) > MAX_PARAMETERS:
        raise ConfigError(f"{len(taken)} parameters: PostgreSQL takes at most {MAX_PARAMETERS}")
    total = 0
    plain = True
    for value in taken:
        if value is not None:
            if type(value) is not bytes:
                plain = False
                break
            total += len(value)
    if not plain:
        encoded: list[bytes | None] = []
        total = 0
        for value in taken:
            if type(value) is str and value.isascii():
                value = value.encode()
            elif value is not None and type(value) is not bytes:
                value = _value(len(encoded) + 1, value)
            encoded.append(value)
            if value is not None:
                total += len(value)
        taken = tuple(encoded)
    if total > _ROOM:
        raise ConfigError(f"parameters of {total} bytes: a message may have at most {LONG_LIMIT_BYTES} bytes")
    return taken


def _check_order(params: object) -> None:
    """Raise TypeError if `params` is a single value, or has no order that could be that of $1, $2."""
    if params is None:
        raise TypeError("params is None: leave it out where there are none, or pass (None,) for a single NULL")
    if isinstance(params, (str, bytes, bytearray, memoryview)) or not isinstance(params, Iterable):
        raise TypeError(f"params is a sequence of values, not {type(params).__name__}: pass (value,) for a single one")
    if isinstance(params, (Mapping, Set)):
        raise TypeError(f"params is {type(params).__name__}: values are given by position, $1 first; pass a sequence")


def _value(number: int, value: object) -> bytes:
    if isinstance(value, str):
        try:
            return str.encode(
                value
            )  # a subclass may have its own encode() and __bytes__(), with other types or lengths
        except UnicodeEncodeError as error:
            raise ConfigError(f"parameter ${number} cannot be sent as UTF-8: {error.reason}") from error
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(memoryview(value))
    raise TypeError(
        f"parameter ${number} is {type(value).__name__}: pass bytes, bytearray, memoryview, str (sent as UTF-8) or None"
    )


def formats(codes: int | Sequence[int], what: str) -> bytes:
    """Encode format codes as in Bind: their count, then each code. A single code applies to all values."""
    if isinstance(codes, int):
        if type(codes) is not bool and (codes == 0 or codes == 1):
            return ALL_BINARY if codes else ALL_TEXT
        codes = (codes,)  # not a FormatCode: `_format` raises the error
    listed = [_format(code, what) for code in codes]
    if len(listed) > MAX_PARAMETERS:
        raise ConfigError(f"{what} has {len(listed)} codes: PostgreSQL takes at most {MAX_PARAMETERS}")
    return b"".join([n.to_bytes(2, "big") for n in [len(listed), *listed]])


def _format(code: object, what: str) -> int:
    if isinstance(code, bool) or not isinstance(code, int) or code not in (FormatCode.TEXT, FormatCode.BINARY):
        raise ConfigError(f"{what} has {code!r}: pass FormatCode.TEXT or FormatCode.BINARY")
    return int(code)


def check_count(codes: bytes, count: int, what: str) -> None:
    """Raise ConfigError unless there are no format codes, one for all values, or one for each of `count` values."""
    n = octets.get_u16(codes, 0)
    if n > 1 and n != count:
        raise ConfigError(f"{what} has {n} codes for {count} values: pass one for all, or one for each")


def oids(param_oids: Iterable[Oid]) -> tuple[Oid, ...]:
    """The OIDs of the parameter types as a tuple; for 0 the server infers the type. ConfigError for an invalid OID."""
    taken = tuple(param_oids)
    if len(taken) > MAX_PARAMETERS:
        raise ConfigError(f"{len(taken)} parameter OIDs: PostgreSQL takes at most {MAX_PARAMETERS}")
    for oid in taken:
        if isinstance(oid, bool) or not isinstance(oid, int) or not 0 <= oid < 1 << 32:
            raise ConfigError(f"param_oids has {oid!r}: an OID is an int from 0 to 4294967295")
    return taken


def text(sql: str, what: str) -> str:
    """Return `sql` if it can be sent. `what` names it in errors.

    Raises TypeError if it is not a str. Raises ConfigError if it has a NUL, cannot be encoded as UTF-8 or is too long.
    """
    if type(sql) is not str:
        if not isinstance(sql, str):
            raise TypeError(f"{what} is {type(sql).__name__}: pass a str")
        sql = str.__str__(sql)
    if "\0" in sql:
        raise ConfigError(f"{what} has a NUL character at {sql.index(chr(0))}: PostgreSQL ends a string there")
    n = len(sql)
    if not sql.isascii():
        try:
            n = len(sql.encode())
        except UnicodeEncodeError as error:
            raise ConfigError(f"{what} cannot be sent as UTF-8: {error.reason} at {error.start}") from error
    if n > _ROOM:
        raise ConfigError(f"{what} has {n} bytes: a message may have at most {LONG_LIMIT_BYTES}")
    return sql


def query(sql: str) -> bytes:
    """Encode a simple Query. `text` must have checked the SQL."""
    body = sql.encode()
    out = bytearray(b"Q")
    q = octets.grow(out, len(body) + 5)
    octets.put_bytes(q, octets.put_i32(q, 1, len(body) + 5), body)
    q[len(body) + 5] = 0
    return bytes(out)


def bind_head(name: str, param_formats: bytes, count: int) -> bytes:
    """The part of a Bind between its length and its values: portal, statement, format codes and parameter count."""
    return _PORTAL + name.encode() + b"\0" + param_formats + count.to_bytes(2, "big")


def bind(out: bytearray, head: bytes, params: tuple[bytes | None, ...], result_formats: bytes, tail: bytes) -> None:
    """Append a Bind and the encoded messages in `tail`.

    Lengths are added up before the first byte is written, so that `out` never has a part of a message.
    """
    n = 4 + len(head) + len(result_formats)
    for value in params:
        n += 4
        if value is not None:
            n += len(value)
    i = len(out)
    q = octets.grow(out, 1 + n + len(tail))
    q[i] = 66  # B
    i = octets.put_i32(q, i + 1, n)
    i = octets.put_bytes(q, i, head)
    for value in params:
        if value is None:
            i = octets.put_i32(q, i, -1)
        else:
            i = octets.put_i32(q, i, len(value))
            i = octets.put_bytes(q, i, value)
    i = octets.put_bytes(q, i, result_formats)
    octets.put_bytes(q, i, tail)


def copy_data(out: bytearray, data: bytes | bytearray | memoryview) -> None:
    """Append a CopyData, either completely or not at all. A memoryview must have items of one byte."""
    i = len(out)
    n = len(data)
    q = octets.grow(out, 5 + n)
    q[i] = 100  # d
    octets.put_i32(q, i + 1, 4 + n)
    out[i + 5 :] = data
