"""Service and password files on a real server: we connect with exactly those that libpq connects with."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from pg_wired import AsyncConn, AuthenticationError, PgError
from rig.checks import ends_clean
from rig.postgres import Server


class Files(NamedTuple):
    """A user's environment: a service file with the server's address, a password file, and the connection values."""

    where: dict[str, str]
    services: Path
    passwords: Path

    def write(self, password: str, mode: int = 0o600, host: str = "*") -> None:
        self.passwords.write_text(f"{host}:*:*:{self.where['user']}:{password}\n")
        self.passwords.chmod(mode)


@pytest.fixture
def files(postgres: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Files:
    where = {name: str(value) for name, value in conninfo_to_dict(postgres.dsn).items()}
    files = Files(where, tmp_path / "services", tmp_path / "passwords")
    lines = [f"{name}={where[name]}\n" for name in ("host", "port", "user", "dbname") if name in where]
    files.services.write_text("".join(["[other]\nhost=/nowhere\n[ours]\n", *lines]))
    monkeypatch.setenv("PGSERVICEFILE", str(files.services))
    monkeypatch.setenv("PGPASSFILE", str(files.passwords))
    monkeypatch.setenv("PGSERVICE", "ours")
    return files


async def libpq_opens() -> bool:
    try:
        async with await psycopg.AsyncConnection.connect():
            return True
    except psycopg.OperationalError:
        return False


@ends_clean()
async def test_a_service_and_a_password_file_suffice_to_connect(files: Files) -> None:
    files.write(files.where["password"])
    assert await libpq_opens()
    async with await AsyncConn.connect() as conn:
        assert list(await conn.exec_query("select current_user")) == [(files.where["user"].encode(),)]
    async with await AsyncConn.connect("service=ours application_name=mine") as conn:
        assert conn.parameters["application_name"] == "mine"


@ends_clean()
async def test_a_wrong_password_in_the_file_is_refused_by_the_server(files: Files) -> None:
    files.write("wrong")
    assert not await libpq_opens()
    with pytest.raises(PgError) as refused:
        await AsyncConn.connect()
    assert refused.value.code == "28P01"


@pytest.mark.parametrize(("mode", "host"), [(0o644, "*"), (0o600, "another.host")])
@ends_clean()
async def test_an_open_or_unmatched_password_file_gives_no_password(files: Files, mode: int, host: str) -> None:
    files.write(files.where["password"], mode, host)
    assert not await libpq_opens()
    if mode == 0o644:
        with (
            pytest.warns(UserWarning, match="group or world access"),
            pytest.raises(AuthenticationError, match="none was"),
        ):
            await AsyncConn.connect()
    else:
        with pytest.raises(AuthenticationError, match="none was given"):
            await AsyncConn.connect()
