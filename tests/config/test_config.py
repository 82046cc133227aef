"""Connection options that cannot be compared with libpq: types, sources, defaults, messages, secrets."""

from __future__ import annotations

import copy
import os
import pickle
import ssl
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from psycopg import pq

from pg_wired.config import hosts, options
from pg_wired.config.config import ConnConfig
from pg_wired.config.hosts import HostConfig
from pg_wired.config.tls import TlsConfig, TlsMode
from pg_wired.errors import ConfigError, Outcome

# All defaults that are not None; the user name and the hosts depend on the machine.
DEFAULTS: dict[str, Any] = {
    "client_encoding": "UTF8",
    "target_session_attrs": "any",
    "load_balance_hosts": "disable",
    "connect_timeout": 10.0,
    "keepalives": True,
    "keepalives_idle": 60,
    "keepalives_interval": 15,
    "tcp_user_timeout": 0,
    "channel_binding": "prefer",
    "scram_min_iterations": 1,
    "scram_max_iterations": 100_000,
    "min_protocol_version": (3, 0),
    "max_protocol_version": (3, 0),
    "sslmode": TlsMode.PREFER,
    "sslnegotiation": "postgres",
    "sslcertmode": "allow",
    "sslsni": True,
    "ssl_min_protocol_version": "TLSv1.2",
    "statement_cache_size": 256,
    "max_in_flight": 256,
}
CONTEXT = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
TEXTS = ["", "a", "it's", "b\\c", " d ", "é"]


def parse(dsn: str = "", environ: Mapping[str, str] | None = None, **keywords: Any) -> ConnConfig:
    """`ConnConfig.parse` with the environment of the test and without a home directory."""
    return ConnConfig.parse(dsn, environ={"HOME": "/nowhere", **(environ or {})}, **keywords)


def refusal(dsn: str = "", environ: Mapping[str, str] | None = None, **keywords: Any) -> str:
    with pytest.raises(ConfigError) as refused:
        parse(dsn, environ, **keywords)
    assert refused.value.outcome is Outcome.NOT_SENT
    return str(refused.value)


def test_the_config_has_one_attribute_for_each_option() -> None:
    of_hosts = {"host", "hostaddr", "port"}
    attributes = [name for name in ConnConfig.__annotations__ if name not in ("hidden", "hosts")]
    assert attributes == [name for name in options.TABLE if name not in of_hosts]
    assert all(hasattr(parse(user="u"), name) for name in options.TABLE)


def test_every_option_of_libpq_is_known_under_the_same_variable() -> None:
    for option in pq.Conninfo.get_defaults():
        name, variable = option.keyword.decode(), option.envvar and option.envvar.decode()
        assert name in {*options.TABLE, *options.UNSUPPORTED}
        assert options.VARIABLES.get(name) == variable


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"gssencmode": "require"}, "keyword argument: gssencmode is refused: GSSAPI is not supported"),
        ({"dsn": "krbsrvname=pg"}, "connection string: krbsrvname is refused: GSSAPI"),
        (
            {"environ": {"PGGSSDELEGATION": "1"}},
            "environment variable PGGSSDELEGATION: gssdelegation is refused: GSSAPI",
        ),
        ({"gsslib": "gssapi"}, "gsslib is refused: GSSAPI"),
        ({"sslkeylogfile": "/tmp/keys"}, "sslkeylogfile is refused: set keylog_filename of an ssl.SSLContext"),
        ({"scram_client_key": "AAAA"}, "scram_client_key is refused: SCRAM keys"),
        ({"dsn": "scram_server_key="}, "scram_server_key is refused: SCRAM keys"),
        ({"oauth_issuer": "https://id"}, "oauth_issuer is refused: logging in with OAuth is not supported"),
        ({"oauth_client_id": "us"}, "oauth_client_id is refused"),
        ({"oauth_client_secret": "s"}, "oauth_client_secret is refused"),
        ({"oauth_scope": "all"}, "oauth_scope is refused"),
    ],
)
def test_unsupported_options_are_refused_with_a_reason(given: dict[str, Any], reason: str) -> None:
    assert refusal(**given).startswith(reason) or reason in refusal(**given)


def test_unsupported_options_that_are_off_are_accepted() -> None:
    off = "gssencmode=disable krbsrvname=postgres gsslib='' gssdelegation=0 sslcompression=1 oauth_scope=''"
    assert parse(off, {"PGGSSENCMODE": "prefer", "PGSSLCOMPRESSION": "x"}, user="u") == parse(user="u")


def test_an_empty_configuration_has_the_documented_defaults(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(hosts, "SOCKET_DIRECTORIES", [str(tmp_path / "none"), str(tmp_path)])
    user = subprocess.run(["id", "-un"], capture_output=True, text=True, check=True).stdout.strip()
    nothing = dict.fromkeys(name for name in ConnConfig.__annotations__ if name != "hidden")
    named = {"hosts": (HostConfig(str(tmp_path), None, 5432, None),), "user": user, "dbname": user}
    assert parse() == parse(" \n") == ConnConfig(**{**nothing, **DEFAULTS, **named})
    monkeypatch.setattr(hosts, "SOCKET_DIRECTORIES", [str(tmp_path / "none")])
    assert parse().host == "localhost"


def test_the_environment_of_the_process_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGHOST", "from.the.process")
    assert ConnConfig.parse().host == "from.the.process"
    assert parse(user="u").host != "from.the.process"


@pytest.mark.parametrize(
    ("keywords", "mode"),
    [
        ({"sslrootcert": "system"}, TlsMode.VERIFY_FULL),
        ({"tls": TlsConfig(roots="ca.crt")}, TlsMode.VERIFY_FULL),
        ({"tls": TlsConfig(roots="system")}, TlsMode.VERIFY_FULL),
        ({"tls": TlsConfig()}, TlsMode.REQUIRE),
        ({"tls": ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)}, TlsMode.REQUIRE),
        ({"tls": TlsConfig(roots="ca.crt"), "sslmode": "verify-ca"}, TlsMode.VERIFY_CA),
        ({"tls": TlsConfig(roots="ca.crt"), "sslmode": "disable"}, TlsMode.DISABLE),
    ],
)
def test_the_default_of_sslmode_depends_on_the_other_tls_options(keywords: dict[str, Any], mode: TlsMode) -> None:
    assert ConnConfig.parse(user="u", environ={}, **keywords).sslmode is mode


def test_a_user_must_be_given_if_the_system_user_has_no_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 4_000_000_001)
    assert "user must be given" in refusal()
    assert parse(user="u").dbname == "u"
    assert parse(environ={"PGUSER": "u"}).user == "u"
    assert ConnConfig.parse(user="u", environ={}).hosts[0].password is None  # without a home there is no password file


def test_stronger_sources_win() -> None:
    variables = {"PGHOST": "env", "PGPORT": "1", "PGUSER": "env", "PGDATABASE": "env"}
    config = parse("postgresql://string:2/", variables, host="keyword", database="keyword")
    assert (config.host, config.port, config.user, config.dbname) == ("keyword", 2, "env", "keyword")
    assert config.database == "keyword"


def test_a_blank_value_means_the_default_in_a_string_and_is_ignored_in_a_keyword() -> None:
    variables = {"PGUSER": "env", "PGDATABASE": "env", "PGPASSWORD": "env"}
    blank = parse("dbname='' password=''", variables)
    assert (blank.dbname, blank.password) == ("env", None)  # dbname defaults to the user name, password to None
    assert parse("ssl_min_protocol_version=''").ssl_min_protocol_version == "TLSv1.2"
    passed_over = parse("dbname=string", variables, dbname="", password=None, connect_timeout="", port=None)
    assert (passed_over.dbname, passed_over.password, passed_over.connect_timeout) == ("string", "env", 10.0)


@pytest.mark.parametrize(
    "name",
    [
        *("connect_timeout", "sslmode", "statement_cache_size", "max_in_flight", "keepalives", "keepalives_idle"),
        *("tcp_user_timeout", "channel_binding", "target_session_attrs", "max_protocol_version", "sslsni"),
    ],
)
def test_some_options_refuse_a_blank_value(name: str) -> None:
    assert refusal(f"{name}=''").startswith(f"connection string: {name} must be ")


def test_two_names_of_one_option_must_not_disagree_in_one_source() -> None:
    assert parse("dbname=a database=a").dbname == parse(dbname="a", database="a").dbname == "a"
    assert parse("dbname=a", database="b").dbname == "b"
    assert parse(dbname="a", database=None).dbname == "a"
    for message in (refusal("dbname=a database=b"), refusal(database="a", dbname="b")):
        assert "dbname is given under two names with different values" in message


@pytest.mark.parametrize(
    ("keywords", "attribute"),
    [
        ({"connect_timeout": 0.25}, 0.25),
        ({"connect_timeout": 3}, 3.0),
        ({"connect_timeout": "3"}, 3.0),
        ({"connect_timeout": 0}, None),
        ({"connect_timeout": -0.5}, None),
        ({"connect_timeout": None}, None),
        ({"connect_timeout": float("-inf")}, None),
        ({"port": 1}, 1),
        ({"port": " 65535 "}, 65535),
        ({"keepalives": False}, False),
        ({"keepalives": "-1"}, True),
        ({"keepalives": 0}, False),
        ({"keepalives_idle": 0}, None),
        ({"keepalives_interval": "-3"}, None),
        ({"keepalives_count": 3}, 3),
        ({"tcp_user_timeout": -1}, 0),
        ({"tcp_user_timeout": "3000"}, 3000),
        ({"sslsni": "0"}, False),
        ({"sslsni": True}, True),
        ({"max_protocol_version": "latest"}, (3, 2)),
        ({"min_protocol_version": "3.0"}, (3, 0)),
        ({"ssl_max_protocol_version": "tlsV1.3"}, "TLSv1.3"),
        ({"require_auth": "!none,!password"}, frozenset({"md5", "gss", "sspi", "scram-sha-256", "oauth"})),
        ({"require_auth": "none,md5"}, frozenset({"none", "md5"})),
        ({"require_auth": "password"}, frozenset({"password", "password in clear"})),
        ({"sslrootcert": "system"}, "system"),
        ({"tls": CONTEXT}, CONTEXT),
        ({"sslmode": "verify-full"}, TlsMode.VERIFY_FULL),
        ({"sslmode": TlsMode.ALLOW}, TlsMode.ALLOW),
        ({"sslmode": "disable"}, TlsMode.DISABLE),
        ({"client_encoding": "Unicode"}, "UTF8"),
        ({"statement_cache_size": 0}, 0),
        ({"max_in_flight": "1"}, 1),
        ({"scram_max_iterations": 2**31 - 1}, 2**31 - 1),
    ],
)
def test_keyword_values_are_converted(keywords: dict[str, Any], attribute: object) -> None:
    config = parse("connect_timeout=7", **keywords)
    (name,) = keywords
    assert getattr(config, name) == attribute
    assert type(getattr(config, name)) is type(attribute)


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"host": b"h"}, "keyword argument: host must be of type str, not bytes"),
        ({"password": 1}, "keyword argument: password must be of type Callable or str, not int"),
        ({"port": True}, "keyword argument: port must be of type int or str, not bool"),
        ({"port": 5432.0}, "keyword argument: port must be of type int or str, not float"),
        ({"connect_timeout": True}, "connect_timeout must be of type int or float or NoneType or str, not bool"),
        (
            {"tls": True},
            "tls must be a TlsConfig or an ssl.SSLContext, as a keyword argument, not bool",
        ),
        ({"sslmode": True}, "sslmode must be of type TlsMode or str, not bool"),
        ({"port": 0}, "port must be an integer from 1 to 65535"),
        ({"port": 65536}, "port must be an integer from 1 to 65535"),
        ({"port": "5432,5433"}, "could not match 2 port numbers to 1 hosts"),
        ({"port": "5432,x", "host": "a,b"}, "port must be an integer from 1 to 65535, or several with commas"),
        ({"host": "a,b,c", "hostaddr": "::1,::2"}, "could not match 3 host names to 2 hostaddr values"),
        ({"hostaddr": "localhost"}, "hostaddr must be numeric addresses, with commas"),
        ({"keepalives_idle": 2**31}, "keepalives_idle must be an integer up to 2147483647"),
        ({"tcp_user_timeout": "1.5"}, "tcp_user_timeout must be an integer up to 2147483647"),
        ({"sslsni": "on"}, "sslsni must be 0 or 1"),
        ({"channel_binding": "Require"}, "channel_binding must be disable, prefer or require"),
        (
            {"require_auth": "scram"},
            "require_auth must be a list of password, md5, gss, sspi, scram-sha-256, oauth, none,",
        ),
        ({"require_auth": "md5,!none"}, "and with ! before all of them or none"),
        ({"max_protocol_version": "3.1"}, "max_protocol_version must be 3.0, 3.2 or latest"),
        ({"ssl_min_protocol_version": "SSLv3"}, "ssl_min_protocol_version must be TLSv1, TLSv1.1, TLSv1.2, TLSv1.3"),
        ({"tls": "file.pem"}, "tls must be a TlsConfig or an ssl.SSLContext, as a keyword argument"),
        ({"tls": object()}, "tls must be a TlsConfig or an ssl.SSLContext, as a keyword argument"),
        ({"dsn": "tls=x"}, "connection string: tls must be a TlsConfig or an ssl.SSLContext, as a keyword argument"),
        ({"tls": TlsConfig(), "sslmode": "prefer"}, "tls needs sslmode=require, verify-ca or verify-full, not prefer"),
        ({"tls": TlsConfig(), "sslmode": "allow"}, "tls needs sslmode=require, verify-ca or verify-full, not allow"),
        ({"dsn": "servicefile=\ud800"}, "must not contain NUL or anything but UTF-8"),
        ({"service": 5}, "keyword argument: service must be of type str, not int"),
        (
            {"sslnegotiation": "direct"},
            "sslnegotiation=direct needs sslmode=require, verify-ca or verify-full, not prefer",
        ),
        ({"sslrootcert": "system", "sslmode": "require"}, "sslrootcert=system needs sslmode=verify-full, not require"),
        (
            {"ssl_min_protocol_version": "TLSv1.3", "ssl_max_protocol_version": "TLSv1.2"},
            "ssl_min_protocol_version is greater than ssl_max_protocol_version",
        ),
        (
            {"min_protocol_version": "3.2", "max_protocol_version": "3.0"},
            "min_protocol_version is greater than max_protocol_version",
        ),
        ({"scram_min_iterations": 9, "scram_max_iterations": 8}, "scram_min_iterations is greater than scram_max"),
        (
            {"channel_binding": "require", "sslmode": "disable"},
            "channel_binding=require needs TLS, and sslmode=disable",
        ),
        ({"sslcertmode": "require", "sslmode": "disable"}, "sslcertmode=require needs TLS, and sslmode=disable"),
        ({"connect_timeout": float("nan")}, "connect_timeout must be seconds up to 2147483647"),
        ({"connect_timeout": float("inf")}, "connect_timeout must be seconds up to 2147483647"),
        ({"connect_timeout": 10**400}, "connect_timeout must be seconds up to 2147483647"),
        ({"connect_timeout": "0.5"}, "in strings an integer"),
        ({"statement_cache_size": -1}, "statement_cache_size must be an integer from 0 to 2147483647"),
        ({"max_in_flight": 0}, "max_in_flight must be an integer from 1 to 2147483647"),
        ({"scram_max_iterations": "0"}, "scram_max_iterations must be an integer from 1 to 2147483647"),
        ({"client_encoding": "LATIN1"}, "client_encoding must be UTF8 or auto"),
        ({"client_encoding": "AUTO"}, "client_encoding must be UTF8 or auto"),
        ({"sslmode": "Prefer"}, "sslmode must be disable, allow, prefer, require, verify-ca or verify-full"),
        ({"user": "a\0b"}, "keyword argument: user must not contain NUL or anything but UTF-8"),
        ({"user": "a\udcff"}, "keyword argument: user must not contain NUL or anything but UTF-8"),
        ({"pasword": "x"}, 'keyword argument: unknown option "pasword"; did you mean password?'),
        ({"Host": None}, 'keyword argument: unknown option "Host"; did you mean host?'),
        ({"ssl": True}, 'keyword argument: unknown option "ssl"; here that is sslmode= or tls='),
        ({"max_size": 5}, 'unknown option "max_size"; here that is size= of AsyncPool.connect(), and max_exclusive='),
        ({"zzz": ""}, 'keyword argument: unknown option "zzz"'),
        ({"dsn": 5432}, "the connection string must be of type str, not int; write postgresql://"),
    ],
)
def test_wrong_keyword_values_are_refused_with_the_reason(keywords: dict[str, Any], message: str) -> None:
    assert message in refusal(**keywords)


@pytest.mark.parametrize(
    ("dsn", "message"),
    [
        (
            "mydb",
            "position 1: expected option=value; write postgresql://user:password@host:5432/dbname?option=value or",
        ),
        ("postgresql+asyncpg://u:secret@h/d", "position 1: a URL's scheme is postgresql: or postgres: alone"),
        (" jdbc:postgresql://h/d", "position 2: a URL's scheme is postgresql:"),
        ("port=1 host", "position 8: expected option=value"),
        ("host='a", "position 6: the quoted value of host does not end"),
        ("hots=a", "connection string: unknown option; did you mean host?"),
        ("postgresql://h/?sslmod=a", "connection string: unknown option; did you mean sslmode?"),
        ("postgresql://h/?port=1&a", "position 24: expected option=value"),
        ("postgresql://h/?port=1=2", "position 17: expected option=value"),
        ("postgresql://h/?a%20b=2", "position 17: expected option=value"),
        ("postgresql://[::1/d", 'position 14: an IPv6 address must end in "]"'),
        ("postgresql://[]/d", 'position 14: an IPv6 address must end in "]"'),
        ("postgresql://[::1]5/d", 'position 14: an IPv6 address must end in "]"'),
        ("postgresql://a:1,[::1/d", 'position 18: an IPv6 address must end in "]"'),
        ("postgresql://a:1,b%:2/d", "position 19: write a space as %20"),
        ("postgresql://[::1]:1,b:%zz/d", "position 24: write a space as %20"),
        ("postgresql://a:1,b:2,c:3?hostaddr=::1", "could not match 3 host names to 1 hostaddr values"),
        ("postgresql://h/a%zz", "position 17: write a space as %20, a percent sign as %25, and no NUL"),
        ("postgresql://h/%00", "position 16: write a space as %20"),
        ("postgresql://h/ a b", "position 18: write a space as %20"),
        ("postgresql://h/%ff", "position 16: this part is not UTF-8 once decoded"),
        ("host=a\0", "position 7: it must not contain NUL"),
        ("host=a host=\udcff", "position 13: it must not contain NUL or anything but UTF-8"),
    ],
)
def test_malformed_connection_strings_are_refused_with_the_position(dsn: str, message: str) -> None:
    assert message in refusal(dsn)


def test_an_error_names_the_environment_variable_with_the_wrong_value() -> None:
    assert refusal(environ={"PGPORT": "x"}) == (
        "environment variable PGPORT: port must be an integer from 1 to 65535, or several with commas"
    )
    assert refusal(environ={"PGSSLMODE": ""}).startswith("environment variable PGSSLMODE: sslmode must be disable")
    assert refusal(environ={"PGUSER": "\udcff"}).startswith("environment variable PGUSER: user must not contain NUL")


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ({}, None),
        ({"fallback_application_name": "f"}, "f"),
        ({"application_name": "a", "fallback_application_name": "f"}, "a"),
        ({"dsn": "application_name='' fallback_application_name=f"}, None),
        ({"environ": {"PGAPPNAME": "env"}, "fallback_application_name": "f"}, "env"),
    ],
)
def test_the_application_name_comes_from_the_strongest_source(given: dict[str, Any], name: str | None) -> None:
    assert parse(**given, user="u").startup_parameters().get("application_name") == name


def test_startup_parameters_contain_only_given_options_and_the_encoding() -> None:
    assert list(parse("user=u replication=database").startup_parameters().items()) == [
        ("user", "u"),
        ("database", "u"),
        ("replication", "database"),
        ("client_encoding", "UTF8"),
    ]
    assert parse("user=u").startup_parameters() == {"user": "u", "database": "u", "client_encoding": "UTF8"}
    config = parse("postgresql://u:p@/d?application_name=a&options=-c%20geqo%3Doff")
    assert config.startup_parameters() == {
        "user": "u",
        "database": "d",
        "options": "-c geqo=off",
        "application_name": "a",
        "client_encoding": "UTF8",
    }


@settings(max_examples=50)
@given(st.fixed_dictionaries({}, optional=dict.fromkeys(("host", "user", "dbname", "options"), st.sampled_from(TEXTS))))
def test_the_repr_of_a_config_evaluates_to_an_equal_config(keywords: dict[str, Any]) -> None:
    config = parse(**keywords, sslmode=TlsMode.DISABLE, connect_timeout=None)
    assert eval(repr(config)) == config
    assert str(config) == repr(config)


def test_secrets_are_not_shown() -> None:
    config = parse("host=h user=u password=tops3cret")
    assert "password='***'" in repr(config)
    assert "password=None" in repr(parse())
    broken = [
        "postgresql://user:tops3cret@[::1/db",
        "postgresql://user:tops3cret%@host/db",
        "postgresql://user:tops3cret/1@host/db",
        "postgresql+asyncpg://user:tops3cret@host/db?port=1",
        "postgresql://user:tops3cret@host:99999/db",
        " postgresql://user:tops3cret@host/db?port=1",
        "password=my tops3cret port=1",
        "password='tops3cret",
        "password=tops3cret\0",
        "password=tops3cret sslmode=x",
    ]
    for shown in (repr(config), str(config), *map(refusal, broken), refusal(password="tops3cret\0")):
        assert "tops3cret" not in shown


def test_configs_can_be_compared_hashed_copied_and_pickled() -> None:
    config = parse("host=h user=u password=p sslmode=disable connect_timeout=0")
    for same in (copy.copy(config), copy.deepcopy(config), pickle.loads(pickle.dumps(config))):
        assert same == config
        assert hash(same) == hash(config)
    assert config != parse("host=h user=u password=q sslmode=disable connect_timeout=0")
    with pytest.raises(AttributeError):
        config.user = "other"  # type: ignore[misc]


def test_a_ready_config_is_used_as_it_is_and_takes_no_options() -> None:
    config = parse("host=a user=b")
    assert ConnConfig.of(config) is config
    assert ConnConfig.of("host=a user=b").host == "a"
    with pytest.raises(ConfigError, match="port: a ConnConfig takes no options beside it"):
        ConnConfig.of(config, port=1)
