"""THE TABLE of connection options: variable, default, parser and check of each. It knows no form of a string.

Names, variables, meanings and defaults are libpq's (18: "Parameter Key Words", "Environment Variables"); where not, a
comment says whose.
"""

from __future__ import annotations

import os
import pwd
import re
from collections.abc import Callable, Mapping
from types import NoneType
from typing import Any, NamedTuple

from .error import ConfigError
from .tls import TlsMode

# libpq reads its integer options into a C int (fe-connect.c, pqParseIntParam).
INT_MAX = 2**31 - 1
# libpq has one directory compiled in: Debian's and Red Hat's is the first, PostgreSQL's own default the second. This
# code is not compiled for one of them, so the first that exists is taken.
SOCKET_DIRECTORIES = ["/var/run/postgresql", "/tmp"]
# C's isspace() in the C locale; Python's \s has more.
BLANK = " \t\n\v\f\r"


def _as_is(value: Any) -> Any:
    return value


class Option(NamedTuple):
    """One row of the table. `parse` and `check` raise ValueError for what `needs` does not describe."""

    variable: str | None  # libpq's environment variable
    default: object  # or a function of the options settled before
    needs: str = ""  # for messages: "... must be <needs>"
    parse: Callable[[str], Any] = _as_is  # the text of any source -> a value
    check: Callable[[Any], Any] = _as_is  # a value -> the attribute
    types: tuple[type, ...] = ()  # what a keyword argument may be beside str
    blank: bool = True  # an empty string means the default, as in libpq; where not, it is parsed and refused
    secret: bool = False  # never shown


def _integer(text: str) -> int:
    """strtol() as libpq calls it: blanks around and a sign are allowed, a C int must hold the result."""
    match = re.fullmatch(f"[{BLANK}]*([+-]?)0*([0-9]{{1,10}})[{BLANK}]*", text)
    if match is None or not -INT_MAX - 1 <= (value := int(match[1] + match[2])) <= INT_MAX:
        raise ValueError
    return value


def _between(low: int, high: int) -> Callable[[int], int]:
    def check(value: int) -> int:
        if not low <= value <= high:
            raise ValueError
        return value

    return check


def _number(variable: str | None, default: int, low: int, high: int = INT_MAX, blank: bool = False) -> Option:
    needs = f"an integer from {low} to {high}"
    return Option(variable, default, needs, _integer, _between(low, high), (int,), blank)


def _one_host(host: str) -> str:
    if "," in host:
        raise ValueError
    return host


def _seconds(value: float | None) -> float | None:
    if value is None or value <= 0:
        return None
    if not value <= INT_MAX:  # so written, it refuses NaN too
        raise ValueError
    return float(value)


def _without_tls(mode: TlsMode) -> TlsMode:
    if mode not in (TlsMode.DISABLE, TlsMode.ALLOW, TlsMode.PREFER):
        raise ValueError
    return mode


def _utf8(encoding: str) -> str:
    # The server compares letters and digits alone, in any case, and knows UTF8 as UNICODE too (encnames.c,
    # pg_char_to_encoding); `auto` is libpq's own word for the locale's encoding, and no locale is asked here.
    if encoding != "auto" and re.sub("[^0-9a-z]", "", encoding.lower()) not in ("utf8", "unicode"):
        raise ValueError
    return "UTF8"


def _default_host(_settled: Mapping[str, Any]) -> str:
    return next((directory for directory in SOCKET_DIRECTORIES if os.path.isdir(directory)), "localhost")


def _default_user(_settled: Mapping[str, Any]) -> str:
    uid = os.geteuid()
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        raise ConfigError(f"user must be given: the operating system has no name for user ID {uid}") from None


def _default_dbname(settled: Mapping[str, Any]) -> object:
    return settled["user"]


TABLE: dict[str, Option] = {
    "host": Option(
        "PGHOST", _default_host, "one host (a list with commas is not available in this version)", check=_one_host
    ),
    "port": _number("PGPORT", 5432, 1, 65535, blank=True),
    "user": Option("PGUSER", _default_user),
    "password": Option("PGPASSWORD", None, secret=True),
    "dbname": Option("PGDATABASE", _default_dbname),
    "application_name": Option("PGAPPNAME", None),
    "options": Option("PGOPTIONS", None),
    # The design's default (I9): libpq would wait without end.
    "connect_timeout": Option(
        "PGCONNECT_TIMEOUT",
        10.0,
        f"seconds up to {INT_MAX}, in strings an integer (0 or less: no limit)",
        _integer,
        _seconds,
        (int, float, NoneType),
        blank=False,
    ),
    "sslmode": Option(
        "PGSSLMODE",
        TlsMode.PREFER,
        "disable, allow or prefer (require, verify-ca and verify-full: TLS is not available in this version)",
        TlsMode,
        _without_tls,
        (TlsMode,),
        blank=False,
    ),
    "client_encoding": Option("PGCLIENTENCODING", "UTF8", "UTF8 or auto, the only encoding here", check=_utf8),
    # Our own, with the design's defaults: prepared statements kept (I8), requests encoded and not yet answered (I4),
    # and the most work that a server's SCRAM may ask of us.
    "statement_cache_size": _number(None, 256, 0),
    "max_in_flight": _number(None, 256, 1),
    "scram_max_iterations": _number(None, 100_000, 1),
}
ALIASES = {"database": "dbname"}
