"""Parser for the two forms of a connection string, which reads them as libpq does (PQconninfoParse).

It does not check the values. Error messages name the position, never the text: in a wrongly quoted string, parts of
the password can be anywhere.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from ..errors import ConfigError
from .option_kinds import BLANK

FORMS = "write postgresql://user:password@host:5432/dbname?option=value or host=... port=5432 user=... dbname=..."
SOURCE = "connection string"
# In the startup packet a NUL ends each string, and the text is UTF-8. Other bytes of the environment arrive as
# surrogates.
UNSENDABLE = "[\0\ud800-\udfff]"
NOT_SENDABLE = "must not contain NUL or anything but UTF-8"

# `re` compiles (and caches) the patterns at their first use: to compile them here would double this module's import.
_NAME = rf"(\w+)[{BLANK}]*=[{BLANK}]*"
_QUOTED = rf"(?s)'((?:[^'\\]|\\.)*)'[{BLANK}]*"
_PLAIN = rf"(?s)(?!')((?:[^{BLANK}\\]|\\.)*)\\?[{BLANK}]*"

# A host, an IPv6 address in brackets, or nothing; then an optional port.
_NETLOC = r"(?:\[([^]]+)\](?![^:/?,])|([^[:/?,][^:/?,]*))?(?::([^/?,]*))?"
# The match ends where the URI is wrong, which can only be at a "[". A "/" ends the search for "@", a "?" does not: that
# is libpq's reading, not RFC 3986's.
_URI = rf"""(?xs)postgres(?:ql)?://
    (?:(?P<user>[^:@/]*)(?::(?P<password>[^@/]*))?@)?
    (?P<netlocs>(?:{_NETLOC},)*{_NETLOC})
    (?:/(?P<dbname>[^?]*))?
    (?P<query>(?:\?.*)?)"""
_BRACKETS = 'an IPv6 address must end in "]", and before ":", "/", "?" or ","'
_PARAMETER = r"([^=&]*)=([^=&]*)(?:&|\Z)"
_UNDECODABLE = r" |%00|%(?![0-9A-Fa-f]{2})"


def parse_string(dsn: str) -> dict[str, str]:
    """Return the options in a connection string, as PQconninfoParse does.

    The values are not checked. If an option is given several times, the last one wins. Raises ConfigError for a
    malformed string.
    """
    if not isinstance(dsn, str):
        raise ConfigError(f"the {SOURCE} must be of type str, not {type(dsn).__name__}; {FORMS}")
    if unsendable := re.search(UNSENDABLE, dsn):
        raise _malformed(unsendable.start(), f"it {NOT_SENDABLE}")
    uri = re.match(_URI, dsn)
    return dict(map(_modern, _uri_pairs(dsn, uri) if uri else _keyword_pairs(dsn)))


def _modern(pair: tuple[str, str]) -> tuple[str, str]:
    """Translate `requiressl`, libpq's old name for two values of sslmode (conninfo_storeval)."""
    name, value = pair
    return ("sslmode", "require" if value.startswith("1") else "prefer") if name == "requiressl" else pair


def _malformed(at: int, wrong: str) -> ConfigError:
    return ConfigError(f"{SOURCE}, position {at + 1}: {wrong}")


def _keyword_pairs(dsn: str) -> Iterator[tuple[str, str]]:
    at = len(dsn) - len(dsn.lstrip(BLANK))
    while at < len(dsn):
        name = re.compile(_NAME).match(dsn, at)
        if name is None and re.compile(r"[\w+.:-]+://").match(dsn, at):
            raise _malformed(at, f"a URL's scheme is postgresql: or postgres: alone, without a driver's name; {FORMS}")
        if name is None:
            raise _malformed(at, f"expected option=value; {FORMS}")
        value = re.compile(_QUOTED).match(dsn, name.end()) or re.compile(_PLAIN).match(dsn, name.end())
        if value is None:
            raise _malformed(name.end(), f"the quoted value of {name[1]} does not end")
        yield name[1], re.sub(r"\\(.)", r"\1", value[1], flags=re.DOTALL)
        at = value.end()


def _uri_pairs(dsn: str, uri: re.Match[str]) -> Iterator[tuple[str, str]]:
    if uri.end() < len(dsn):
        raise _malformed(uri.end(), _BRACKETS)
    parts = {name: range(*uri.span(name)) for name in ("user", "password", "dbname")}
    for name, spots in (parts | _lists(dsn, *uri.span("netlocs"))).items():
        if spots:  # as in libpq, an empty part gives nothing, but an empty parameter gives the default
            yield name, _decode(dsn, spots)
    at = uri.start("query") + 1
    while at < len(dsn):
        parameter = re.compile(_PARAMETER).match(dsn, at)
        name = _decode(dsn, range(*parameter.span(1))) if parameter else ""
        if parameter is None or not re.fullmatch(r"\w+", name):
            raise _malformed(at, f"expected option=value; {FORMS}")
        value = _decode(dsn, range(*parameter.span(2)))
        # libpq accepts JDBC's spelling.
        yield ("sslmode", "require") if (name, value) == ("ssl", "true") else (name, value)
        at = parameter.end()


def _lists(dsn: str, at: int, end: int) -> dict[str, Sequence[int]]:
    """Return the positions of the characters of `host` and `port`; with several hosts, including the commas."""
    hosts: list[int] = []
    ports: list[int] = []
    while netloc := re.compile(_NETLOC).match(dsn, at, end):
        hosts += range(*netloc.span(1 if netloc[1] else 2))  # the span of a group that did not match is empty
        ports += range(*netloc.span(3))
        at = netloc.end()
        if at == end:
            break
        hosts.append(at)
        ports.append(at)
        at += 1
    return {"host": hosts, "port": ports}


def _decode(dsn: str, spots: Sequence[int]) -> str:
    """Decode the percent-encoding of a part of a URI.

    As in libpq 18, spaces around the part are dropped, and spaces inside it must be encoded.
    """
    raw = "".join(dsn[spot] for spot in spots)
    text = raw.lstrip(" ")
    spots = spots[len(raw) - len(text) :]
    text = text.rstrip(" ")
    if wrong := re.search(_UNDECODABLE, text):
        raise _malformed(spots[wrong.start()], "write a space as %20, a percent sign as %25, and no NUL")
    octets = re.sub(rb"%(..)", lambda match: bytes((int(match[1], 16),)), text.encode())
    try:
        return octets.decode()
    except UnicodeDecodeError:
        raise _malformed(spots[0], "this part is not UTF-8 once decoded") from None
