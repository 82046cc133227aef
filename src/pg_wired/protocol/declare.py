"""What a message is made from its annotated fields: constructor, comparison, repr, bytes. Knows no message by name."""

from __future__ import annotations

from functools import cache
from inspect import Parameter, Signature
from typing import Any, ClassVar, TypeVar, dataclass_transform, get_args, get_type_hints

from ..error import ProtocolError
from .layout import Body, Layout, Secret


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
        """For help(), inspect and whoever constructs by name: made when somebody asks."""
        kind, defaults = Parameter.POSITIONAL_OR_KEYWORD, cls._defaults
        return Signature([Parameter(n, kind, default=defaults.get(n, Parameter.empty)) for n in cls.__match_args__])


class Message(metaclass=_MessageType):
    """A message; equal to another of the same class with the same fields, and without secrets in its repr."""

    tag: ClassVar[int | None] = None
    # The Int32 at the head of the body, where one tag (or none) has several messages.
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
    """Name and layout of each field, in the order of the wire."""
    hints = get_type_hints(cls, include_extras=True)
    return tuple((name, get_args(hints[name])[1]) for name in cls.__match_args__)


def write(message: Message) -> list[bytes]:
    """The pieces of the body. Raises ValueError or TypeError that names message and field."""
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
    """The message of that class which `body` is, all of it. Raises ProtocolError that names message and field."""
    rest = Body(body, len(cls.code))
    values = []
    for name, layout in fields_of(cls):
        try:
            values.append(layout.read(rest))
        except ValueError as error:
            raise ProtocolError(f"{cls.__name__}.{name}: {error}") from None
    if rest.left:
        raise ProtocolError(f"{cls.__name__} has {rest.left} bytes behind its last field")
    return cls(*values)
