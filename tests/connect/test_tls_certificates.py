"""Verification of certificates and channel binding on real servers, compared with libpq."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import trustme

from pg_wired import AsyncConn, AuthenticationError, ConfigError, ConnConfig, IoError, PgError, PgWireError, TlsConfig
from rig import certificates
from rig.certificates import NAME, SETTINGS_FILE, Pem
from rig.checks import answers, ends_clean, outcome_of
from rig.postgres import Postgres

HBA = """
hostssl all certified 127.0.0.1/32 cert
hostssl all all 127.0.0.1/32 scram-sha-256
"""


class Kit:
    """Two authorities, and a folder for the files that both clients read."""

    def __init__(self, folder: Path) -> None:
        self.ours, self.other = trustme.CA(), trustme.CA()
        self.folder = folder
        self.roots = self.save("root.crt", certificates.root(self.ours))

    def save(self, name: str, text: str) -> str:
        path = self.folder / name
        path.write_text(text)
        return str(path)


@pytest.fixture(scope="module")
def kit(tmp_path_factory: pytest.TempPathFactory) -> Kit:
    return Kit(tmp_path_factory.mktemp("kit"))


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home directory for each test: libpq takes it from HOME, as we do."""
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


@pytest.fixture(scope="module")
def server(kit: Kit) -> Iterator[Postgres]:
    pem = certificates.issued(kit.ours, NAME)
    files = {"clients.crt": certificates.root(kit.ours), "pg_hba.conf": HBA}
    with certificates.launch(pem, files=files, ssl_ca_file="clients.crt") as server:
        server.auth("host all all 127.0.0.1/32 scram-sha-256\n")
        with psycopg.connect(server.dsn, autocommit=True) as conn:
            conn.execute(b"create role certified login")
        server.auth(HBA)
        yield server


@pytest.fixture(scope="module")
def shown(kit: Kit) -> dict[str, Pem]:
    """The server's certificates that the test below goes through."""
    return {
        "right": certificates.issued(kit.ours, NAME),
        "wrong name": certificates.issued(kit.ours, "example.org"),
        "expired": certificates.issued(kit.ours, NAME, expired=True),
        "self-signed": certificates.self_signed("ECDSA-SHA256"),
        "wrong authority": certificates.issued(kit.other, NAME),
        "revoked": certificates.issued(kit.ours, NAME),
        "address": certificates.issued(kit.ours, "127.0.0.1"),
        "wildcard": certificates.issued(kit.ours, "*.example.org"),
    }


def settings(server: Postgres, **options: Any) -> dict[str, Any]:
    """Keywords for both clients; those that are None are left out."""
    given = {"host": NAME, "hostaddr": "127.0.0.1", "port": server.port, "user": server.user, "dbname": server.dbname}
    given |= {"password": server.password, "sslmode": "require", **options}
    return {name: value for name, value in given.items() if value is not None}


def libpq_connects(options: dict[str, Any]) -> bool:
    try:
        psycopg.connect(**options, gssencmode="disable").close()
    except psycopg.OperationalError:
        return False
    return True


async def end(options: dict[str, Any]) -> Any:
    """The error of our connect, or None if it succeeds and the connection works."""
    conn = await outcome_of(AsyncConn.connect(**options))
    if isinstance(conn, AsyncConn):
        async with conn:
            assert conn.is_tls
            await answers(conn)
        return None
    return conn


async def agrees(options: dict[str, Any], error: type[PgWireError] = IoError) -> bool:
    """Whether both clients connect. Assert that they agree, and that ours fails only with this kind of error."""
    ours = await end(options)
    assert libpq_connects(options) == (ours is None), ours
    assert ours is None or isinstance(ours, error), ours
    return ours is None


@pytest.mark.parametrize(
    ("kind", "host", "wanted"),
    [  # verify-full, verify-ca, require with roots, require without, verify-full with a CRL
        ("right", NAME, "yyyyy"),
        ("wrong name", NAME, "nyyyn"),
        ("expired", NAME, "nnnyn"),
        ("self-signed", NAME, "nnnyn"),
        ("wrong authority", NAME, "nnnyn"),
        ("revoked", NAME, "yyyyn"),
        ("address", "127.0.0.1", "yyyyy"),
        ("address", NAME, "nyyyn"),
        ("right", "127.0.0.1", "nyyyn"),
        ("wildcard", "db.example.org", "yyyyy"),
        ("wildcard", "example.org", "nyyyn"),
        ("wildcard", "a.db.example.org", "nyyyn"),
    ],
)
@ends_clean()
async def test_server_certificates_are_accepted_exactly_where_libpq_accepts_them(
    server: Postgres, kit: Kit, shown: dict[str, Pem], kind: str, host: str, wanted: str
) -> None:
    server.reload(shown[kind].files())
    crl = kit.save("root.crl", certificates.revocations(kit.ours, shown["revoked"]))
    ways: list[dict[str, Any]] = [
        {"sslmode": "verify-full", "sslrootcert": kit.roots},
        {"sslmode": "verify-ca", "sslrootcert": kit.roots},
        {"sslmode": "require", "sslrootcert": kit.roots},
        {"sslmode": "require"},
        {"sslmode": "verify-full", "sslrootcert": kit.roots, "sslcrl": crl},
    ]
    got = [await agrees(settings(server, host=host, **way)) for way in ways]
    assert "".join("ny"[connects] for connects in got) == wanted


@ends_clean()
async def test_roots_and_crl_in_the_home_directory_are_used(
    server: Postgres, kit: Kit, shown: dict[str, Pem], home: Path
) -> None:
    folder = home / ".postgresql"
    folder.mkdir()
    server.reload(shown["wrong authority"].files())
    with pytest.raises(ConfigError, match=r"root certificate file '.*/\.postgresql/root\.crt' does not exist"):
        await AsyncConn.connect(**settings(server, sslmode="verify-ca"))
    assert await agrees(settings(server))
    shutil.copy(kit.roots, folder / "root.crt")
    assert not await agrees(settings(server))  # as in libpq: with a root file, require verifies
    server.reload(shown["revoked"].files())
    assert await agrees(settings(server, sslmode="verify-full"))
    (folder / "root.crl").write_text(certificates.revocations(kit.ours, shown["revoked"]))
    refused = await end(settings(server, sslmode="verify-full"))
    assert "the server's certificate was refused: certificate revoked" in str(refused)
    assert not libpq_connects(settings(server, sslmode="verify-full"))


@ends_clean()
async def test_sslrootcert_system_uses_the_roots_of_openssl(
    server: Postgres, kit: Kit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OpenSSL takes them from SSL_CERT_FILE if that is set."""
    server.reload(certificates.issued(kit.ours, NAME).files())
    options = settings(server, sslmode="verify-full", sslrootcert="system")
    assert isinstance(await end(options), IoError)
    monkeypatch.setenv("SSL_CERT_FILE", kit.roots)
    assert await end(options) is None


@pytest.mark.parametrize(
    ("given", "wanted", "error"),
    [
        ({"sslcert": "right", "sslkey": "right"}, True, None),
        ({}, False, PgError),
        ({"sslcert": "none", "sslkey": "right"}, False, PgError),  # as in libpq: a missing file is not presented
        ({"sslcert": "right", "sslkey": "other"}, False, ConfigError),
        ({"sslcert": "right", "sslkey": "none"}, False, ConfigError),
        ({"sslcert": "right", "sslkey": "open"}, False, ConfigError),
        ({"sslcert": "other", "sslkey": "other"}, False, PgWireError),
        ({"sslcert": "right", "sslkey": "right", "sslcertmode": "disable"}, False, PgError),
        ({"sslcert": "right", "sslkey": "secret", "sslpassword": "open sesame"}, True, None),
        ({"sslcert": "right", "sslkey": "secret", "sslpassword": "open barley"}, False, ConfigError),
        ({"sslcert": "right", "sslkey": "secret"}, False, ConfigError),
    ],
)
@ends_clean()
async def test_client_certificates_are_accepted_exactly_where_libpq_has_them_accepted(
    server: Postgres, kit: Kit, tmp_path: Path, given: dict[str, str], wanted: bool, error: type[PgWireError] | None
) -> None:
    right = certificates.issued(kit.ours, "client", common_name="certified")
    certificates.issued(kit.other, "client", common_name="certified").save(tmp_path, "other")
    certificates.encrypted_key(right, "open sesame").save(tmp_path, "secret")
    right.save(tmp_path, "open")
    (tmp_path / "open.key").chmod(0o644)
    right.save(tmp_path, "right")
    endings = {"sslcert": "crt", "sslkey": "key"}
    files = {name: f"{tmp_path}/{value}.{endings[name]}" for name, value in given.items() if name in endings}
    options = settings(server, user="certified", **{**given, **files})
    assert await agrees(options, error or PgWireError) == wanted


@ends_clean()
async def test_a_client_certificate_in_the_home_directory_is_used(server: Postgres, kit: Kit, home: Path) -> None:
    (home / ".postgresql").mkdir()
    certificates.issued(kit.ours, "client", common_name="certified").save(home / ".postgresql", "postgresql")
    assert await agrees(settings(server, user="certified"))


@ends_clean()
async def test_tls_config_takes_certificates_as_text_bytes_and_paths(
    server: Postgres, kit: Kit, shown: dict[str, Pem], tmp_path: Path
) -> None:
    server.reload(shown["revoked"].files())
    roots = certificates.root(kit.ours)
    client = certificates.issued(kit.ours, "client", common_name="certified")
    secret = certificates.encrypted_key(client, "open sesame")
    full = settings(server, sslmode="verify-full", user="certified")
    for tls in (
        TlsConfig(roots=roots, certificate=client.certificate, key=client.key),
        TlsConfig(roots=roots.encode(), certificate=(client.key + client.certificate).encode()),
        TlsConfig(roots=roots, certificate=secret.certificate, key=secret.key, key_password="open sesame"),
        TlsConfig(roots=kit.roots, certificate=client.save(tmp_path, "c")[0], key=Path(client.save(tmp_path, "c")[1])),
        TlsConfig(roots=roots, certificate=client.certificate, key=client.key, direct=True, minimum_version="TLSv1.3"),
    ):
        assert await end({**full, "tls": tls}) is None
    named = TlsConfig(roots=roots, server_hostname=NAME)
    assert await end(settings(server, host="127.0.0.1", sslmode="verify-full", tls=named)) is None
    revoking = TlsConfig(roots=roots, crl=certificates.revocations(kit.ours, shown["revoked"]))
    refused = await end({**full, "tls": revoking})
    assert isinstance(refused, IoError) and "certificate revoked" in str(refused)


@pytest.mark.parametrize("signature", certificates.SIGNATURES)
@ends_clean()
async def test_channel_binding_works_for_each_signature_with_a_hash(server: Postgres, signature: str) -> None:
    server.reload(certificates.self_signed(signature).files())
    has_hash = signature != "Ed25519"
    required = settings(server, channel_binding="require")
    assert await agrees(required, AuthenticationError) == has_hash
    if not has_hash:
        assert "Ed25519 certificates have no hash" in str(await end(required))
    for binding in ("prefer", "disable"):
        async with await AsyncConn.connect(**settings(server, channel_binding=binding)) as conn:
            is_bound = has_hash and binding == "prefer"
            assert conn.channel_bound == is_bound
            assert conn.auth_mechanism == ("SCRAM-SHA-256-PLUS" if is_bound else "SCRAM-SHA-256")


@pytest.mark.parametrize(
    ("servers", "given", "version"),
    [
        ("TLSv1.2 TLSv1.3", {}, "TLSv1.3"),
        ("TLSv1.2 TLSv1.2", {}, "TLSv1.2"),
        ("TLSv1.3 TLSv1.3", {}, "TLSv1.3"),
        ("TLSv1.2 TLSv1.3", {"ssl_max_protocol_version": "TLSv1.2"}, "TLSv1.2"),
        ("TLSv1.2 TLSv1.2", {"ssl_min_protocol_version": "TLSv1.3"}, None),
        ("TLSv1.3 TLSv1.3", {"ssl_max_protocol_version": "TLSv1.2"}, None),
    ],
)
@ends_clean()
async def test_tls_versions_are_negotiated_as_by_libpq(
    server: Postgres, kit: Kit, servers: str, given: dict[str, str], version: str | None
) -> None:
    low, high = servers.split()
    limits = f"ssl_min_protocol_version = '{low}'\nssl_max_protocol_version = '{high}'\n"
    server.reload({SETTINGS_FILE: "ssl = on\n" + limits, **certificates.issued(kit.ours, NAME).files()})
    try:
        options = settings(server, **given)
        assert await agrees(options) == (version is not None)
        if version is not None:
            async with await AsyncConn.connect(**options) as conn:
                assert conn._wire.tls_version == version and conn._wire.tls_cipher
    finally:
        server.reload({SETTINGS_FILE: "ssl = on\n"})


@ends_clean()
async def test_the_tls_context_is_made_once_per_connector(server: Postgres, kit: Kit, tmp_path: Path) -> None:
    from pg_wired.connect.wire_conn import connector

    server.reload(certificates.issued(kit.ours, NAME).files())
    path = tmp_path / "root.crt"
    shutil.copy(kit.roots, path)
    config = ConnConfig.parse(**settings(server, sslmode="verify-full", sslrootcert=str(path)))
    connecting = connector(config)
    for _ in range(2):
        await (await connecting.connect()).close()
        path.unlink(missing_ok=True)
    with pytest.raises(ConfigError, match="does not exist"):
        await AsyncConn.connect(config)
