"""Service files: read as by libpq, the places where they are searched, and the lines that are refused."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from psycopg import pq

from pg_wired.config import options, service_file
from pg_wired.config.config import ConnConfig
from pg_wired.errors import ConfigError

FILE = """
# ours
[other]
host=/nowhere/other
nonsense
[test]
host=/nowhere/first
  port=77\t
dbname= spaced 
user=from file
user=again
options=-c a=b
sslmode=disable
[test]
host=/nowhere/second
"""  # noqa: W291


def refusal(dsn: str, environ: Mapping[str, str]) -> str:
    with pytest.raises(ConfigError) as refused:
        ConnConfig.parse(dsn, environ=environ)
    return str(refused.value)


def libpq(dsn: str, environ: Mapping[str, str]) -> dict[str, str] | None:
    """The options that libpq decides on; None if it refuses."""
    with mock.patch.dict(os.environ, {"PGPASSFILE": "/nowhere", **environ}):
        conn = pq.PGconn.connect_start(dsn.encode())
    settled = {option.keyword.decode(): option.val.decode() for option in conn.info if option.val}
    tried = re.search("on socket .* failed", conn.error_message.decode())
    conn.finish()
    return settled if tried else None


def test_a_section_is_read_as_by_libpq(tmp_path: Path) -> None:
    (tmp_path / "services").write_text(FILE)
    environ = {"PGSERVICEFILE": str(tmp_path / "services"), "PGUSER": "env", "PGAPPNAME": "env"}
    config = ConnConfig.parse("service=test port=78", environ=environ)
    theirs = libpq("service=test port=78", environ)
    assert theirs is not None
    assert (config.host, config.port, config.dbname, config.user, config.options, config.application_name) == tuple(
        theirs[name] if name != "port" else int(theirs[name])
        for name in ("host", "port", "dbname", "user", "options", "application_name")
    )
    assert config.host == "/nowhere/first" and config.port == 78
    assert (config.service, config.application_name, config.user) == ("test", "env", "from file")


LINES = st.sampled_from(
    [
        *("[s]", "[ s]", "[s ]", "[s]x", "[t]", "[", "s", "", "#host=x", " # x", "[s][t]", "[ss]"),
        *("user=a", "user=b", " user=c ", "user =d", "user=", "dbname=x=y", "dbname='q'", "port=1", "port=x"),
        *("service=t", "hots=a", "database=d", "statement_cache_size=1", "user", "=", "sslmode=disable", "ldap://x"),
        *("requiressl=1", "ssl=true", "password=p", "options= -c  x=1"),
    ]
)


@given(st.lists(LINES, max_size=7), st.sampled_from(["\n", "\r\n", " \t\n", "\n\n"]))
@example(["[s]", "user=a", "[s]", "user=b"], "\n")
@example(["[t]", "hots=a", "[s]", "user=b"], "\n")
@example(["[s]", "user=a", "[t]", "hots=b"], "\n")
def test_any_file_is_read_or_refused_as_by_libpq(
    tmp_path_factory: pytest.TempPathFactory, lines: list[str], end: str
) -> None:
    path = tmp_path_factory.getbasetemp() / "services"
    path.write_bytes(end.join([*lines, ""]).encode())
    environ = {"PGSERVICEFILE": str(path), "PGSERVICE": "s", "PGSYSCONFDIR": "/nowhere"}
    theirs = libpq("host=/nowhere", environ)
    try:
        ours = ConnConfig.parse("host=/nowhere", environ=environ)
    except ConfigError as refused:
        assert theirs is None or " looking options up with LDAP " in str(refused), refused
        return
    if theirs is None:  # libpq refuses only our own options
        assert re.search(r"(?m)^(database|statement_cache_size)=", path.read_text())
        return
    for name in ("user", "dbname", "options", "password"):
        assert (getattr(ours, name) or "") == theirs.get(name, ""), name
    assert str(ours.port) == theirs["port"]
    assert ours.sslmode.value == theirs["sslmode"]


def test_service_files_are_searched_in_the_documented_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home, system, named = tmp_path / "home", tmp_path / "system", tmp_path / "named"
    for directory in (home, system):
        directory.mkdir()
    (home / ".pg_service.conf").write_text("[a]\nuser=home\n")
    (system / "pg_service.conf").write_text("[a]\nuser=system\n[b]\nuser=system\n")
    named.write_text("[a]\nuser=named\n")
    environ = {"HOME": str(home), "PGSYSCONFDIR": str(system)}

    def user(service: str, dsn: str = "", **more: str) -> str:
        return ConnConfig.parse(dsn, environ={**environ, **more}, service=service).user

    assert user("a") == "home"
    assert user("b") == "system"
    assert user("a", PGSERVICEFILE=str(named)) == user("a", f"servicefile={named}") == "named"
    assert user("b", PGSERVICEFILE=str(named)) == "system"
    assert user("a", f"servicefile={named}", PGSERVICEFILE="/nowhere") == "named"
    assert user("a", HOME=str(tmp_path)) == "system"
    monkeypatch.setattr(service_file, "SYSTEM_DIRECTORIES", ["/nowhere", str(system)])
    assert ConnConfig.parse(environ={"HOME": "/nowhere", "PGSERVICE": "b"}).user == "system"
    assert refusal("service=c", environ) == "definition of service 'c' not found"
    assert refusal("", {**environ, "PGSERVICE": ""}) == "definition of service '' not found"
    wrong = refusal("service=a", {**environ, "PGSERVICEFILE": "/nowhere/x"})
    assert wrong == "service file '/nowhere/x' cannot be read: No such file or directory"


def test_without_a_service_no_file_is_read(tmp_path: Path) -> None:
    assert ConnConfig.parse("user=u", environ={"PGSERVICEFILE": "/nowhere"}).service is None
    assert ConnConfig.parse("user=u servicefile=/nowhere", environ={}).servicefile == "/nowhere"


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        ("service=other", "a service cannot name another service"),
        ("servicefile=other", "a service cannot name another service"),
        ("hots=other", "expected option=value, without blanks around the =, of an option that is known"),
        ("host =other", "expected option=value, without blanks"),
        ("other", "expected option=value, without blanks"),
        ("ldap://host", "looking options up with LDAP is not supported"),
    ],
)
def test_an_error_names_the_file_and_the_wrong_line(tmp_path: Path, line: str, wrong: str) -> None:
    path = tmp_path / "services"
    path.write_text(f"# first\n[s]\nuser=u\n{line}\n")
    said = refusal("service=s", {"PGSERVICEFILE": str(path)})
    assert said.startswith(f"service file '{path}', line 4: {wrong}")


def test_an_error_in_a_value_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "services"
    path.write_text("[s]\nport=x\npassword=tops3cret\n")
    said = refusal("service=s user=u", {"PGSERVICEFILE": str(path)})
    assert said.startswith(f"service file '{path}': port must be an integer")
    path.write_text("[s]\ngssencmode=require\n")
    assert refusal("service=s", {"PGSERVICEFILE": str(path)}).startswith(
        f"service file '{path}': gssencmode is refused"
    )
    path.write_bytes(b"[s]\nuser=\xff\n")
    assert "user must not contain NUL" in refusal("service=s", {"PGSERVICEFILE": str(path)})


def test_options_unknown_to_libpq_may_be_set_in_a_service_file(tmp_path: Path) -> None:
    path = tmp_path / "services"
    path.write_text("[s]\nstatement_cache_size=7\nuser=u\n")
    assert ConnConfig.parse("service=s", environ={"PGSERVICEFILE": str(path)}).statement_cache_size == 7
    assert "service" in options.TABLE
