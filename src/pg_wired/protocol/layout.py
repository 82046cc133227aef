"""The kinds of fields that messages are made of: each writes and reads one value. Knows no message and no trace.

A value that does not fit is a ValueError in both directions; `messages` says whose fault that is, and in which field.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Any, TypeAlias


class Body:
    """The bytes of one message body, being read."""

    __slots__ = ("data", "i")

    def __init__(self, data: bytes, i: int) -> None:
        self.data = data
        self.i = i

    @property
    def left(self) -> int:
        return len(self.data) - self.i

    def take(self, n: int) -> bytes:
        if n > self.left:
            raise ValueError(f"{n} bytes are due where {self.left} are left")
        self.i += n
        return self.data[self.i - n : self.i]

    def take_string(self) -> bytes:
        end = self.data.find(0, self.i)
        if end < 0:
            raise ValueError("a string has no NUL at its end")
        return self.take(end + 1 - self.i)[:-1]


class Int:
    """Int8, Int16 and Int32 (chapter "Message Data Types"); `allowed` lists the only values it may have."""

    __slots__ = ("allowed", "high", "low", "signed", "size")

    def __init__(self, size: int, *, signed: bool = True, allowed: Collection[int] = ()) -> None:
        self.size = size
        self.signed = signed
        self.allowed = allowed
        self.low = -(1 << (8 * size - 1)) if signed else 0
        self.high = self.low + (1 << 8 * size) - 1

    def write(self, value: int, out: list[bytes]) -> None:
        if not self.low <= value <= self.high:
            raise ValueError(f"{value} is not in the range of {self.low} to {self.high}")
        out.append(self._allow(value).to_bytes(self.size, "big", signed=self.signed))

    def read(self, body: Body) -> int:
        return self._allow(int.from_bytes(body.take(self.size), "big", signed=self.signed))

    def _allow(self, value: int) -> int:
        if self.allowed and value not in self.allowed:
            raise ValueError(f"{value} is none of {', '.join(map(str, self.allowed))}")
        return value


class Char:
    """Byte1 that is a letter; `allowed` lists the only ones it may be."""

    __slots__ = ("allowed",)

    def __init__(self, allowed: str = "") -> None:
        self.allowed = allowed

    def write(self, value: str, out: list[bytes]) -> None:
        if len(value) != 1:
            raise ValueError(f"{value!r} is not one letter")
        out.append(self._allow(value).encode("latin-1"))

    def read(self, body: Body) -> str:
        return self._allow(body.take(1).decode("latin-1"))

    def _allow(self, value: str) -> str:
        if self.allowed and value not in self.allowed:
            raise ValueError(f"{value!r} is none of {', '.join(self.allowed)}")
        return value


class String:
    """String: text that ends in a NUL. Bytes that are not UTF-8 survive both ways (PEP 383)."""

    __slots__ = ()

    def write(self, value: str, out: list[bytes]) -> None:
        data = value.encode("utf-8", "surrogateescape")
        if 0 in data:
            raise ValueError("a string cannot hold a NUL")
        out.append(data + b"\0")

    def read(self, body: Body) -> str:
        return body.take_string().decode("utf-8", "surrogateescape")


class Bytes:
    """Byte*n* that reaches to the end of the message, `low` to `high` bytes long."""

    __slots__ = ("high", "low")

    def __init__(self, low: int = 0, high: int | None = None) -> None:
        self.low = low
        self.high = high

    def write(self, value: bytes, out: list[bytes]) -> None:
        out.append(self._fit(_only_bytes(value)))

    def read(self, body: Body) -> bytes:
        return self._fit(body.take(body.left))

    def _fit(self, value: bytes) -> bytes:
        if len(value) < self.low or (self.high is not None and len(value) > self.high):
            raise ValueError(f"{len(value)} bytes where {self.low} to {self.high} are due")
        return value


class Value:
    """A value behind its length, or NULL, which is the length -1."""

    __slots__ = ()

    length = Int(4)

    def write(self, value: bytes | None, out: list[bytes]) -> None:
        self.length.write(-1 if value is None else len(_only_bytes(value)), out)
        if value is not None:
            out.append(value)

    def read(self, body: Body) -> bytes | None:
        n = self.length.read(body)
        if n < -1:
            raise ValueError(f"{n} is not the length of a value")
        return None if n == -1 else body.take(n)


class Record:
    """Several values in a row; `make` builds the tuple of them."""

    __slots__ = ("items", "make")

    def __init__(self, *items: Layout, make: Callable[[Iterable[Any]], Any] = tuple) -> None:
        self.items = items
        self.make = make

    def write(self, value: tuple[Any, ...], out: list[bytes]) -> None:
        for item, part in zip(self.items, value, strict=True):
            item.write(part, out)

    def read(self, body: Body) -> Any:
        return self.make([item.read(body) for item in self.items])


class Array:
    """A count, and so many items; nothing is allocated from a count that the bytes do not bear out."""

    __slots__ = ("count", "item")

    def __init__(self, item: Layout, count: Int) -> None:
        self.item = item
        self.count = count

    def write(self, value: tuple[Any, ...], out: list[bytes]) -> None:
        self.count.write(len(value), out)
        for part in value:
            self.item.write(part, out)

    def read(self, body: Body) -> tuple[Any, ...]:
        return tuple([self.item.read(body) for _ in range(self.count.read(body))])


class Terminated:
    """Items up to a zero byte where the next one would begin."""

    __slots__ = ("item",)

    def __init__(self, item: Layout) -> None:
        self.item = item

    def write(self, value: tuple[Any, ...], out: list[bytes]) -> None:
        for part in value:
            begin = len(out)
            self.item.write(part, out)
            if out[begin][0] == 0:
                raise ValueError(f"{part!r} would end the list")
        out.append(b"\0")

    def read(self, body: Body) -> tuple[Any, ...]:
        items = []
        while body.take(1) != b"\0":
            body.i -= 1
            items.append(self.item.read(body))
        return tuple(items)


class Marked:
    """Another layout, with a mark for whoever shows its value."""

    __slots__ = ("inner",)

    def __init__(self, inner: Layout) -> None:
        self.inner = inner

    def write(self, value: Any, out: list[bytes]) -> None:
        self.inner.write(value, out)

    def read(self, body: Body) -> Any:
        return self.inner.read(body)


class Secret(Marked):
    """Never shown, in no repr and no trace."""

    __slots__ = ()


class Varies(Marked):
    """Different on every server; libpq's regress mode hides it."""

    __slots__ = ()


# How one value lies in a message. `write` appends its bytes, in as many pieces as saves copying; `read` takes them.
Layout: TypeAlias = Int | Char | String | Bytes | Value | Record | Array | Terminated | Secret | Varies


def _only_bytes(value: object) -> bytes:
    if not isinstance(value, bytes):
        raise TypeError(f"bytes are due, not {type(value).__name__}")
    return value
