"""The classes for the table of options, and the kinds of values. It knows no particular option."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any, NamedTuple

# libpq reads its integer options into a C int (fe-connect.c, pqParseIntParam).
INT_MAX = 2**31 - 1
# The characters of C's isspace() in the C locale; Python's \s matches more.
BLANK = " \t\n\v\f\r"


def as_is(value: Any) -> Any:
    return value


class Option(NamedTuple):
    """One row of the table. `parse` and `check` raise ValueError for values that `needs` does not describe."""

    meaning: str  # for docs/connecting.md
    variable: str | None  # libpq's environment variable
    default: object  # a value, or a function of the options settled before; its docstring describes the default
    needs: str = ""  # for messages: "... must be <needs>"
    parse: Callable[[str], Any] = as_is  # the text of any source -> a value
    check: Callable[[Any], Any] = as_is  # a value -> the attribute
    types: tuple[type, ...] = ()  # the types, beside str, that a keyword argument may have
    blank: bool = True  # an empty string means the default, as in libpq; if false, it is parsed and may be refused
    secret: bool = False  # never shown


class Unsupported(NamedTuple):
    """An option of libpq that is refused with the `reason`, unless its value is in `off`."""

    variable: str | None
    reason: str
    off: tuple[str, ...] | None = ("",)  # None: any value is accepted, because libpq ignores it too


def integer(text: str) -> int:
    """Parse an integer as libpq does with strtol(). Raises ValueError.

    Blanks around the number and a sign are allowed, and the result must fit into a C int.
    """
    match = re.fullmatch(f"[{BLANK}]*([+-]?)0*([0-9]{{1,10}})[{BLANK}]*", text)
    if match is None or not -INT_MAX - 1 <= (value := int(match[1] + match[2])) <= INT_MAX:
        raise ValueError
    return value


def between(low: int, high: int) -> Callable[[int], int]:
    def check(value: int) -> int:
        if not low <= value <= high:
            raise ValueError
        return value

    return check


def number(meaning: str, default: int, low: int) -> Option:
    """One of our own options: an integer of at least `low`."""
    needs = f"an integer from {low} to {INT_MAX}"
    return Option(meaning, None, default, needs, integer, between(low, INT_MAX), (int,), blank=False)


def text(meaning: str, variable: str | None = None, secret: bool = False) -> Option:
    """Any text; None if it is not given."""
    return Option(meaning, variable, None, secret=secret)


def words(meaning: str, variable: str | None, default: object, *allowed: str) -> Option:
    """One of a few words, which must match exactly."""

    def parse(word: str) -> str:
        if word not in allowed:
            raise ValueError
        return word

    return Option(meaning, variable, default, _listed(allowed), parse, blank=False)


def members(meaning: str, variable: str | None, default: object, kind: type[Enum]) -> Option:
    """One of the values of an Enum; the attribute is the member."""
    return Option(meaning, variable, default, _listed([m.value for m in kind]), kind, types=(kind,), blank=False)


def switch(meaning: str, variable: str | None, parse: Callable[[str], int], needs: str) -> Option:
    """A switch that is on unless the value is 0."""
    return Option(meaning, variable, True, needs, parse, bool, (bool, int), blank=False)


def kernel_seconds(meaning: str, default: int | None) -> Option:
    """An integer for the kernel. 0 or less becomes None, which leaves the value to the kernel."""

    def check(value: int) -> int | None:
        return between(1, INT_MAX)(value) if value > 0 else None

    needs = f"an integer up to {INT_MAX} (0 or less: the kernel's default)"
    return Option(meaning, None, default, needs, integer, check, (int,), blank=False)


def version(meaning: str, variable: str, default: object, allowed: Mapping[str, Any]) -> Option:
    """A version, given by its name; the attribute is the value that `allowed` has for the name."""

    def parse(name: str) -> Any:
        try:
            return allowed[name]
        except KeyError:
            raise ValueError from None

    return Option(meaning, variable, default, _listed([*allowed]), parse, blank=False)


def _listed(allowed: tuple[str, ...] | list[str]) -> str:
    *others, last = allowed
    return f"{', '.join(others)} or {last}"
