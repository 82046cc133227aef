"""All six `sslmode`s on a server with and without TLS, with each kind of pg_hba line, compared with libpq."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import trustme

from pg_wired import AsyncConn, IoError, PgError, TlsMode
from rig import certificates
from rig.checks import answers, ends_clean
from rig.postgres import Postgres

DATABASE = "dbname=postgres user=postgres"


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def roots(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("roots") / "root.crt"
    path.write_text(certificates.root(authority))
    return str(path)


@pytest.fixture(scope="module")
def server(authority: trustme.CA) -> Iterator[Postgres]:
    pem = certificates.issued(authority, certificates.NAME)
    with certificates.launch(pem, log_connections=True) as server:
        yield server


@pytest.fixture(scope="module", params=["on", "off"], ids=lambda ssl: f"ssl={ssl}")
def ssl(request: pytest.FixtureRequest, server: Postgres) -> str:
    ssl: str = request.param
    server.reload({certificates.SETTINGS_FILE: f"ssl = {ssl}\n"})
    return ssl


@pytest.fixture(scope="module", params=["host", "hostssl", "hostnossl"])
def line(request: pytest.FixtureRequest, server: Postgres, ssl: str) -> str:
    line: str = request.param
    server.auth(f"{line} all all 127.0.0.1/32 trust\n")
    return line


def received(server: Postgres) -> int:
    """The number of connections so far: the server logs each one before it reads from it."""
    return server.log().count("connection received")


def as_libpq(dsn: str) -> str:
    """The result of connecting with libpq."""
    try:
        with psycopg.connect(f"{dsn} gssencmode=disable") as conn:
            return "tls" if conn.pgconn.ssl_in_use else "plain"
    except psycopg.OperationalError:
        return "refused"


async def as_ours(dsn: str) -> str:
    try:
        async with await AsyncConn.connect(dsn) as conn:
            await answers(conn)
            return "tls" if conn.is_tls else "plain"
    except (PgError, IoError):
        return "refused"


@pytest.mark.parametrize("mode", [mode.value for mode in TlsMode])
@ends_clean()
async def test_each_sslmode_ends_like_libpq_with_the_same_number_of_connections(
    server: Postgres, roots: str, ssl: str, line: str, mode: str
) -> None:
    dsn = f"host=localhost hostaddr=127.0.0.1 port={server.port} {DATABASE} sslmode={mode}"
    if mode.startswith("verify"):
        dsn += f" sslrootcert={roots}"
    ends = []
    for attempt in (as_libpq, as_ours):
        before = received(server)
        end: Any = attempt(dsn)
        ends.append((end if isinstance(end, str) else await end, received(server) - before))
    libpq, ours = ends
    assert ours == libpq
    if mode not in ("disable", "allow", "prefer"):
        assert ours[0] != "plain"
    assert ours[0] != "tls" or (ssl == "on" and line != "hostnossl")


@ends_clean()
async def test_a_unix_socket_has_no_tls_in_any_mode(server: Postgres, tmp_path: Path) -> None:
    server.auth("local all all trust\n")
    for mode in TlsMode:
        dsn = f"host={server.socket_directory} port={server.port} {DATABASE} sslmode={mode.value}"
        assert [as_libpq(dsn), await as_ours(dsn)] == ["plain", "plain"], mode
