"""Connection strings, keyword arguments and libpq's environment variables, made into a ConnConfig. It dials nothing.

Messages name the option, its source or the position, never the value: a string that was quoted wrongly has parts of the
password anywhere.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from types import NoneType
from typing import Any, ClassVar

from .error import ConfigError
from .frozen import Frozen
from .options import ALIASES, BLANK, TABLE, Option
from .tls import TlsMode

FORMS = "write postgresql://user:password@host:5432/dbname?option=value or host=... port=5432 user=... dbname=..."


class ConnConfig(Frozen):
    """Where and how to connect: every option of the table, settled. Made by `parse`; the constructor checks nothing."""

    hidden: ClassVar = frozenset(name for name, option in TABLE.items() if option.secret)
    host: str
    port: int
    user: str
    password: str | None
    dbname: str
    application_name: str | None
    options: str | None
    connect_timeout: float | None
    sslmode: TlsMode
    client_encoding: str
    statement_cache_size: int
    max_in_flight: int
    scram_max_iterations: int

    @classmethod
    def parse(cls, dsn: str = "", *, environ: Mapping[str, str] | None = None, **options: object) -> ConnConfig:
        """The options of keyword arguments, `dsn` (URI or keyword form), `environ` (`os.environ`) and defaults.

        The first that gives an option wins. A keyword argument that is empty or None gives nothing, but
        `connect_timeout=None`: no limit. ConfigError names the option or the position that is wrong.
        """
        found = _found(dsn, os.environ if environ is None else environ, options)
        settled: dict[str, Any] = {}
        for name, option in TABLE.items():
            source, value = found.get(name, (None, ""))
            if source is None or (option.blank and value == ""):
                settled[name] = option.default(settled) if callable(option.default) else option.default
            else:
                settled[name] = _settle(name, option, source, value)
        return cls(**settled)

    @classmethod
    def of(cls, dsn: str | ConnConfig, **options: Any) -> ConnConfig:
        """`dsn` itself where it is a ConnConfig, else what `parse` makes of it. ConfigError for options beside one."""
        if not isinstance(dsn, ConnConfig):
            return cls.parse(dsn, **options)
        if options:
            raise ConfigError(f"{', '.join(options)}: a ConnConfig takes no options beside it; parse them into it")
        return dsn

    @property
    def database(self) -> str:
        """`dbname` under its other name."""
        return self.dbname

    @property
    def is_unix(self) -> bool:
        """Whether `host` is a Unix socket's directory, or with "@" an abstract one."""
        return self.host.startswith(("/", "@"))

    @property
    def socket_path(self) -> str | None:
        """The Unix socket's path as libpq writes it (an abstract one begins with "@"); None for TCP."""
        return f"{self.host}/.s.PGSQL.{self.port}" if self.is_unix else None

    @property
    def address(self) -> str | tuple[str, int]:
        """What `socket.connect` takes: the socket's path (abstract: NUL first, unix(7)), or host and port for TCP."""
        path = self.socket_path
        if path is None:
            return self.host, self.port
        return "\0" + path[1:] if path.startswith("@") else path

    def startup_parameters(self) -> dict[str, str]:
        """The names and values of the StartupMessage, in libpq's order."""
        parameters = {
            "user": self.user,
            "database": self.dbname,
            "options": self.options,
            "application_name": self.application_name,
            "client_encoding": self.client_encoding,
        }
        return {name: value for name, value in parameters.items() if value}


# ---- from four sources to one value ---------------------------------------------------------------------------------

STRING = "connection string"
KEYWORD = "keyword argument"

# The startup packet ends a string with NUL, and its text is UTF-8; other bytes of the environment arrive as surrogates.
_UNSENDABLE = "[\0\ud800-\udfff]"
_NOT_SENDABLE = "must not contain NUL or anything but UTF-8"


def _found(dsn: str, environ: Mapping[str, str], options: Mapping[str, object]) -> dict[str, tuple[str, object]]:
    """The options that are given, each with its strongest source and what that says."""
    found: dict[str, tuple[str, object]] = {}
    for name, option in TABLE.items():
        if option.variable is not None and option.variable in environ:
            found[name] = f"environment variable {option.variable}", environ[option.variable]
    given = {name: value for name, value in options.items() if _gives(_known(name, KEYWORD), value)}
    for source, pairs in ((STRING, parse_string(dsn)), (KEYWORD, given)):
        layer: dict[str, tuple[str, object]] = {}
        for alias, value in pairs.items():
            name = _known(alias, source)
            if name in layer and layer[name][1] != value:
                raise ConfigError(f"{source}: {name} is given under two names with different values")
            layer[name] = source, value
        found.update(layer)
    return found


def _known(name: str, source: str) -> str:
    """The option's name in the table; refuses a name that is not there."""
    canonical = ALIASES.get(name, name)
    if canonical in TABLE:
        return canonical
    import difflib  # costs an import and serves this error only

    near = difflib.get_close_matches(name.lower(), [*TABLE, *ALIASES], n=1)
    raise ConfigError(f'{source}: unknown option "{name}"' + "".join(f"; did you mean {other}?" for other in near))


def _gives(name: str, value: object) -> bool:
    """PQconnectdbParams passes over empty values; None is one too, where the option has no meaning for it."""
    return NoneType in TABLE[name].types if value is None else value != ""


def _settle(name: str, option: Option, source: str, value: object) -> object:
    """The attribute that `value` makes."""
    types = (*option.types, str)
    if not isinstance(value, types) or isinstance(value, bool):
        needs = " or ".join(kind.__name__ for kind in types)
        raise ConfigError(f"{source}: {name} must be of type {needs}, not {type(value).__name__}")
    if isinstance(value, str) and re.search(_UNSENDABLE, value):
        raise ConfigError(f"{source}: {name} {_NOT_SENDABLE}")
    try:
        return option.check(option.parse(value) if isinstance(value, str) else value)
    except ValueError:
        raise ConfigError(f"{source}: {name} must be {option.needs}") from None


# ---- the two forms of a connection string ---------------------------------------------------------------------------

# Patterns are compiled (and kept) by `re` where they are first used: half of this module's import would be for them.
_NAME = rf"(\w+)[{BLANK}]*=[{BLANK}]*"
_QUOTED = rf"(?s)'((?:[^'\\]|\\.)*)'[{BLANK}]*"
_PLAIN = rf"(?s)(?!')((?:[^{BLANK}\\]|\\.)*)\\?[{BLANK}]*"

# It matches up to what is wrong. A "/" ends the search for "@", a "?" does not: libpq's reading, not RFC 3986's.
_URI = r"""(?xs)postgres(?:ql)?://
    (?:(?P<user>[^:@/]*)(?::(?P<password>[^@/]*))?@)?
    (?:\[(?P<ipv6>[^]]+)\](?![^:/?,])|(?P<host>[^[:/?,][^:/?,]*))?
    (?::(?P<port>[^/?,]*))?
    (?:/(?P<dbname>[^?]*))?
    (?P<query>(?:\?.*)?)"""
_URI_PARTS = {
    "user": "user",
    "password": "password",
    "ipv6": "host",
    "host": "host",
    "port": "port",
    "dbname": "dbname",
}
_URI_STOPS = {
    "[": 'an IPv6 address must end in "]", and before ":", "/" or "?"',
    ",": "several hosts are not available in this version",
}
_PARAMETER = r"([^=&]*)=([^=&]*)(?:&|\Z)"
_UNDECODABLE = r" |%00|%(?![0-9A-Fa-f]{2})"


def parse_string(dsn: str) -> dict[str, str]:
    """What a connection string says, as PQconninfoParse: values are not checked, the last of several wins."""
    if not isinstance(dsn, str):
        raise ConfigError(f"the {STRING} must be of type str, not {type(dsn).__name__}; {FORMS}")
    if unsendable := re.search(_UNSENDABLE, dsn):
        raise _malformed(unsendable.start(), f"it {_NOT_SENDABLE}")
    uri = re.match(_URI, dsn)
    return dict(_uri_pairs(dsn, uri) if uri else _keyword_pairs(dsn))


def _malformed(at: int, wrong: str) -> ConfigError:
    return ConfigError(f"{STRING}, position {at + 1}: {wrong}")


def _keyword_pairs(dsn: str) -> Iterator[tuple[str, str]]:
    at = len(dsn) - len(dsn.lstrip(BLANK))
    while at < len(dsn):
        name = re.compile(_NAME).match(dsn, at)
        if name is None:
            raise _malformed(at, f"expected option=value; {FORMS}")
        value = re.compile(_QUOTED).match(dsn, name.end()) or re.compile(_PLAIN).match(dsn, name.end())
        if value is None:
            raise _malformed(name.end(), f"the quoted value of {name[1]} does not end")
        yield name[1], re.sub(r"\\(.)", r"\1", value[1], flags=re.DOTALL)
        at = value.end()


def _uri_pairs(dsn: str, uri: re.Match[str]) -> Iterator[tuple[str, str]]:
    if uri.end() < len(dsn):
        raise _malformed(uri.end(), _URI_STOPS[dsn[uri.end()]])
    for part, name in _URI_PARTS.items():
        if uri[part]:  # libpq: an empty part gives nothing, an empty parameter the default
            yield name, _decode(dsn, *uri.span(part))
    at = uri.start("query") + 1
    while at < len(dsn):
        parameter = re.compile(_PARAMETER).match(dsn, at)
        name = _decode(dsn, *parameter.span(1)) if parameter else ""
        if parameter is None or not re.fullmatch(r"\w+", name):
            raise _malformed(at, f"expected option=value; {FORMS}")
        value = _decode(dsn, *parameter.span(2))
        # libpq takes JDBC's word for it.
        yield ("sslmode", "require") if (name, value) == ("ssl", "true") else (name, value)
        at = parameter.end()


def _decode(dsn: str, start: int, end: int) -> str:
    """A part of a URI without percent-encoding. libpq 18: spaces around it are dropped, inside they must be encoded."""
    raw = dsn[start:end]
    text = raw.lstrip(" ")
    start += len(raw) - len(text)
    text = text.rstrip(" ")
    if wrong := re.search(_UNDECODABLE, text):
        raise _malformed(start + wrong.start(), "write a space as %20, a percent sign as %25, and no NUL")
    octets = re.sub(rb"%(..)", lambda match: bytes((int(match[1], 16),)), text.encode())
    try:
        return octets.decode()
    except UnicodeDecodeError:
        raise _malformed(start, "this part is not UTF-8 once decoded") from None
