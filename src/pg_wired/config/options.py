"""The table of connection options: the meaning, variable, default, parser and check of each option.

Names, variables, meanings and defaults are libpq's (libpq 18, "Parameter Key Words" and "Environment Variables").
Comments mark the exceptions.
"""

from __future__ import annotations

import os
import pwd
import re
from collections.abc import Callable, Mapping
from types import NoneType
from typing import Any

from ..auth import policy
from ..errors import ConfigError
from .hosts import PORT, addresses, ports
from .option_kinds import (
    INT_MAX,
    Option,
    Unsupported,
    between,
    integer,
    kernel_seconds,
    members,
    number,
    switch,
    text,
    version,
    words,
)
from .tls import TlsConfig, TlsMode

# The protocol versions that are supported, the same as in libpq 18.
PROTOCOLS = {"3.0": (3, 0), "3.2": (3, 2), "latest": (3, 2)}
TLS_VERSIONS = ("TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3")


def _port(value: int | tuple[int, ...]) -> tuple[int, ...]:
    return (between(1, 65535)(value),) if isinstance(value, int) else value


def _seconds(value: float | None) -> float | None:
    if value is None or value <= 0:
        return None
    if not value <= INT_MAX:  # in this form the test refuses NaN too
        raise ValueError
    return float(value)


def _milliseconds(value: int) -> int:
    return between(0, INT_MAX)(max(0, value))


def _zero_or_one(word: str) -> int:
    return ("0", "1").index(word)


def _utf8(encoding: str) -> str:
    # The server compares only letters and digits, ignores case, and accepts UNICODE for UTF8 (encnames.c,
    # pg_char_to_encoding). `auto` is libpq's own word for the locale's encoding; here the locale does not matter.
    if encoding != "auto" and re.sub("[^0-9a-z]", "", encoding.lower()) not in ("utf8", "unicode"):
        raise ValueError
    return "UTF8"


def _tls_version(name: str) -> str:
    return TLS_VERSIONS[[known.lower() for known in TLS_VERSIONS].index(name.lower())]


def _tls(value: object) -> object:
    if not hasattr(value, "wrap_socket") and not isinstance(value, TlsConfig):
        raise ValueError
    return value


def _no_text(_: str) -> object:
    raise ValueError


def _default_user(_settled: Mapping[str, Any]) -> str:
    """the system's user"""
    uid = os.geteuid()
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        raise ConfigError(f"user must be given: the operating system has no name for user ID {uid}") from None


def _default_dbname(settled: Mapping[str, Any]) -> object:
    """the user's name"""
    return settled["user"]


def _default_sslmode(settled: Mapping[str, Any]) -> TlsMode:
    """`prefer`; `require` with `tls`; `verify-full` with `sslrootcert=system` or roots in a `TlsConfig`"""
    tls = settled["tls"]
    if settled["sslrootcert"] == "system" or (isinstance(tls, TlsConfig) and tls.roots):
        return TlsMode.VERIFY_FULL
    return TlsMode.PREFER if tls is None else TlsMode.REQUIRE


def _default_newest(settled: Mapping[str, Any]) -> object:
    """`3.0`; `latest` where `min_protocol_version` is newer"""
    return PROTOCOLS["latest" if settled["min_protocol_version"] > PROTOCOLS["3.0"] else "3.0"]


TABLE: dict[str, Option] = {
    "service": text("a section of the service file, whose options are taken", "PGSERVICE"),
    # libpq 19's keyword; libpq 18 has only the variable.
    "servicefile": text("the service file, instead of `~/.pg_service.conf`", "PGSERVICEFILE"),
    "host": text(
        "names, addresses or directories of Unix sockets (`@`: abstract ones), with commas; without one the system's "
        "directory of sockets, else `localhost`",
        "PGHOST",
    ),
    "hostaddr": Option(
        "their numeric addresses, so that no name is looked up",
        "PGHOSTADDR",
        None,
        "numeric addresses, with commas",
        addresses,
    ),
    "port": Option(
        "one port for all hosts, or one for each",
        "PGPORT",
        (PORT,),
        "an integer from 1 to 65535, or several with commas",
        ports,
        _port,
        (int,),
    ),
    "user": Option("the role to log in as", "PGUSER", _default_user),
    "password": Option(
        "the password; as a keyword argument also a function, or a coroutine function, that is asked for it",
        "PGPASSWORD",
        None,
        types=(Callable,),  # type: ignore[arg-type]  # isinstance takes it
        secret=True,
    ),
    "passfile": text("the password file, instead of `~/.pgpass`", "PGPASSFILE"),
    "dbname": Option("the database; `database` is the same", "PGDATABASE", _default_dbname),
    # As in libpq, an empty application_name is not sent, and prevents the fallback from being sent.
    "application_name": Option("what the server's log and statistics call us", "PGAPPNAME", None, blank=False),
    "fallback_application_name": text("the same, where `application_name` is not given"),
    "client_encoding": Option(
        "the encoding of text", "PGCLIENTENCODING", "UTF8", "UTF8 or auto, the only encoding here", check=_utf8
    ),
    "options": text("settings for the session: `-c name=value`", "PGOPTIONS"),
    "replication": text("`database` or `true`: speak the replication protocol"),
    "target_session_attrs": words(
        "which kind of server will do",
        "PGTARGETSESSIONATTRS",
        "any",
        *("any", "read-write", "read-only", "primary", "standby", "prefer-standby"),
    ),
    "load_balance_hosts": words(
        "`random`: try hosts and addresses in any order", "PGLOADBALANCEHOSTS", "disable", "disable", "random"
    ),
    # Our own default (I9): libpq would wait without limit.
    "connect_timeout": Option(
        "seconds for each attempt: name, socket, TLS and login; 0 means none",
        "PGCONNECT_TIMEOUT",
        10.0,
        f"seconds up to {INT_MAX}, in strings an integer (0 or less: no limit)",
        integer,
        _seconds,
        (int, float, NoneType),
        blank=False,
    ),
    "keepalives": switch("whether the kernel probes a silent connection", None, integer, "an integer (0: off)"),
    # Our own defaults (I11): libpq leaves these to the kernel.
    "keepalives_idle": kernel_seconds("seconds of silence before the first probe", 60),
    "keepalives_interval": kernel_seconds("seconds between probes", 15),
    "keepalives_count": kernel_seconds("probes without an answer before the connection is lost", None),
    "tcp_user_timeout": Option(
        "milliseconds that sent data may stay unacknowledged; 0: the kernel's default",
        None,
        0,
        f"an integer up to {INT_MAX}",
        integer,
        _milliseconds,
        (int,),
        blank=False,
    ),
    "requirepeer": text("the system's user that must own the server at a Unix socket", "PGREQUIREPEER"),
    "require_auth": Option(
        "the ways to log in that are allowed, with commas; or, each with a `!`, those that are not",
        "PGREQUIREAUTH",
        None,
        f"a list of {', '.join(policy.METHODS)}, each once, and with ! before all of them or none",
        policy.methods,
    ),
    "channel_binding": words(
        "whether the login must be bound to the TLS connection",
        "PGCHANNELBINDING",
        "prefer",
        *("disable", "prefer", "require"),
    ),
    # Our own options: the least and the most work that a server may demand with SCRAM.
    "scram_min_iterations": number("the fewest SCRAM iterations that are accepted", 1, 1),
    "scram_max_iterations": number("the most SCRAM iterations that are computed", 100_000, 1),
    "min_protocol_version": version(
        "the oldest protocol that will do", "PGMINPROTOCOLVERSION", PROTOCOLS["3.0"], PROTOCOLS
    ),
    "max_protocol_version": version("the newest to ask for", "PGMAXPROTOCOLVERSION", _default_newest, PROTOCOLS),
    "sslrootcert": text(
        "certificates to trust: a file, instead of `~/.postgresql/root.crt`, or `system`", "PGSSLROOTCERT"
    ),
    # Our own option. It stands before sslmode, because sslmode's default depends on it.
    "tls": Option(
        "a `TlsConfig` or an `ssl.SSLContext` instead of files; a keyword argument only",
        None,
        None,
        "a TlsConfig or an ssl.SSLContext, as a keyword argument",
        _no_text,
        _tls,
        (object,),
    ),
    "sslmode": members("whether TLS is tried or demanded, and what is checked", "PGSSLMODE", _default_sslmode, TlsMode),
    "sslnegotiation": words(
        "`direct`: begin with TLS at once (PostgreSQL 17)", "PGSSLNEGOTIATION", "postgres", "postgres", "direct"
    ),
    "sslcert": text("the client's certificate: a file, instead of `~/.postgresql/postgresql.crt`", "PGSSLCERT"),
    "sslkey": text("its key: a file, instead of `~/.postgresql/postgresql.key`", "PGSSLKEY"),
    "sslpassword": text("what the key is encrypted with", secret=True),
    "sslcertmode": words(
        "whether a client certificate is sent", "PGSSLCERTMODE", "allow", "disable", "allow", "require"
    ),
    "sslcrl": text("certificates that are revoked: a file, instead of `~/.postgresql/root.crl`", "PGSSLCRL"),
    "sslcrldir": text("the same: a directory with hashed names", "PGSSLCRLDIR"),
    "sslsni": switch("whether TLS names the host in the clear", "PGSSLSNI", _zero_or_one, "0 or 1"),
    "ssl_min_protocol_version": Option(
        "the oldest TLS that will do", "PGSSLMINPROTOCOLVERSION", "TLSv1.2", ", ".join(TLS_VERSIONS), _tls_version
    ),
    "ssl_max_protocol_version": Option(
        "the newest TLS that will do", "PGSSLMAXPROTOCOLVERSION", None, ", ".join(TLS_VERSIONS), _tls_version
    ),
    # From here on, the options are our own.
    "statement_cache_size": number("prepared statements kept; 0 means none", 256, 0),
    "max_in_flight": number("requests written and not yet answered; 1 for poolers that cannot pipeline", 256, 1),
}
ALIASES = {"database": "dbname"}

_NO_GSS = "GSSAPI is not supported"
_NO_OAUTH = "logging in with OAuth is not supported"
UNSUPPORTED: dict[str, Unsupported] = {
    # A libpq that is compiled without GSSAPI accepts the same two values.
    "gssencmode": Unsupported("PGGSSENCMODE", _NO_GSS, ("disable", "prefer")),
    "krbsrvname": Unsupported("PGKRBSRVNAME", _NO_GSS, ("", "postgres")),
    "gsslib": Unsupported("PGGSSLIB", _NO_GSS),
    "gssdelegation": Unsupported("PGGSSDELEGATION", _NO_GSS, ("", "0")),
    "sslcompression": Unsupported("PGSSLCOMPRESSION", "ignored, as libpq does", None),
    "sslkeylogfile": Unsupported(None, "set keylog_filename of an ssl.SSLContext, and pass that as tls="),
    "scram_client_key": Unsupported(None, "SCRAM keys instead of a password are not supported", ()),
    "scram_server_key": Unsupported(None, "SCRAM keys instead of a password are not supported", ()),
    "oauth_issuer": Unsupported(None, _NO_OAUTH),
    "oauth_client_id": Unsupported(None, _NO_OAUTH),
    "oauth_client_secret": Unsupported(None, _NO_OAUTH),
    "oauth_scope": Unsupported(None, _NO_OAUTH),
}
# Options of asyncpg and psycopg, and what replaces them here.
ELSEWHERE = {
    "ssl": "sslmode= or tls=",
    "command_timeout": "timeout= of each request",
    "server_settings": "options='-c name=value'",
    "min_size": "size= of AsyncPool.connect()",
    "max_size": "size= of AsyncPool.connect(), and max_exclusive=",
    "max_inactive_connection_lifetime": "max_idle= of AsyncPool.connect()",
    "init": "on_connect= of AsyncPool.connect()",
    "setup": "on_connect= of AsyncPool.connect()",
    "configure": "on_connect= of AsyncPool.connect()",
    "autocommit": "nothing: each request is a transaction of its own",
    "prepare_threshold": "statement_cache_size=",
}
# The environment variable of each option that has one.
VARIABLES = {name: row.variable for table in (TABLE, UNSUPPORTED) for name, row in table.items() if row.variable}


def disagreement(settled: Mapping[str, Any]) -> str:
    """Describe the first conflict between options; return "" if there is none."""
    mode = settled["sslmode"]
    weak = mode in (TlsMode.DISABLE, TlsMode.ALLOW, TlsMode.PREFER)
    oldest, newest = settled["ssl_min_protocol_version"], settled["ssl_max_protocol_version"]
    if settled["sslnegotiation"] == "direct" and weak:
        return f"sslnegotiation=direct needs sslmode=require, verify-ca or verify-full, not {mode.value}"
    if settled["sslrootcert"] == "system" and mode is not TlsMode.VERIFY_FULL:
        return f"sslrootcert=system needs sslmode=verify-full, not {mode.value}"
    if newest and TLS_VERSIONS.index(oldest) > TLS_VERSIONS.index(newest):
        return "ssl_min_protocol_version is greater than ssl_max_protocol_version"
    if settled["min_protocol_version"] > settled["max_protocol_version"]:
        return "min_protocol_version is greater than max_protocol_version"
    if settled["scram_min_iterations"] > settled["scram_max_iterations"]:
        return "scram_min_iterations is greater than scram_max_iterations"
    # Our own rule: a caller who passes certificates to check the server against does not want the check skipped.
    if settled["tls"] is not None and mode in (TlsMode.ALLOW, TlsMode.PREFER):
        return f"tls needs sslmode=require, verify-ca or verify-full, not {mode.value}, which may go on in clear"
    # Our own check: libpq notices this conflict only after the login.
    if settled["channel_binding"] == "require" and mode is TlsMode.DISABLE:
        return "channel_binding=require needs TLS, and sslmode=disable rules it out"
    if settled["sslcertmode"] == "require" and mode is TlsMode.DISABLE:
        return "sslcertmode=require needs TLS, and sslmode=disable rules it out"
    return ""
