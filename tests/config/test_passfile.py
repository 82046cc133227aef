"""The password file: read as by libpq, only with safe permissions, and only if it is needed."""

from __future__ import annotations

import os
import re
import warnings
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from psycopg import pq

from pg_wired.config import hosts
from pg_wired.config.config import ConnConfig
from pg_wired.config.passfile import find_password, read_lines

# The default socket directory of libpq, as compiled into psycopg.
DEFAULT_DIRECTORY = "/var/run/postgresql"


def write(path: Path, text: str, mode: int = 0o600) -> Path:
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    path.chmod(mode)
    return path


def passwords(path: Path, dsn: str = "", environ: dict[str, str] | None = None, **keywords: Any) -> list[str | None]:
    """The password that ConnConfig finds for each host, with this file in PGPASSFILE."""
    config = ConnConfig.parse(dsn, environ={"PGPASSFILE": str(path), **(environ or {})}, **keywords)
    return [host.password for host in config.hosts]


def libpq_password(path: Path, **options: str) -> str | None:
    """The password that libpq finds for one host; the connection attempt fails at once or is abandoned."""
    dsn = " ".join(f"{name}='{value}'" for name, value in options.items())
    with mock.patch.dict(os.environ, {"PGPASSFILE": str(path)}):
        conn = pq.PGconn.connect_start(dsn.encode())
    found = conn.password.decode("utf-8", "surrogateescape")
    conn.finish()
    return found or None


FIELDS = st.sampled_from(["*", "/nowhere", "/now\\here", "/nowher\\e", "77", "7", "d\\:b", "u\\\\x", "", "**", "d:b"])
PASSWORDS = st.text(st.sampled_from("ab:\\ #*\u00e9\r"), max_size=5)
LINES = st.lists(st.tuples(FIELDS, FIELDS, FIELDS, FIELDS, PASSWORDS).map(":".join) | PASSWORDS, max_size=4)
MATCHING = st.tuples(
    st.sampled_from(["*", "/nowhere", "/\\nowhere"]),
    st.sampled_from(["*", "77", "\\77"]),
    st.sampled_from(["*", "d\\:b", "d:b"]),
    st.sampled_from(["*", "u\\\\x", "u\\x"]),
    PASSWORDS,
).map(":".join)


@given(lines=st.lists(MATCHING, max_size=2) | LINES, end=st.sampled_from(["", "\n", "\r\n", "\n\n"]))
@example(lines=["*:*:*:*:a\\"], end="")
@example(lines=["*:*:*:*:", "*:*:*:*:second"], end="\n")
@example(lines=["#:*:*:*:a", " *:*:*:*:b", "*:*:*:*"], end="\n")
def test_lines_are_read_as_by_libpq(tmp_path_factory: pytest.TempPathFactory, lines: list[str], end: str) -> None:
    path = write(tmp_path_factory.getbasetemp() / "passfile", "\n".join(lines) + end)
    options: dict[str, Any] = {"host": "/nowhere", "port": "77", "dbname": "d:b"}
    theirs = libpq_password(path, **options, user="u\\\\x")
    assert (passwords(path, **options, user="u\\x")[0] or None) == theirs


@pytest.mark.parametrize(
    ("options", "keys"),
    [
        ({"host": "/nowhere"}, ["/nowhere"]),
        ({"host": DEFAULT_DIRECTORY}, ["localhost"]),
        ({"host": "@x"}, ["@x"]),
        ({"hostaddr": "127.0.0.1"}, ["127.0.0.1"]),
        ({"host": "db.example", "hostaddr": "127.0.0.1"}, ["db.example"]),
        ({"host": DEFAULT_DIRECTORY, "hostaddr": "127.0.0.1"}, ["localhost"]),
        ({"host": "/nowhere", "port": ""}, ["/nowhere"]),
    ],
)
def test_a_host_is_looked_up_under_the_same_name_as_by_libpq(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], keys: list[str]
) -> None:
    monkeypatch.setattr(hosts, "default_host", lambda: DEFAULT_DIRECTORY)
    named = ["/nowhere", DEFAULT_DIRECTORY, "localhost", "@x", "127.0.0.1", "db.example", "*"]
    path = write(tmp_path / "pass", "".join(f"{key}:5432:d:u:{key}\n" for key in named))
    theirs = libpq_password(path, **options, user="u", dbname="d")
    assert passwords(path, **options, user="u", dbname="d") == [theirs] == keys


def test_each_host_has_its_own_password(tmp_path: Path) -> None:
    path = write(tmp_path / "pass", "# ours\na:1:*:u:first\nb:*:d:*:second\n")
    assert passwords(path, host="a,b,c,a", port="1,2,3,4", dbname="d", user="u") == ["first", "second", None, None]
    config = ConnConfig.parse(f"host=a,b port=1 dbname=d user=u passfile={path}", environ={})
    assert [host.password for host in config.hosts] == ["first", "second"]
    assert "first" not in repr(config) and "second" not in str(config)
    assert config.password is None


def test_an_explicit_password_wins_and_the_file_stays_closed(tmp_path: Path) -> None:
    path = write(tmp_path / "pass", "*:*:*:*:file", 0o644)  # reading it would cause a warning
    for given_ in ({"password": "p"}, {"environ": {"PGPASSWORD": "p"}}, {"password": lambda: "p"}):
        assert passwords(path, user="u", **given_) == [None]
    with pytest.warns(UserWarning, match="group or world access"):
        assert passwords(path, user="u", dsn="password=''") == [None]


def test_the_default_file_is_in_the_home_directory(tmp_path: Path) -> None:
    write(tmp_path / ".pgpass", "*:*:*:*:home")
    home = {"HOME": str(tmp_path)}
    for environ in (home, {**home, "PGPASSFILE": ""}):
        config = ConnConfig.parse("user=u", environ=environ)
        assert config.hosts[0].password == "home"
    assert ConnConfig.parse("user=u passfile=/nowhere", environ=home).hosts[0].password is None


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o601, 0o610, 0o777])
def test_a_file_with_group_or_world_access_is_not_used(
    tmp_path: Path, mode: int, capfd: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "pass", "*:*:*:*:secret", mode)
    with pytest.warns(UserWarning) as warned:
        assert passwords(path, user="u") == [None]
    [warning] = warned
    assert str(warning.message) == (
        f"password file '{path}' has group or world access, and is not used; permissions should be u=rw (0600) or less"
    )
    assert libpq_password(path, host="/nowhere", user="u") is None
    assert re.search("has group or world access", capfd.readouterr().err)


@pytest.mark.parametrize("mode", [0o600, 0o400, 0o700])
def test_a_file_that_only_its_owner_may_access_is_used(tmp_path: Path, mode: int) -> None:
    path = write(tmp_path / "pass", "*:*:*:*:secret", mode)
    assert passwords(path, user="u", host="/nowhere") == [libpq_password(path, host="/nowhere", user="u")] == ["secret"]


def test_a_directory_or_a_pipe_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)
    for path in (tmp_path, tmp_path / "pipe"):
        with pytest.warns(UserWarning, match="is not a plain file"):
            assert read_lines(str(path)) == []


def test_a_missing_file_is_ignored_without_a_warning(tmp_path: Path) -> None:
    with warnings.catch_warnings(record=True) as warned:
        assert read_lines(str(tmp_path / "none")) == read_lines("/dev/null/none") == []
    assert not warned


def test_bytes_that_are_not_utf8_are_kept(tmp_path: Path) -> None:
    path = write(tmp_path / "pass", "*:*:*:*:caf\udce9")
    assert passwords(path, user="u", host="/nowhere") == ["caf\udce9"]
    assert libpq_password(path, host="/nowhere", user="u") == "caf\udce9"


def test_a_comment_is_not_read_as_a_host() -> None:
    assert find_password(["#h:1:d:u:p"], "#h", "1", "d", "u") is None
    assert find_password(["\\#h:1:d:u:p"], "#h", "1", "d", "u") == "p"


@given(st.text(), st.text(st.sampled_from("ab*:\\")), st.text(st.sampled_from("ab*:\\")))
def test_escaped_fields_are_found(password: str, host: str, user: str) -> None:
    def escape(text: str) -> str:
        return text.replace("\\", "\\\\").replace(":", "\\:")

    line = ":".join((*map(escape, (host, "1", "d", user)), escape(password)))
    assert find_password([line], host, "1", "d", user) == password.rstrip("\r\n")
