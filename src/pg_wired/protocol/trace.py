"""Formats a message as one line of text, like libpq's PQtrace without its timestamp. It writes no file, keeps no state.

Sources: fe-trace.c of PostgreSQL 19 (18 does not hide ParameterStatus in regress mode), and the traces of its test
module libpq_pipeline. Differences from libpq:

- Secrets (passwords, SASL and GSSAPI data, cancel keys) are always hidden as in regress mode; libpq shows them in its
  normal mode. The length of a password is hidden too.
- Control characters in a string, and bytes that are not UTF-8, are shown as `\\xNN`, so that a message stays one line.
- AuthenticationMD5Password shows its salt, which libpq omits.
"""

from __future__ import annotations

import struct
from typing import Any, Literal

from . import schema
from .messages import (
    AuthenticationSASL,
    ErrorResponse,
    FrontendMessage,
    Message,
    NoticeResponse,
    ParameterStatus,
    PasswordMessage,
    StartupMessage,
    StartupRequest,
    encode,
)
from .schema import Array, Bytes, Char, Int, Layout, Record, Secret, String, Value, Varies

# Regress mode hides the position in the server's source code, and the lengths that depend on the server.
_SOURCE_FIELDS = "FLR"
_VARYING_LENGTH = (ErrorResponse, NoticeResponse, ParameterStatus, StartupMessage)
# The text for the zero byte at the end of a list. For StartupMessage, libpq shows none.
_ENDS: dict[type[Message], str] = {ErrorResponse: r" \x00", NoticeResponse: r" \x00", AuthenticationSASL: ' ""'}


def trace_line(message: Message, *, sender: Literal["F", "B"] | None = None, regress: bool = False) -> str:
    """Return a line with `F` or `B`, the length, the name and the fields of a message, separated by tabs.

    `sender` is needed only for CopyData and CopyDone, which both sides send; without it they count as the frontend's.
    `regress` hides values that differ from server to server, as PQTRACE_REGRESS_MODE does.
    """
    sender = sender or ("F" if isinstance(message, FrontendMessage) else "B")
    length = len(encode(message)) - (message.tag is not None)
    hides_length = isinstance(message, PasswordMessage) or (regress and isinstance(message, _VARYING_LENGTH))
    fields = _fields(message, regress)
    return f"{sender}\t{'NN' if hides_length else length}\t{type(message).__name__}" + (f"\t{fields}" if fields else "")


def _fields(message: Message, regress: bool) -> str:
    if regress and isinstance(message, ErrorResponse | NoticeResponse):
        message = type(message)(
            tuple((letter, "SSSS" if letter in _SOURCE_FIELDS else text) for letter, text in message.fields)
        )
    # The codes of startup requests are shown, as protocol versions. The codes of other messages are not shown.
    code = struct.unpack(">HH", message.code) if isinstance(message, StartupRequest) and message.code else ()
    shown = [f" {part}" for part in code]
    for name, layout in schema.fields_of(type(message)):
        shown.append(_show(layout, getattr(message, name), regress, hidden=False))
    return "".join(shown) + _ENDS.get(type(message), "")


def _show(layout: Layout, value: Any, regress: bool, hidden: bool) -> str:
    match layout:
        case Secret():
            return _show(layout.inner, value, regress, hidden=True)
        case Varies():
            return _show(layout.inner, value, regress, hidden=hidden or regress)
        case Int(size=1):
            return " " + _byte(value)
        case Int():
            return " NNNN" if hidden else f" {_number(layout, value)}"
        case Char():
            return " " + _byte(ord(value))
        case String():
            return ' "SSSS"' if hidden else f' "{"".join(map(_character, value))}"'
        case Bytes():
            return " 'BBBB'" if hidden else f" '{''.join(map(_byte, value))}'"
        case Value():
            return " -1" if value is None else f" {len(value)}" + _show(Bytes(), value, regress, hidden)
        case Record(items=items):
            return "".join(_show(item, part, regress, hidden) for item, part in zip(items, value, strict=True))
        case Array(item=item):
            return f" {len(value)}" + "".join(_show(item, part, regress, hidden) for part in value)
        case _:
            return "".join(_show(layout.item, part, regress, hidden) for part in value)


def _number(layout: Int, value: int) -> int:
    """The number that libpq shows: Int16 as unsigned, Int32 as signed."""
    data: list[bytes] = []
    layout.write(value, data)
    return int.from_bytes(data[0], "big", signed=layout.size == 4)


def _byte(value: int) -> str:
    return chr(value) if 32 <= value < 127 else f"\\x{value:02x}"


def _character(value: str) -> str:
    return value if value.isprintable() else "".join(map(_byte, value.encode("utf-8", "surrogateescape")))
