"""Connection strings compared with libpq: the same strings are accepted, with the same meaning."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from psycopg import OperationalError, pq

from pg_wired.auth import policy
from pg_wired.config import options
from pg_wired.config.config import ConnConfig
from pg_wired.config.dsn import parse_string
from pg_wired.config.tls import TlsMode
from pg_wired.errors import ConfigError
from rig.postgres import free_port

LIBPQ_NAMES = {option.keyword.decode() for option in pq.Conninfo.get_defaults()}
OURS = {*options.TABLE, *options.ALIASES} - LIBPQ_NAMES
# Our messages for what libpq accepts and we refuse deliberately. Nothing else may differ.
DELIBERATE = re.compile(
    "this part is not UTF-8 once decoded"  # libpq sends any octets
    "| is refused: "  # not supported
    "|sslsni must be 0 or 1"  # to libpq every value but 1 means 0, even `on`
    "|channel_binding=require needs TLS|sslcertmode=require needs TLS"  # libpq detects this later
)


# ---- the syntax, compared with PQconninfoParse ----------------------------------------------------------------------


def libpq_string(dsn: str) -> dict[str, bytes] | None:
    """The options that libpq reads in a connection string; None if it refuses the string."""
    try:
        return {
            option.keyword.decode(): option.val for option in pq.Conninfo.parse(dsn.encode()) if option.val is not None
        }
    except OperationalError:
        return None


def our_string(dsn: str) -> dict[str, str] | ConfigError:
    try:
        said = parse_string(dsn)
        for name in said:
            if name not in {*options.TABLE, *options.ALIASES, *options.UNSUPPORTED}:
                ConnConfig.parse(dsn, environ={})
                pytest.fail(f"the unknown option {name!r} was accepted in {dsn!r}")
        return said
    except ConfigError as refused:
        return refused


def assert_same_string(dsn: str) -> None:
    # Older libpq keeps the spaces of a URI; 18 drops or refuses them, and so do we.
    assume(pq.version() >= 180000 or not (dsn.startswith("postgres") and " " in dsn))
    theirs, ours = libpq_string(dsn), our_string(dsn)
    if isinstance(ours, ConfigError):
        assert theirs is None or DELIBERATE.search(str(ours)), f"libpq reads {theirs} in {dsn!r}; we say: {ours}"
    elif OURS & set(ours):
        assert theirs is None, f"libpq knows one of our own options in {dsn!r}"
    else:
        assert theirs is not None, f"libpq refuses {dsn!r}; we read {ours}"
        assert {name: value.encode() for name, value in ours.items()} == theirs, f"in {dsn!r}"


known = st.sampled_from([*options.TABLE, *options.UNSUPPORTED])
odd = st.sampled_from(["database", "hots", "requiressl", "ssl", "HOST", "ho st", ""])
names = known | known | known | odd
blanks = st.text(" \t\n\v\f\r", max_size=2)
characters = st.sampled_from([*"ab0:/?#[]@!$&'()*+,;=%\\\" \t\n\r\v\f", "\x1c", "\x85", "\xa0", "é", "😀", "\u2003"])
texts = st.text(characters, max_size=6)
plain = st.sampled_from(["", "a", "localhost", "/tmp", "::1", "5432", "disable", "prefer", "UTF8", "10"])
values = plain | texts


def quoted(value: str) -> str:
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


keyword_values = plain | texts | values.map(quoted)
keyword_strings = st.lists(
    st.tuples(blanks, names, blanks, st.just("="), blanks, keyword_values, st.sampled_from([" ", "\n", "\t ", ""])).map(
        "".join
    ),
    max_size=4,
).map("".join)


def escaped(value: str) -> str:
    return "".join(f"%{octet:02x}" for octet in value.encode())


encoded = (
    plain
    | texts
    | values.map(escaped)
    | st.sampled_from(["%", "%4", "%4g", "%00", "%ff", "%C3%a9", "%20", " a ", "a b"])
)
userinfos = st.just("") | st.tuples(encoded, st.sampled_from(["", ":"]), encoded, st.just("@")).map("".join)
hosts = encoded | st.sampled_from(
    ["[::1]", "[]", "[::1", "[fe80::1%25lo]", "[::1]x", "%2Ftmp", "a,b", "[::1],b", "a[b]"]
)
ports = st.sampled_from(["", "", ":", ":5432", ":%35", ":x", ":1,2", ": 5 "])
netlocs = st.lists(st.tuples(hosts, ports).map("".join), max_size=3).map(",".join)
dbnames = st.just("") | encoded.map(lambda name: "/" + name)
parameters = st.tuples(names | names.map(escaped), st.sampled_from(["=", "=", "=", "", "=="]), encoded).map("".join)
queries = st.just("") | st.lists(parameters, max_size=3).map("&".join).map(lambda query: "?" + query)
schemes = st.sampled_from([*["postgresql://", "postgres://"] * 5, "postgresql:/", "Postgres://", "http://"])
uris = st.tuples(schemes, userinfos, netlocs, dbnames, queries).map("".join)

edits = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 2), characters | st.just("")), max_size=3)


def mutated(dsn: str, changes: list[tuple[int, int, str]]) -> str:
    """`dsn` with some characters removed and inserted."""
    for at, cut, put in changes:
        at = min(at, len(dsn))
        dsn = dsn[:at] + put + dsn[at + cut :]
    return dsn


@settings(max_examples=400, deadline=None)
@given(keyword_strings, edits)
@example("host = x  password='it''s \\'q\\''", [])
@example("host='a'port=5", [])
@example("requiressl=1", [])
@example("requiressl=x sslmode=disable", [])
@example("host=a\\", [])
@example("host='a\\", [])
@example("password=a\\ b\\\\c\\'d", [])
@example("=", [])
def test_the_keyword_form_is_read_as_by_libpq(dsn: str, changes: list[tuple[int, int, str]]) -> None:
    assert_same_string(mutated(dsn, changes))


@settings(max_examples=500, deadline=None)
@given(uris, edits)
@example("postgresql://", [])
@example("postgres://u:p?x@h:1/d?application_name=a&", [])
@example("postgresql://u?a=b@h", [])
@example("postgresql:// @h", [])
@example("postgresql://h/?ssl=true", [])
@example("postgresql://h/?host=a&&", [])
@example("postgresql://u@[::1", [])
@example("postgresql://a:1,[::1]:,b,:4,/d", [])
@example("postgresql://a,[::1]x", [])
@example("postgresql:///?host=/tmp&requiressl=0", [])
@example("postgresql:// a , b :1,: 2 /", [])
@example("postgresql://%2Fvar%2Frun/d%C3%A9?%68ost=%2Ftmp", [])
def test_the_uri_form_is_read_as_by_libpq(dsn: str, changes: list[tuple[int, int, str]]) -> None:
    assert_same_string(mutated(dsn, changes))


@given(
    st.text(max_size=40) | uris | keyword_strings,
    st.dictionaries(names, st.none() | st.text() | st.integers() | st.floats()),
)
def test_any_other_input_is_accepted_or_a_config_error(dsn: str, keywords: dict[str, Any]) -> None:
    try:
        ConnConfig.parse(dsn, **keywords)
    except ConfigError as refused:
        assert str(refused)


# ---- values and the environment, compared with PQconnectStart -------------------------------------------------------

INTEGERS = [
    *["5", "+5", "-1", "0", "00005", "65535", "65536", "5s", "1.5", "0x10", "1_0", "\u0665", "+", "000000000000005"],
    *["2147483647", "2147483648", "-2147483648", "-2147483649"],
    *[" ", " 5 ", "- 5", "\t5\v", "9" * 5000],
]
NAMES = ["", "a", "it's", "b\\c", " d ", "é"]
POOL = {
    "port": ["", *INTEGERS],
    "user": NAMES,
    "password": NAMES,
    "dbname": NAMES,
    "application_name": NAMES,
    "options": NAMES,
    "sslmode": ["", *(mode.value for mode in TlsMode), "Prefer", "prefer ", "x"],
    "client_encoding": ["", "auto", "UTF8", "utf-8"],
    "fallback_application_name": NAMES,
    "replication": ["", "database", "x"],
    "sslnegotiation": ["", "postgres", "direct", "Direct"],
    "sslrootcert": ["", "system", "/nowhere/root.crt"],
    "sslcertmode": ["", "disable", "allow", "require", "x"],
    "ssl_min_protocol_version": [
        "TLSv1",
        "tlsv1.3",
        "SSLv3",
        "1.2",
    ],  # "" means no bound to libpq, and the default here
    "ssl_max_protocol_version": ["", "TLSv1.1", "TLSV1.2", "x"],
    "min_protocol_version": ["", "3.0", "3.1", "3.2", "latest", "Latest"],
    "max_protocol_version": ["", "3.0", "3", "3.2", "latest", " 3.2"],
    "channel_binding": ["", "disable", "prefer", "require", "x"],
    "target_session_attrs": ["", "any", "read-write", "read-only", "primary", "standby", "prefer-standby", "Any"],
    "load_balance_hosts": ["", "disable", "random", "x"],
    "requirepeer": NAMES,
    "gssencmode": ["", "disable", "prefer", "x"],
    "sslsni": ["0", "1"],
}
# One wrong value hides all the others, so only a few at a time.
given_values = st.dictionaries(st.sampled_from(list(POOL)), st.none(), max_size=4).flatmap(
    lambda names: st.fixed_dictionaries({name: st.sampled_from(POOL[name]) for name in names})
)
AS_THEY_ARE = [
    *("host", "user", "password", "dbname", "application_name", "fallback_application_name", "options", "replication"),
    *("sslnegotiation", "sslrootcert", "sslcertmode", "channel_binding", "requirepeer"),
    *("target_session_attrs", "load_balance_hosts"),
]


class Start(NamedTuple):
    """The options that PQconnectStart decides on, and the paths of the sockets that it tried."""

    settled: dict[str, str]
    paths: list[str]
    password: str


def libpq_start(dsn: str, environ: Mapping[str, str]) -> Start | None:
    """The result of libpq in an environment without other PG variables; None if it refuses."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    with mock.patch.dict(os.environ, {**clean, "PGPASSFILE": "/nowhere/passfile", **environ}, clear=True):
        conn = pq.PGconn.connect_start(dsn.encode())
    paths = re.findall(r'connection to server on socket "(.+)" failed', conn.error_message.decode())
    settled = {option.keyword.decode(): option.val.decode() for option in conn.info if option.val}
    password = conn.password.decode("utf-8", "surrogateescape")
    conn.finish()
    return Start(settled, paths, password) if paths else None


@settings(max_examples=200, deadline=None)
@given(given_values, given_values, given_values)
@example({}, {"PGREQUIRESSL": "1"}, {})
@example({}, {"PGREQUIRESSL": "1", "PGSSLMODE": "allow"}, {})
@example({}, {"PGREQUIRESSL": "0"}, {})
@example({"application_name": "", "fallback_application_name": "x"}, {}, {})
def test_sources_and_values_are_combined_as_by_libpq(
    string: dict[str, str], variables: dict[str, str], keywords: dict[str, str]
) -> None:
    host = "/nowhere"  # every attempt fails at once, with the path in its message
    dsn = " ".join(f"{name}={quoted(value)}" for name, value in {**string, "host": host}.items())
    environ = {options.VARIABLES.get(name, name): value for name, value in variables.items()}
    # PQconnectdbParams lets a later keyword win, and ignores empty values.
    strongest = " ".join(f"{name}={quoted(value)}" for name, value in keywords.items() if value)
    theirs = libpq_start(f"{dsn} {strongest}", environ)
    try:
        ours = ConnConfig.parse(dsn, environ=environ, **keywords)
    except ConfigError as refused:
        assert theirs is None or DELIBERATE.search(str(refused)), refused
        return
    assert theirs is not None
    settled = theirs.settled
    tries = 2 if ours.target_session_attrs == "prefer-standby" else 1  # then all hosts again, if there is no standby
    assert [place.socket_path for place in ours.hosts] * tries == theirs.paths
    assert ours.sslmode.value == settled["sslmode"]
    assert ours.sslsni == (settled["sslsni"] == "1")
    assert (ours.ssl_max_protocol_version or "").lower() == settled.get("ssl_max_protocol_version", "").lower()
    for name in AS_THEY_ARE:
        assert (getattr(ours, name) or "") == settled.get(name, ""), name


LISTS = [
    "",
    "/nowhere/a",
    "/nowhere/a,/nowhere/b",
    "/nowhere/a,/nowhere/b,/nowhere/c",
    "/nowhere/a,/nowhere/a",
    "@a,@b",
]


@pytest.mark.parametrize("port", ["", "1", "1,2", "1,", ",2", ",", "1,2,3", ",,", " 1 , 2 ", "1,0", "1,x"])
@pytest.mark.parametrize("host", LISTS[1:])
def test_lists_of_hosts_and_ports_are_matched_as_by_libpq(host: str, port: str) -> None:
    theirs = libpq_start(f"host={host} port={quoted(port)}", {})
    try:
        ours = ConnConfig.parse(f"host={host} port={quoted(port)}", environ={})
    except ConfigError as refused:
        # libpq checks a port only when it reaches the host.
        later = theirs is not None and len(theirs.paths) < host.count(",") + 1
        assert theirs is None or (later and "port must be" in str(refused))
        return
    assert theirs is not None and [place.socket_path for place in ours.hosts] == theirs.paths


METHODS = st.sampled_from([*policy.METHODS, "", "x", "SCRAM-SHA-256", " md5"])
METHOD_LISTS = st.lists(st.tuples(st.sampled_from(["", "", "!", "!!"]), METHODS).map("".join), max_size=4)


@given(METHOD_LISTS.map(",".join) | st.permutations(policy.METHODS).map(lambda all_: ",!".join(["", *all_])[1:]))
def test_require_auth_is_accepted_or_refused_as_by_libpq(value: str) -> None:
    dsn = f"host=/nowhere require_auth={quoted(value)}"
    try:
        ConnConfig.parse(dsn, environ={})
    except ConfigError as refused:
        assert libpq_start(dsn, {}) is None, refused
    else:
        assert libpq_start(dsn, {}) is not None


KERNEL = ["keepalives", "keepalives_idle", "keepalives_interval", "keepalives_count", "tcp_user_timeout"]


@pytest.mark.parametrize("value", ["", *INTEGERS])
@pytest.mark.parametrize("name", KERNEL)
def test_numbers_for_the_kernel_are_accepted_or_refused_as_by_libpq(name: str, value: str) -> None:
    dsn = f"hostaddr=127.0.0.1 port={free_port()} {name}={quoted(value)}"
    conn = pq.PGconn.connect_start(dsn.encode())
    refused = b"invalid integer value" in conn.error_message
    conn.finish()
    if refused:
        with pytest.raises(ConfigError, match=f"{name} must be an integer"):
            ConnConfig.parse(dsn, environ={})
    else:
        assert ConnConfig.parse(dsn, environ={})


@pytest.fixture(scope="module")
def closing_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The directory of a socket whose server closes each connection.

    The server is another process, because libpq waits without releasing the GIL.
    """
    directory = tmp_path_factory.mktemp("socket")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(directory / ".s.PGSQL.5432"))
        listener.listen()
        code = f"import socket\ns = socket.socket(fileno={listener.fileno()})\nwhile True: s.accept()[0].close()"
        with subprocess.Popen([sys.executable, "-c", code], pass_fds=[listener.fileno()]) as server:
            yield directory
            server.kill()


@pytest.mark.parametrize("value", ["", *INTEGERS])
def test_connect_timeout_is_read_as_by_libpq(closing_server: Path, value: str) -> None:
    dsn = f"host={quoted(str(closing_server))} connect_timeout={quoted(value)}"
    conn = pq.PGconn.connect(dsn.encode())
    refused = b"invalid integer value" in conn.error_message
    assert refused or conn.error_message.startswith(b"connection to server on socket"), conn.error_message
    conn.finish()
    ways: list[dict[str, Any]] = [{"dsn": dsn}, {"environ": {"PGCONNECT_TIMEOUT": value}}]
    if value:  # an empty keyword argument is ignored
        ways.append({"connect_timeout": value})
    for arguments in ways:
        arguments = {"environ": {}, **arguments}
        if refused:
            with pytest.raises(ConfigError, match="connect_timeout must be seconds"):
                ConnConfig.parse(**arguments)
        else:
            wanted = int(value) if int(value) > 0 else None
            assert ConnConfig.parse(**arguments).connect_timeout == wanted
