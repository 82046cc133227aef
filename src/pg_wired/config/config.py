"""ConnConfig, made from connection strings, keyword arguments, service files and libpq's environment variables.

It connects to nothing. Error messages name the option, its source or the position, never the value.
"""

from __future__ import annotations

import os
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from types import NoneType
from typing import Any, ClassVar, TypeAlias

from ..auth.hidden import HidesSecrets
from ..auth.policy import Policy
from ..errors import ConfigError
from . import hosts
from .dsn import NOT_SENDABLE, SOURCE, UNSENDABLE, parse_string
from .hosts import HostConfig
from .option_kinds import Option
from .options import ALIASES, ELSEWHERE, TABLE, UNSUPPORTED, VARIABLES, disagreement
from .tls import TlsMode

Password: TypeAlias = "str | Callable[[], str | Awaitable[str]]"
Found: TypeAlias = dict[str, tuple[str, object]]  # the name of an option -> its source, and its value there

KEYWORD = "keyword argument"


@dataclass(frozen=True, repr=False, kw_only=True)
class ConnConfig(HidesSecrets):
    """Where and how to connect: the final value of every connection option.

    docs/connecting.md lists the options; most are libpq's (libpq 18, "Parameter Key Words"). `parse` makes a
    ConnConfig; the constructor checks nothing. `host`, `hostaddr` and `port` are those of the first of the `hosts`.

    Times are in seconds, but `tcp_user_timeout` is in milliseconds. A `connect_timeout` of None means no limit; None
    in `keepalives_...` leaves the value to the kernel. If no file is named, the attribute is None, even where libpq has
    a default in the home directory (~/.postgresql/root.crt and others).
    """

    hidden: ClassVar[frozenset[str]] = frozenset(name for name, option in TABLE.items() if option.secret)
    service: str | None
    servicefile: str | None
    hosts: tuple[HostConfig, ...]
    user: str
    password: Password | None
    passfile: str | None
    dbname: str
    application_name: str | None
    fallback_application_name: str | None
    client_encoding: str
    options: str | None
    replication: str | None
    target_session_attrs: str
    load_balance_hosts: str
    connect_timeout: float | None
    keepalives: bool
    keepalives_idle: int | None
    keepalives_interval: int | None
    keepalives_count: int | None
    tcp_user_timeout: int
    requirepeer: str | None
    require_auth: frozenset[str] | None
    channel_binding: str
    scram_min_iterations: int
    scram_max_iterations: int
    min_protocol_version: tuple[int, int]
    max_protocol_version: tuple[int, int]
    sslrootcert: str | None
    tls: object
    sslmode: TlsMode
    sslnegotiation: str
    sslcert: str | None
    sslkey: str | None
    sslpassword: str | None
    sslcertmode: str
    sslcrl: str | None
    sslcrldir: str | None
    sslsni: bool
    ssl_min_protocol_version: str | None
    ssl_max_protocol_version: str | None
    statement_cache_size: int
    max_in_flight: int

    @classmethod
    def parse(cls, dsn: str = "", *, environ: Mapping[str, str] | None = None, **options: object) -> ConnConfig:
        """Make a ConnConfig from several sources. The first source that gives an option wins.

        The sources are, in this order: the keyword arguments, `dsn` (a connection string in URI or keyword form), the
        service file, `environ` (default: `os.environ`), and the defaults. A keyword argument that is empty or None
        gives nothing, except that `connect_timeout=None` means no limit. `parse` reads the service file if a service
        is named, and the password file if no password is given.

        Raises ConfigError, which names the option, the line or the position that is wrong. Warns about a password file
        that others may read.
        """
        environ = os.environ if environ is None else environ
        found = _found(dsn, environ, options)
        settled: dict[str, Any] = {}
        for name, option in TABLE.items():
            source, value = found.get(name, (None, ""))
            if source is None or (option.blank and value == ""):
                settled[name] = option.default(settled) if callable(option.default) else option.default
            else:
                settled[name] = _settle(name, option, source, value)
        if wrong := disagreement(settled):
            raise ConfigError(wrong)
        places = hosts.combine(*(settled.pop(name) for name in ("host", "hostaddr", "port")))
        config = cls(hosts=places, **settled)
        return config if config.password else config._with_passwords(environ)

    @classmethod
    def of(cls, dsn: str | ConnConfig, **options: Any) -> ConnConfig:
        """Return `dsn` itself if it is a ConnConfig, else the result of `parse(dsn, **options)`.

        Raises ConfigError as `parse` does, and if options are given beside a ConnConfig.
        """
        if not isinstance(dsn, ConnConfig):
            return cls.parse(dsn, **options)
        if options:
            raise ConfigError(f"{', '.join(options)}: a ConnConfig takes no options beside it; parse them into it")
        return dsn

    def _with_passwords(self, environ: Mapping[str, str]) -> ConnConfig:
        """Return a copy in which each host has its password from the password file."""
        from .passfile import read_lines

        home = home_directory(environ)
        path = self.passfile or (f"{home}/.pgpass" if home else None)
        lines = read_lines(path) if path else []
        if not lines:
            return self
        found = tuple(host.with_password(lines, self.dbname, self.user) for host in self.hosts)
        return replace(self, hosts=found)

    @property
    def database(self) -> str:
        """The name of the database: an alias of `dbname`."""
        return self.dbname

    @property
    def host(self) -> str:
        """The first host: a name, an address, a directory of Unix sockets ("@": an abstract one), or ""."""
        return self.hosts[0].host

    @property
    def hostaddr(self) -> str | None:
        """The first host's numeric address, or None if none was given."""
        return self.hosts[0].hostaddr

    @property
    def port(self) -> int:
        """The first host's port number."""
        return self.hosts[0].port

    def startup_parameters(self) -> dict[str, str]:
        """Return the names and values to send in the StartupMessage, in libpq's order. Empty values are left out."""
        name = self.application_name
        parameters = {
            "user": self.user,
            "database": self.dbname,
            "replication": self.replication,
            "options": self.options,
            "application_name": self.fallback_application_name if name is None else name,
            "client_encoding": self.client_encoding,
        }
        return {name: value for name, value in parameters.items() if value}

    def policy(self, *, is_private: bool, is_tls: bool, binding: bytes | None, no_binding: str) -> Policy:
        """Return the login policy for a connection with these properties; `policy.Policy` documents the arguments."""
        return Policy(
            require_auth=self.require_auth,
            channel_binding=self.channel_binding,
            min_iterations=self.scram_min_iterations,
            max_iterations=self.scram_max_iterations,
            is_private=is_private,
            is_tls=is_tls,
            binding=binding,
            no_binding=no_binding,
            needs_certificate=self.sslcertmode == "require",
            versions=(self.min_protocol_version, self.max_protocol_version),
        )


# ---- from five sources to one value ---------------------------------------------------------------------------------


def _found(dsn: str, environ: Mapping[str, str], options: Mapping[str, object]) -> Found:
    """Return the options that are given, each with its strongest source and the value there."""
    given = {name: value for name, value in options.items() if _gives(_known(name, KEYWORD), value)}
    explicit = _layer(SOURCE, parse_string(dsn)) | _layer(KEYWORD, given)
    found: Found = {}
    for name, variable in VARIABLES.items():
        if variable in environ:
            found[name] = f"environment variable {variable}", environ[variable]
    if "sslmode" not in found and environ.get("PGREQUIRESSL", "").startswith("1"):
        found["sslmode"] = "environment variable PGREQUIRESSL", "require"  # deprecated since 2003, but still read
    # The name of the service may come from the environment, but the options in the service file override it.
    named = found | explicit
    if "service" in named:
        file = _text("servicefile", *named["servicefile"]) if "servicefile" in named else None
        service = _text("service", *named["service"])
        from .service_file import read_service

        path, said = read_service(service, file, environ, home_directory(environ), {*TABLE, *UNSUPPORTED})
        found |= {name: (f"service file {path!r}", value) for name, value in said.items()}
    found |= explicit
    # Checked last, because a stronger source may have turned an unsupported option off.
    for name, (source, value) in found.items():
        refused = UNSUPPORTED.get(name)
        if refused is not None and refused.off is not None and value not in refused.off:
            raise ConfigError(f"{source}: {name} is refused: {refused.reason}")
    return found


def _layer(source: str, pairs: Mapping[str, object]) -> Found:
    """Return the options of one source, under their names in the table."""
    layer: Found = {}
    for alias, value in pairs.items():
        name = _known(alias, source)
        if name in layer and layer[name][1] != value:
            raise ConfigError(f"{source}: {name} is given under two names with different values")
        layer[name] = source, value
    return layer


QUOTING = "or a value with blanks, = or & that is not quoted: it is not shown, for it may be a part of a password"


def _known(name: str, source: str) -> str:
    """Return the option's name in the table. Raises ConfigError for an unknown option."""
    canonical = ALIASES.get(name, name)
    if canonical in TABLE or canonical in UNSUPPORTED:
        return canonical
    import difflib  # imported here, because only this error needs it

    if name in ELSEWHERE:
        hint = f"; here that is {ELSEWHERE[name]}"
    else:
        near = difflib.get_close_matches(name.lower(), [*TABLE, *ALIASES], n=1)
        hint = "".join(f"; did you mean {other}?" for other in near)
    # In a connection string, the name may be part of a wrongly quoted password, so it is not shown.
    shown = "" if source == SOURCE else f' "{name}"'
    raise ConfigError(f"{source}: unknown option{shown}{hint or f'; {QUOTING}' * (not shown)}")


def _gives(name: str, value: object) -> bool:
    """Whether a keyword argument gives the option a value.

    PQconnectdbParams ignores empty values. None counts as empty too, unless the option has a meaning for it.
    """
    return (name in TABLE and NoneType in TABLE[name].types) if value is None else value != ""


def _settle(name: str, option: Option, source: str, value: object) -> object:
    """Parse and check `value`; return the attribute of the ConnConfig. Raises ConfigError."""
    types = (*option.types, str)
    if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
        needs = option.needs if object in types else "of type " + " or ".join(kind.__name__ for kind in types)
        raise ConfigError(f"{source}: {name} must be {needs}, not {type(value).__name__}")
    if isinstance(value, str):
        _text(name, source, value)
    try:
        return option.check(option.parse(value) if isinstance(value, str) else value)
    except ValueError:
        raise ConfigError(f"{source}: {name} must be {option.needs}") from None


def _text(name: str, source: str, value: object) -> str:
    """Return the value if it is text that can be sent. Raises ConfigError otherwise."""
    if not isinstance(value, str):
        raise ConfigError(f"{source}: {name} must be of type str, not {type(value).__name__}")
    if re.search(UNSENDABLE, value):
        raise ConfigError(f"{source}: {name} {NOT_SENDABLE}")
    return value


def home_directory(environ: Mapping[str, str]) -> str | None:
    """Return the home directory as libpq finds it (pqGetHomeDirectory): HOME, else the system's entry for the user."""
    if home := environ.get("HOME"):
        return home
    import pwd

    try:
        return pwd.getpwuid(os.geteuid()).pw_dir
    except KeyError:
        return None
