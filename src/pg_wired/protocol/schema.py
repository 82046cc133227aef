"""The building blocks of messages: field layouts, which write and read one value each, and the base class Message.

It knows no particular message. A layout raises ValueError for a value that does not fit, in both directions. `write`
and `read` turn that into an error that names the message and the field: ValueError or TypeError when writing,
ProtocolError when reading.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from functools import cache
from inspect import Parameter, Signature
from typing import Any, ClassVar, TypeAlias, TypeVar, dataclass_transform, get_args, get_type_hints

from ..errors import ProtocolError

# ---- layouts of fields


class Body:
    """The body of a message, with the position `i` up to which it has been read."""

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
    """An integer: Int8, Int16 or Int32 (chapter "Message Data Types"). `allowed` may list the only valid values."""

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
    """Byte1 that is a letter. `allowed` may list the only valid letters."""

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
    """String: text that ends with a NUL. Bytes that are not UTF-8 are preserved in both directions (PEP 383)."""

    __slots__ = ()

    def write(self, value: str, out: list[bytes]) -> None:
        data = value.encode("utf-8", "surrogateescape")
        if 0 in data:
            raise ValueError("a string cannot hold a NUL")
        out.append(data + b"\0")

    def read(self, body: Body) -> str:
        return body.take_string().decode("utf-8", "surrogateescape")


class Bytes:
    """Byte*n* up to the end of the message, `low` to `high` bytes long."""

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
    """A length followed by a value; the length -1 means NULL, which is None."""

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
    """Several values, one after the other. `make` builds the tuple of them."""

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
    """A count followed by that many items. Items are read one by one, so a false count allocates no memory."""

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
    """Items, followed by a zero byte in place of a next item."""

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
    """Another layout, marked for code that shows its value."""

    __slots__ = ("inner",)

    def __init__(self, inner: Layout) -> None:
        self.inner = inner

    def write(self, value: Any, out: list[bytes]) -> None:
        self.inner.write(value, out)

    def read(self, body: Body) -> Any:
        return self.inner.read(body)


class Secret(Marked):
    """A secret: neither a repr nor a trace shows the value."""

    __slots__ = ()


class Varies(Marked):
    """A value that differs from server to server; a trace hides it in libpq's regress mode."""

    __slots__ = ()


# The layout of one value in a message. `write` appends its bytes to a list, in several pieces if that avoids copying;
# `read` reads them.
Layout: TypeAlias = Int | Char | String | Bytes | Value | Record | Array | Terminated | Secret | Varies


def _only_bytes(value: object) -> bytes:
    if not isinstance(value, bytes):
        raise TypeError(f"bytes are due, not {type(value).__name__}")
    return value


# ---- messages


@dataclass_transform(frozen_default=True)
class _MessageType(type):
    """Makes frozen, slotted data classes from annotated fields, without generating code.

    `dataclasses.dataclass` would do the same, but compiles methods for each class: measured 0.4 ms a class (CPython
    3.11), which for the messages is more than importing the whole library may take.
    """

    __match_args__: tuple[str, ...]
    _defaults: dict[str, Any]

    def __new__(mcls, name: str, bases: tuple[type, ...], body: dict[str, Any], **options: Any) -> _MessageType:
        names = tuple(key for key, kind in body.get("__annotations__", {}).items() if not kind.startswith("ClassVar"))
        defaults = {key: body.pop(key) for key in names if key in body}
        body |= {"__slots__": names, "__match_args__": names, "_defaults": defaults}
        return super().__new__(mcls, name, bases, body, **options)

    @property
    def __signature__(cls) -> Signature:
        """The signature for help(), inspect and construction by name. It is made on each access."""
        kind, defaults = Parameter.POSITIONAL_OR_KEYWORD, cls._defaults
        return Signature([Parameter(n, kind, default=defaults.get(n, Parameter.empty)) for n in cls.__match_args__])


class Message(metaclass=_MessageType):
    """The base class of messages. They compare by class and fields, and their repr shows no secrets."""

    tag: ClassVar[int | None] = None
    # The Int32 at the start of the body that identifies the message, if several messages share a tag or have none.
    code: ClassVar[bytes] = b""
    __match_args__: ClassVar[tuple[str, ...]]

    def __init__(self, *args: Any, **named: Any) -> None:
        if named or len(args) != len(self.__match_args__):
            bound = type(self).__signature__.bind(*args, **named)
            bound.apply_defaults()
            args = tuple(bound.arguments.values())
        for name, value in zip(self.__match_args__, args, strict=True):
            object.__setattr__(self, name, value)

    def __init_subclass__(cls, tag: str | None = None, code: int | None = None) -> None:
        if tag is not None:
            cls.tag = ord(tag)
        if code is not None:
            cls.code = code.to_bytes(4, "big")

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{type(self).__name__} is frozen: make another one instead of setting {name!r}")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"{type(self).__name__} is frozen: {name!r} stays")

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and _values(other) == _values(self)

    def __hash__(self) -> int:
        return hash((type(self), _values(self)))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), _values(self)

    def __repr__(self) -> str:
        shown = (
            f"{name}={'...' if isinstance(layout, Secret) else repr(getattr(self, name))}"
            for name, layout in fields_of(type(self))
        )
        return f"{type(self).__name__}({', '.join(shown)})"


M = TypeVar("M", bound=Message)


def _values(message: Message) -> tuple[Any, ...]:
    return tuple([getattr(message, name) for name in message.__match_args__])


@cache
def fields_of(cls: type[Message]) -> tuple[tuple[str, Layout], ...]:
    """The name and the layout of each field, in the order in which they are sent."""
    hints = get_type_hints(cls, include_extras=True)
    return tuple((name, get_args(hints[name])[1]) for name in cls.__match_args__)


def write(message: Message) -> list[bytes]:
    """Encode a message body, in pieces. Raises a ValueError or TypeError that names the message and the field."""
    body = [message.code]
    for name, layout in fields_of(type(message)):
        try:
            layout.write(getattr(message, name), body)
        except ValueError as error:
            raise ValueError(f"{type(message).__name__}.{name}: {error}") from None
        except (TypeError, AttributeError) as error:
            raise TypeError(f"{type(message).__name__}.{name}: {error}") from None
    return body


def read(cls: type[M], body: bytes) -> M:
    """Decode `body` as a message of this class. Raises a ProtocolError that names the message and the field."""
    rest = Body(body, len(cls.code))
    values = []
    for name, layout in fields_of(cls):
        try:
            values.append(layout.read(rest))
        except ValueError as error:
            raise ProtocolError(f"{cls.__name__}.{name}: {error}") from None
    if rest.left:
        raise ProtocolError(f"{cls.__name__} has {rest.left} bytes after its last field")
    return cls(*values)
