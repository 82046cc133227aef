"""How TLS options become contexts, errors and the requested server name. No server is needed."""

from __future__ import annotations

import os
import pwd
import re
import resource
import ssl
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trustme

from pg_wired import ConfigError, ConnConfig, IoError, Outcome, TlsConfig
from pg_wired.connect.security import Security
from pg_wired.connect.tls_context import make_context
from pg_wired.connect.tls_handshake import TlsSettings
from pg_wired.loop.runtime import SYSTEM
from rig import certificates


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture(scope="module")
def roots() -> str:
    return certificates.root(trustme.CA())


def config(**options: Any) -> ConnConfig:
    return ConnConfig.parse(**{"host": "db.example.org", "user": "tester", "environ": {}, **options})


def context(**options: Any) -> ssl.SSLContext:
    return make_context(config(**options))


def test_an_empty_home_variable_falls_back_to_the_users_entry(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As in libpq (pqGetHomeDirectory): the password database then gives the home directory."""
    monkeypatch.setenv("HOME", "")
    monkeypatch.setattr(pwd, "getpwuid", lambda uid: SimpleNamespace(pw_dir=str(tmp_path)))
    with pytest.raises(ConfigError, match=re.escape(f"'{tmp_path}/.postgresql/root.crt' does not exist")):
        context(sslmode="verify-ca")


def test_a_renegotiation_is_refused() -> None:
    """It would make writing wait for reading in the middle of the stream. libpq refuses it too."""
    assert context(sslmode="prefer").options & ssl.OP_NO_RENEGOTIATION


@pytest.mark.parametrize(
    ("mode", "has_roots", "verify", "checks_name"),
    [
        ("prefer", False, ssl.CERT_NONE, False),
        ("require", False, ssl.CERT_NONE, False),
        ("require", True, ssl.CERT_REQUIRED, False),
        ("verify-ca", True, ssl.CERT_REQUIRED, False),
        ("verify-full", True, ssl.CERT_REQUIRED, True),
    ],
)
def test_each_sslmode_sets_what_is_verified(
    roots: str, mode: str, has_roots: bool, verify: ssl.VerifyMode, checks_name: bool
) -> None:
    made = context(sslmode=mode, tls=TlsConfig(roots=roots) if has_roots else None)
    assert (made.verify_mode, made.check_hostname) == (verify, checks_name)
    assert not made.verify_flags & ssl.VERIFY_CRL_CHECK_LEAF


@pytest.mark.parametrize(
    ("options", "low", "high"),
    [
        ({}, ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.MAXIMUM_SUPPORTED),
        ({"ssl_min_protocol_version": "TLSv1"}, ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.MAXIMUM_SUPPORTED),
        ({"ssl_min_protocol_version": "TLSv1.3"}, ssl.TLSVersion.TLSv1_3, ssl.TLSVersion.MAXIMUM_SUPPORTED),
        ({"ssl_max_protocol_version": "TLSv1.2"}, ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_2),
        ({"tls": TlsConfig(minimum_version="TLSv1.3")}, ssl.TLSVersion.TLSv1_3, ssl.TLSVersion.MAXIMUM_SUPPORTED),
        ({"tls": TlsConfig(maximum_version="TLSv1.2")}, ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_2),
    ],
)
def test_version_options_set_the_limits_of_the_context(
    options: dict[str, Any], low: ssl.TLSVersion, high: ssl.TLSVersion
) -> None:
    made = context(**options)
    assert (made.minimum_version, made.maximum_version) == (low, high)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"ssl_min_protocol_version": "TLSv1", "ssl_max_protocol_version": "TLSv1.1"}, "no TLS version is left"),
        ({"tls": TlsConfig(minimum_version="TLSv1.3", maximum_version="TLSv1.2")}, "no TLS version is left"),
        ({"tls": TlsConfig(minimum_version="SSLv3")}, "minimum TLS version 'SSLv3' is not known"),
        ({"sslmode": "verify-ca"}, r"root certificate file '.*home/.postgresql/root.crt' does not exist"),
        ({"tls": TlsConfig(roots="/no/such")}, "root certificate file '/no/such' does not exist"),
        ({"tls": TlsConfig(roots="system"), "sslmode": "require"}, "need sslmode=verify-full"),
        ({"tls": TlsConfig(roots=b"nonsense")}, "could not read the root certificates from the PEM text given"),
        ({"tls": TlsConfig(certificate=b"pem")}, r"the PEM text given with its key \(no key was given"),
        ({"tls": TlsConfig(roots="ROOTS", crl="/no/such")}, "could not read the certificate revocation list"),
        ({"tls": TlsConfig(roots="ROOTS"), "sslcrldir": "/no/such"}, "folder of certificate revocation lists"),
        ({"tls": TlsConfig(certificate="/no/such", key="x")}, "client certificate '/no/such' does not exist"),
        ({"tls": TlsConfig(crl="/no/such")}, "a crl needs the roots"),
        ({"tls": TlsConfig(certificate="/no/such"), "sslcertmode": "disable"}, "that certificate names does not exist"),
        (
            {"tls": TlsConfig(certificate=b"pem", key="/no/such"), "sslcertmode": "disable"},
            "the file that key names does not exist",
        ),
        ({"sslcert": "/no/such", "sslcertmode": "require"}, "client certificate '/no/such' does not exist"),
        ({"sslcertmode": "require"}, "postgresql.crt' does not exist"),
    ],
)
def test_unusable_tls_options_raise_config_error(roots: str, options: dict[str, Any], text: str) -> None:
    if isinstance(tls := options.get("tls"), TlsConfig) and tls.roots == "ROOTS":
        options = {**options, "tls": TlsConfig(roots=roots, crl=tls.crl)}
    with pytest.raises(ConfigError, match=text):
        context(**options)


def test_pem_text_without_a_free_file_descriptor_raises_io_error(roots: str) -> None:
    tls = TlsConfig(roots=roots)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        with pytest.raises(IoError, match="no file in memory for PEM text: Too many open files") as caught:
            context(tls=tls)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert caught.value.outcome is Outcome.NOT_SENT


def test_an_invalid_tls_config_is_refused() -> None:
    with pytest.raises(ConfigError, match="a key needs its certificate"):
        TlsConfig(key="x")
    for empty in ("", b""):
        for name in ("roots", "certificate", "crl"):
            with pytest.raises(ConfigError, match=f"{name} is empty"):
                TlsConfig(**{name: empty})  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="roots is int"):
        TlsConfig(roots=7)  # type: ignore[arg-type]
    with pytest.raises(AttributeError, match="cannot assign"):
        TlsConfig().roots = "x"  # type: ignore[misc]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o700, 0o600, 0o400])
@pytest.mark.parametrize("is_roots", [True, False])
def test_a_private_key_that_others_may_read_is_refused(tmp_path: Path, mode: int, is_roots: bool) -> None:
    """As in libpq: the group may read a key that root owns, and no other key."""
    if is_roots and os.geteuid() != 0:
        return  # only root can make a file that root owns
    certificate, key = certificates.issued(trustme.CA(), "client").save(tmp_path, "client")
    os.chmod(key, mode)
    if not is_roots and os.geteuid() == 0:
        os.chown(key, 65534, 65534)
    is_fine = mode in (0o700, 0o600, 0o400) or (mode == 0o640 and is_roots)
    if is_fine:
        context(sslcert=certificate, sslkey=key)
    else:
        with pytest.raises(ConfigError, match=r"private key '.*client\.key' is open to others: chmod 0600"):
            context(sslcert=certificate, sslkey=key)


def test_a_key_path_that_is_a_folder_or_missing_is_refused(tmp_path: Path) -> None:
    certificate, _ = certificates.issued(trustme.CA(), "client").save(tmp_path, "client")
    for key, text in ((tmp_path, "is not a regular file"), (tmp_path / "none", "but not its key")):
        with pytest.raises(ConfigError, match=text):
            context(sslcert=certificate, sslkey=str(key))


@pytest.mark.parametrize("key", ["TOPSECRET", "TOPSECRET\n" * 9, "TOPSECRET" * 99])
def test_an_unreadable_key_is_not_shown_in_the_error(tmp_path: Path, key: str) -> None:
    """A key without its first line, or as one line of base64, looks like the path of a file."""
    certificate, _ = certificates.issued(trustme.CA(), "client").save(tmp_path, "client")
    with pytest.raises(ConfigError, match=r"its key|the key") as caught:
        context(tls=TlsConfig(certificate=certificate, key=key))
    assert "TOPSECRET" not in str(caught.value)
    if len(key) > 9:  # as an option it is taken for a path, and a short path is shown
        with pytest.raises(ConfigError, match="the key is neither") as caught:
            context(sslcert=certificate, sslkey=key)
        assert "TOPSECRET" not in str(caught.value)


def test_a_certificate_text_that_contains_the_key_is_not_shown() -> None:
    pem = certificates.issued(trustme.CA(), "client")
    tls = TlsConfig(certificate=pem.certificate + pem.key)
    for shown in (repr(tls), repr(config(tls=tls)), str(tls)):
        assert "BEGIN" not in shown and "certificate='***'" in shown


async def asked_for(**options: Any) -> TlsSettings:
    settled = config(**options)
    return await Security(settled, SYSTEM).tls_settings(settled.hosts[0])


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({}, "db.example.org"),
        ({"sslsni": "0"}, None),
        ({"hostaddr": "127.0.0.1"}, "db.example.org"),
        ({"host": "", "hostaddr": "127.0.0.1"}, None),
        ({"host": "127.0.0.1"}, None),
        ({"host": "127.1"}, None),
        ({"host": "fe80::1%lo"}, None),
        ({"host": "1.example"}, "1.example"),
        ({"host": "x" * 64, "hostaddr": "127.0.0.1"}, None),  # RFC 1035, 2.3.4: 63 octets in a label
        ({"host": ".org", "hostaddr": "127.0.0.1"}, None),
        ({"tls": TlsConfig(server_hostname="other")}, "other"),
    ],
)
async def test_the_requested_server_name_is_the_host_unless_it_is_an_address(
    options: dict[str, Any], name: str | None
) -> None:
    assert (await asked_for(**options)).server_hostname == name


async def test_verify_full_refuses_a_missing_or_invalid_server_name(roots: str) -> None:
    full = {"sslmode": "verify-full", "tls": TlsConfig(roots=roots)}
    assert (await asked_for(**full)).server_hostname == "db.example.org"
    with pytest.raises(ConfigError, match="the name of the server is needed"):
        await asked_for(**full, host="", hostaddr="127.0.0.1")
    for name in ("x" * 64, "a..b", ".org"):
        with pytest.raises(ConfigError, match="cannot be the name of a server"):
            await asked_for(**full, host=name, hostaddr="127.0.0.1")
    with pytest.raises(ConfigError, match="sslsni=0"):
        await asked_for(**full, sslsni="0")


async def test_a_given_context_is_used_unchanged() -> None:
    ready = ssl.create_default_context()
    security = await asked_for(tls=ready, sslmode="require")
    assert security.context is ready and security.server_hostname == "db.example.org"
    with pytest.raises(ConfigError, match="the name of the server is needed"):
        await asked_for(tls=ready, sslmode="require", host="", hostaddr="127.0.0.1")


@pytest.mark.parametrize(
    ("mode", "verify", "checks_name", "text"),
    [
        ("require", ssl.CERT_NONE, False, None),
        ("verify-ca", ssl.CERT_NONE, False, "verifies nothing"),
        ("verify-full", ssl.CERT_NONE, False, "verifies nothing"),
        ("verify-ca", ssl.CERT_REQUIRED, False, None),
        ("verify-full", ssl.CERT_REQUIRED, False, "checks no name"),
        ("verify-full", ssl.CERT_REQUIRED, True, None),
    ],
)
async def test_a_given_context_has_to_verify_what_the_sslmode_demands(
    mode: str, verify: ssl.VerifyMode, checks_name: bool, text: str | None
) -> None:
    ready = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    ready.check_hostname = checks_name
    ready.verify_mode = verify
    preparing = Security(config(tls=ready, sslmode=mode), SYSTEM).prepare()
    if text is None:
        await preparing
    else:
        with pytest.raises(ConfigError, match=text):
            await preparing
