"""Connects that fail in more than sixty ways: no password, cancel key or key password appears anywhere."""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme

from pg_wired import AsyncConn, ConnConfig, PgError, PgWireError, TlsConfig, WireConn
from pg_wired.connect.wire_conn import connector
from pg_wired.protocol import messages as m
from pg_wired.testing import FakePG, Peer, error
from rig import certificates
from rig.certificates import NAME
from rig.checks import ends_clean, outcome_of
from rig.postgres import Postgres, free_port
from rig.scram_server import ScramServer

PASSWORD = "hush-hush 'quoted' \u00e4"
KEY_PASSWORD = "open-sesame"
CANCEL_KEY = b"KeY!"
SECRETS = [PASSWORD, KEY_PASSWORD, "hush-hush", "open-sesame", repr(CANCEL_KEY)[2:-1], CANCEL_KEY.hex()]

Script = Callable[[Peer], Coroutine[Any, Any, None]]


def saying(*items: m.BackendMessage | bytes) -> Script:
    """A script that sends these to the StartupMessage, reads a password after each request for one, and ends."""

    async def script(peer: Peer) -> None:
        await peer.expect(m.StartupMessage)
        for item in items:
            await peer.send(item)
            if isinstance(item, m.AuthenticationCleartextPassword | m.AuthenticationMD5Password):
                await peer.recv()
        peer.close()

    return script


def scram(*, wrong: bool = False, iterations: int = 4096, first: bytes = b"", final: bytes = b"") -> Script:
    async def script(peer: Peer) -> None:
        await peer.expect(m.StartupMessage)
        await peer.send(m.AuthenticationSASL(("SCRAM-SHA-256",)))
        [initial] = await peer.expect(m.SASLInitialResponse)
        server = ScramServer(b"other" if wrong else PASSWORD.encode(), b"salt" * 4, iterations, b"x", first, final)
        await peer.send(m.AuthenticationSASLContinue(server.first(initial.response)))
        [answer] = await peer.expect(m.SASLResponse)
        if wrong:
            await peer.send(m.AuthenticationSASLFinal(b"v=" + b"A" * 43 + b"="))
        else:
            server.final(answer.data)
            await peer.send(m.AuthenticationSASLFinal(final or b"e=other-error"))
        peer.close()

    return script


KEYED = (m.AuthenticationOk(), m.BackendKeyData(1, CANCEL_KEY))
CLEAR = m.AuthenticationCleartextPassword()
MD5 = m.AuthenticationMD5Password(b"salt")
FATAL = error("28P01", "no", "FATAL")
SCRIPTS: dict[str, Script] = {
    "refused": saying(FATAL),
    "refused after the password": saying(CLEAR, FATAL),
    "refused after md5": saying(MD5, FATAL),
    "the end after the password": saying(CLEAR),
    "the end after md5": saying(MD5),
    "the end after the key": saying(*KEYED),
    "refused after the key": saying(*KEYED, error("57P03", "later", "FATAL")),
    "nonsense after the key": saying(*KEYED, b"X\0\0\0\x04"),
    "two keys": saying(*KEYED, KEYED[1]),
    "a transaction after the key": saying(*KEYED, m.ReadyForQuery("T")),
    "nonsense after the password": saying(CLEAR, b"HTTP/1.1 400"),
    "another method after the password": saying(CLEAR, MD5),
    "rows after the password": saying(CLEAR, m.DataRow((b"x",))),
    "a wrong signature": scram(wrong=True),
    "an error at the end of SCRAM": scram(),
    "a malformed end of SCRAM": scram(final=b"v=x"),
    "an extension that must be known": scram(first=b",m=1"),
    "gss": saying(m.AuthenticationGSS()),
    "no mechanism": saying(m.AuthenticationSASL(())),
    "silence": saying(),
}
# Each script runs with each of these: sixty connects; others follow below.
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {"password": PASSWORD, "require_auth": "password,md5,scram-sha-256,gss,none"},
    "callable": {"password": lambda: PASSWORD},
    "not allowed": {"password": PASSWORD, "require_auth": "oauth"},
}


def shown(failure: BaseException) -> Iterator[str]:
    """Everything that a log, a debugger or an error report would show of a failure."""
    yield "".join(traceback.format_exception(failure))
    seen: list[BaseException] = [failure]
    for one in seen:
        yield f"{one!r} {one} {one.args!r} {vars(one)!r}"
        seen += [other for other in (one.__cause__, one.__context__) if other is not None and other not in seen]


def look_for_secrets(failure: Any, log: str) -> None:
    assert isinstance(failure, PgWireError), failure
    for text in [*shown(failure), log]:
        for secret in SECRETS:
            assert secret not in text, (secret, text)


@pytest.fixture(autouse=True)
def everything_logged(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    with caplog.at_level(logging.DEBUG):
        yield


@pytest.mark.parametrize("script", SCRIPTS.values(), ids=SCRIPTS)
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@ends_clean()
async def test_no_secret_shows_when_a_connect_to_a_scripted_server_fails(
    script: Script, options: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    asyncio.get_running_loop().set_debug(True)

    async def tolerant(peer: Peer) -> None:
        try:
            await script(peer)
        except (AssertionError, OSError):  # the client gave up before the script was over
            peer.close()

    async with FakePG([tolerant]) as fake:
        config = ConnConfig.parse(fake.dsn, **options)
        failure = await outcome_of(WireConn.connect(config))
        look_for_secrets(failure, caplog.text)
        for text in (repr(config), str(config), repr(connector(config)), fake.transcript()):
            assert not any(secret in text for secret in SECRETS)


@ends_clean(60)
async def test_no_secret_shows_when_a_connect_to_a_real_server_fails(
    tls_server: Postgres, authority: trustme.CA, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    client = certificates.encrypted_key(certificates.issued(authority, "client"), "another password")
    certificate, key = client.save(tmp_path, "client")
    other = certificates.issued(authority, "other").save(tmp_path, "other")[1]
    (tmp_path / "nonsense.key").write_text(client.key[:200])
    (tmp_path / "nonsense.key").chmod(0o600)
    here = {"host": NAME, "hostaddr": "127.0.0.1", "port": tls_server.port, "user": "postgres", "password": PASSWORD}
    here |= {"sslpassword": KEY_PASSWORD}
    in_objects: dict[str, Any] = {"certificate": client.certificate, "key_password": KEY_PASSWORD}
    ways: list[dict[str, Any]] = [
        *[{"sslmode": mode} for mode in ("disable", "allow", "prefer", "require", "verify-full")],
        *[{"channel_binding": binding, "sslmode": "require"} for binding in ("require", "disable")],
        {"sslmode": "require", "sslcert": certificate, "sslkey": key},
        {"sslmode": "require", "sslcert": certificate, "sslkey": str(tmp_path / "nonsense.key")},
        {"sslmode": "require", "sslcert": certificate, "sslkey": other},
        {"sslmode": "require", "sslrootcert": key},
        {"sslmode": "verify-full", "sslrootcert": str(tmp_path / "none")},
        {"sslmode": "require", "tls": TlsConfig(key=client.key, **in_objects)},
        {"sslmode": "require", "tls": TlsConfig(key=client.key[:200], **in_objects)},
        {"port": free_port()},
        {"hostaddr": "127.0.0.1,127.0.0.1", "host": "a,b", "port": f"{free_port()},{tls_server.port}"},
        {"connect_timeout": 0.0001},
        {"dbname": "nowhere"},
        {"user": "nobody"},
        {"options": "-c work_mem=lots"},
    ]
    for way in ways:
        failure = await outcome_of(AsyncConn.connect(**{**here, **way}))
        look_for_secrets(failure, caplog.text)
        shown_config = ConnConfig.parse(**{**here, **way})
        assert not any(secret in f"{shown_config!r} {shown_config}" for secret in SECRETS)
    assert client.key[40:200] not in repr(ways)


@ends_clean()
async def test_no_secret_shows_when_a_dsn_cannot_be_parsed() -> None:
    quoted = PASSWORD.replace("'", "\\'")
    for dsn in (
        f"host=x password='{quoted}",
        f"host=x password={PASSWORD}",
        f"postgresql://u:{PASSWORD}@[::1/db",
        f"postgresql://u:{PASSWORD}%zz@h/db",
        f"host=x password='{quoted}' port=nonsense",
        f"host=x password='{quoted}' nonsense=1",
        f"host=x sslpassword={KEY_PASSWORD} sslmode=nonsense",
    ):
        look_for_secrets(await outcome_of(AsyncConn.connect(dsn)), "")


@ends_clean()
async def test_an_open_connection_shows_no_secret(tls_server: Postgres) -> None:
    config = ConnConfig.parse(tls_server.dsn, sslmode="require")
    async with await AsyncConn.connect(config) as conn:
        token = conn.cancel_token()
        shown = f"{conn!r} {conn._wire!r} {conn._wire._login!r} {token!r} {token} {config!r} {token._route!r}"
        assert tls_server.password not in shown
        assert repr(token.secret_key)[2:-1] not in shown and token.secret_key.hex() not in shown
        failure = await outcome_of(conn.exec_query("select 1/0"))
        assert isinstance(failure, PgError) and tls_server.password not in "".join(map(str, shown_of(failure)))


def shown_of(failure: BaseException) -> list[str]:
    return list(shown(failure))
