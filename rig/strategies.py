"""Hypothesis strategies for messages, derived from the declarations of their fields."""

from __future__ import annotations

from typing import Any, TypeVar

from hypothesis import strategies as st

from pg_wired.protocol import schema
from pg_wired.protocol.messages import BackendMessage, FrontendMessage, Message
from pg_wired.protocol.schema import Array, Bytes, Char, Int, Layout, Record, Secret, String, Terminated, Value, Varies

M = TypeVar("M", bound=Message)

# Long enough for every length to differ from every count, short enough to keep examples readable.
MOST_BYTES = 40
MOST_ITEMS = 5

# Text that a server or client can really send: bytes without a NUL, UTF-8 or not.
TEXTS = st.binary(max_size=MOST_BYTES).map(lambda data: data.replace(b"\0", b"").decode("utf-8", "surrogateescape"))


def message(cls: type[M]) -> st.SearchStrategy[M]:
    """Messages of one class that can be encoded."""
    return st.builds(cls, *[_values(layout) for _, layout in schema.fields_of(cls)])


def backend_messages() -> st.SearchStrategy[BackendMessage]:
    """Messages of any class that a server sends."""
    return st.sampled_from(classes(BackendMessage)).flatmap(message)


def frontend_messages() -> st.SearchStrategy[FrontendMessage]:
    """Messages of any class that a client sends, including the untagged ones of the startup."""
    return st.sampled_from(classes(FrontendMessage)).flatmap(message)


def classes(family: type[M]) -> list[type[M]]:
    """The leaf classes derived from `family`, which are the messages themselves."""
    return [leaf for cls in family.__subclasses__() for leaf in (classes(cls) if cls.__subclasses__() else [cls])]


def _values(layout: Layout) -> st.SearchStrategy[Any]:
    match layout:
        case Secret(inner=inner) | Varies(inner=inner):
            return _values(inner)
        case Int(allowed=allowed) if allowed:
            return st.sampled_from(list(allowed))
        case Int():
            return st.integers(layout.low, layout.high)
        case Char(allowed=allowed):
            return st.sampled_from(allowed or [chr(byte) for byte in range(1, 256)])
        case String():
            return TEXTS
        case Bytes():
            return st.binary(min_size=layout.low, max_size=layout.high or MOST_BYTES)
        case Value():
            return st.none() | st.binary(max_size=MOST_BYTES)
        case Record(items=items, make=make):
            return st.tuples(*map(_values, items)).map(make)
        case Array(item=item):
            return st.lists(_values(item), max_size=MOST_ITEMS).map(tuple)
        case Terminated(item=item):
            return st.lists(_values(item).filter(lambda value: _goes_on(item, value)), max_size=MOST_ITEMS).map(tuple)


def _goes_on(item: Layout, value: Any) -> bool:
    """Whether the value can be an item of a list that ends with a zero byte."""
    out: list[bytes] = []
    item.write(value, out)
    return out[0][0] != 0
