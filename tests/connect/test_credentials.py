"""Passwords returned by a callable, and the SCRAM key that is derived once."""

from __future__ import annotations

import asyncio
import functools
import itertools

import pytest

from pg_wired import AuthenticationError, ConfigError, ConnConfig, RequestTimeout, WireConn
from pg_wired.connect.connector import Connector
from pg_wired.connect.wire_conn import connector
from pg_wired.protocol import messages as m
from pg_wired.testing import PARAMETERS, Peer
from rig.checks import SOON, ends_clean
from rig.hosts import Hosts, asking_in_clear, name_of, server
from rig.scram_server import ScramServer

pytestmark = pytest.mark.both_loops


async def clear_text(peer: Peer, passwords: list[str]) -> None:
    await peer.expect(m.StartupMessage)
    await peer.send(m.AuthenticationCleartextPassword())
    [message] = await peer.expect(m.PasswordMessage)
    passwords.append(message.password)
    peer.close()


@pytest.mark.parametrize("is_async", [False, True])
@ends_clean()
async def test_a_password_callable_is_called_once_per_attempt(is_async: bool) -> None:
    asked = itertools.count(1)
    got: list[str] = []

    def password() -> str:
        return f"number {next(asked)}"

    async def later() -> str:
        await asyncio.sleep(0)
        return password()

    script = functools.partial(clear_text, passwords=got)
    async with Hosts([script], [script]) as hosts:
        await hosts.connect(password=later if is_async else password, require_auth="password")
    assert got == ["number 1", "number 2"] and next(asked) == 3
    async with Hosts([server("trusting")]) as hosts:
        assert await hosts.connect(password=later if is_async else password) == "trusting"
    assert next(asked) == 4  # it was not called, as no password was needed


@ends_clean()
async def test_a_password_callable_that_fails_fails_the_connect() -> None:
    def broken() -> str:
        raise TimeoutError("open sesame")

    async def slow() -> str:
        await asyncio.sleep(60)
        return "late"

    for password, kind, text in (
        (broken, AuthenticationError, "the password callable failed: TimeoutError"),
        (lambda: 7, ConfigError, "the password callable returned int"),
        (slow, RequestTimeout, "connect_timeout"),
    ):
        async with Hosts([asking_in_clear]) as hosts:
            refused = await hosts.connect(
                password=password, require_auth="password", connect_timeout=0.2 if password is slow else SOON
            )
        assert type(refused) is kind and text in str(refused), refused
        assert "open sesame" not in str(refused)


@ends_clean()
async def test_a_reconnect_does_not_hash_the_password_again(monkeypatch: pytest.MonkeyPatch) -> None:
    from pg_wired.auth import scram

    hashed = []

    def counted(password: bytes, salt: bytes, iterations: int) -> bytes:
        hashed.append(iterations)
        return plain(password, salt, iterations)

    plain = scram.salted_password
    monkeypatch.setattr(scram, "salted_password", counted)

    async def script(peer: Peer) -> None:
        await peer.expect(m.StartupMessage)
        await peer.send(m.AuthenticationSASL(("SCRAM-SHA-256",)))
        [initial] = await peer.expect(m.SASLInitialResponse)
        exchange = ScramServer(b"hush", b"sixteen bytes...", 30_000, b"server")
        await peer.send(m.AuthenticationSASLContinue(exchange.first(initial.response)))
        [response] = await peer.expect(m.SASLResponse)
        await peer.send(m.AuthenticationSASLFinal(exchange.final(response.data)))
        await peer.welcome({**PARAMETERS, "name": "good"})

    async with Hosts(script) as hosts:
        connecting: Connector[WireConn] = connector(ConnConfig.parse(**hosts.options(password="hush")))
        for _ in range(3):
            assert await name_of(connecting.connect()) == "good"
    assert hashed == [30_000]
