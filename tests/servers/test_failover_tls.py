"""A pool whose server is replaced by a less trustworthy one: the requirements of the configuration still hold."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
import trustme

from pg_wired import AsyncPool, AuthenticationError, ConnectionClosed, Outcome, TlsConfig
from pg_wired.protocol import messages as m
from pg_wired.testing import FakePG, Peer
from rig import certificates
from rig.certificates import NAME
from rig.checks import ends_clean, outcome_of, until
from rig.postgres import Postgres, free_port
from rig.proxy import Proxy

pytestmark = [pytest.mark.servers, pytest.mark.both_loops]


@asynccontextmanager
async def of_another_authority() -> AsyncIterator[int]:
    with certificates.launch(certificates.issued(trustme.CA(), NAME)) as server:
        yield server.port


@asynccontextmanager
async def without_tls() -> AsyncIterator[int]:
    async def script(peer: Peer) -> None:
        await peer.expect(m.SSLRequest)
        await peer.write(b"N")
        await peer.eof()  # no startup, no password

    async with FakePG(script) as fake:
        yield int(fake.dsn.split("port=")[1].split()[0])


@pytest.mark.parametrize(
    ("successor", "reason"),
    [
        (of_another_authority, "certificate was refused: unable to get local issuer"),
        (without_tls, "does not support TLS"),
    ],
)
@ends_clean(60)
async def test_the_next_server_has_to_meet_the_same_tls_requirements(
    tls_server: Postgres, authority: trustme.CA, successor: Any, reason: str
) -> None:
    async with AsyncExitStack() as stack:
        proxy = await stack.enter_async_context(Proxy(tls_server.host, tls_server.port))
        port = await stack.enter_async_context(successor())
        pool = await stack.enter_async_context(
            await AsyncPool.connect(
                host=f"{NAME},{NAME}",
                hostaddr="127.0.0.1,127.0.0.1",
                port=f"{proxy.port},{port}",
                user=tls_server.user,
                password=tls_server.password,
                dbname=tls_server.dbname,
                sslmode="verify-full",
                tls=TlsConfig(roots=certificates.root(authority)),
                size=1,
                when_down="fail",
            )
        )
        assert await pool.exec_query("select 1")
        proxy.target = ("127.0.0.1", free_port())  # the server is gone
        proxy.cut("rst")
        await until(lambda: pool.stats().connect_failures > 0, "an attempt at both")
        error = await outcome_of(pool.exec_query("select 1"))
        assert isinstance(error, ConnectionClosed) and error.outcome is Outcome.NOT_SENT
        assert reason in str(error.__cause__)


@ends_clean(60)
async def test_a_next_server_that_asks_for_md5_gets_no_password(launched: Postgres) -> None:
    """A server that asks for MD5 gets nothing from which the password could be guessed."""

    async def asks_for_md5(peer: Peer) -> None:
        await peer.expect(m.StartupMessage)
        await peer.send(m.AuthenticationMD5Password(b"salt"))
        await peer.eof()  # no password, in whatever form

    async with FakePG(asks_for_md5) as fake, Proxy(launched.host, launched.port) as proxy:
        dsn = f"{launched.dsn} {proxy.address} sslmode=disable require_auth=scram-sha-256"
        async with await AsyncPool.connect(dsn, size=1, when_down="fail") as pool:
            assert await pool.exec_query("select 1")
            proxy.target = ("127.0.0.1", int(fake.dsn.split("port=")[1].split()[0]))
            proxy.cut("rst")
            await until(lambda: pool.stats().connect_failures > 0, "an attempt at it")
            error = await outcome_of(pool.exec_query("select 1"))
            assert isinstance(error, ConnectionClosed) and error.outcome is Outcome.NOT_SENT
            assert isinstance(error.__cause__, AuthenticationError) and "md5" in str(error.__cause__)
