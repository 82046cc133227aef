"""Login with every method on a real server, hashing outside the loop, and cancelling at every await."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from pg_wired import AsyncConn, AuthenticationError, ConfigError, IoError, Outcome, PgError, PgWireError, WireConn
from pg_wired.protocol import messages as m
from pg_wired.testing import FakePG, Peer
from rig.checks import SOON, answers, cancelled_at_every_await, ends_clean
from rig.postgres import Postgres, free_port
from rig.scram_server import ScramServer

pytestmark = pytest.mark.both_loops

HBA = """
local all all trust
host all by_trust 127.0.0.1/32 trust
host all by_password 127.0.0.1/32 password
host all by_md5 127.0.0.1/32 md5
host all rejected 127.0.0.1/32 reject
host all all 127.0.0.1/32 scram-sha-256
"""
RIGHT = "p\u00e4ss w\u00f6rd '\\"
ITERATIONS = 30_000  # more than are hashed on the loop


@pytest.fixture(scope="module")
def server(pytestconfig: pytest.Config) -> Iterator[Postgres]:
    with Postgres.launch(source=pytestconfig.getoption("--postgres"), files={"pg_hba.conf": HBA}) as server:
        with psycopg.connect(server.dsn, autocommit=True) as conn:
            quoted = RIGHT.replace("'", "''")
            conn.execute(f"set password_encryption = md5; create role by_md5 login password '{quoted}'".encode())
            conn.execute(b"set password_encryption = 'scram-sha-256'")
            conn.execute(f"create role by_scram login password '{quoted}'".encode())
            conn.execute(f"create role by_password login password '{quoted}'".encode())
            conn.execute(b"create role by_trust login; create role rejected login")
            if conn.info.server_version >= 160000:
                conn.execute(f"set scram_iterations = {ITERATIONS}".encode())
            conn.execute(f"create role by_long_scram login password '{quoted}'".encode())
        yield server


def at(server: Postgres, **options: Any) -> dict[str, Any]:
    # Without TLS, a password in clear is sent only if require_auth names it.
    named = {"require_auth": "password"} if options.get("user") == "by_password" else {}
    return {"host": server.host, "port": server.port, "dbname": "postgres", "sslmode": "disable", **named, **options}


@pytest.mark.parametrize(
    ("user", "mechanism"),
    [
        ("by_trust", "trust"),
        ("by_password", "cleartext"),
        ("by_md5", "md5"),
        ("by_scram", "SCRAM-SHA-256"),
        ("by_long_scram", "SCRAM-SHA-256"),
    ],
)
@ends_clean()
async def test_each_authentication_method_needs_the_right_password(server: Postgres, user: str, mechanism: str) -> None:
    async with await AsyncConn.connect(**at(server, user=user, password=RIGHT, application_name="mine")) as conn:
        assert conn.auth_mechanism == mechanism
        assert list(await conn.exec_query("select current_user, current_setting('application_name')")) == [
            (user.encode(), b"mine")
        ]
    if mechanism == "trust":
        return
    with pytest.raises(PgError, match="password authentication failed") as refused:
        await AsyncConn.connect(**at(server, user=user, password="wrong"))
    assert (refused.value.code, refused.value.outcome) == ("28P01", Outcome.NOT_SENT)
    with pytest.raises(AuthenticationError, match="none was given") as missing:
        await AsyncConn.connect(**at(server, user=user))
    assert missing.value.outcome is Outcome.NOT_SENT


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"user": "by_trust", "dbname": "nowhere"}, "3D000"),
        ({"user": "rejected"}, "28000"),
        ({"user": "nobody_at_all", "password": "x"}, "28P01"),
        ({"user": "by_trust", "options": "-c work_mem=lots"}, "22023"),
        ({"user": "by_trust", "options": "-c no_such=1"}, "42704"),
    ],
)
@ends_clean()
async def test_a_refused_startup_raises_the_servers_error(server: Postgres, options: dict[str, str], code: str) -> None:
    with pytest.raises(PgError) as caught:
        await WireConn.connect(**at(server, **options))
    assert (caught.value.code, caught.value.outcome) == (code, Outcome.NOT_SENT)
    assert caught.value.is_fatal and str(caught.value).startswith("FATAL:  ")


@ends_clean()
async def test_a_login_over_a_unix_socket_succeeds(server: Postgres) -> None:
    async with await AsyncConn.connect(**at(server, host=server.socket_directory, user="by_trust")) as conn:
        assert conn.addr == f"{server.socket_directory}/.s.PGSQL.{server.port}"
        await answers(conn)


@ends_clean()
async def test_invalid_options_raise_config_error(server: Postgres) -> None:
    for options in ({"prot": 1}, {"port": "x"}, {"user": "a\0b"}, {"user": "x" * 10_000}):
        with pytest.raises(ConfigError) as caught:
            await WireConn.connect(**at(server, **options))
        assert caught.value.outcome is Outcome.NOT_SENT


@ends_clean()
async def test_connecting_to_a_closed_port_raises_io_error(server: Postgres) -> None:
    with pytest.raises(IoError, match="Connection refused") as caught:
        await AsyncConn.connect(**at(server, port=free_port(), user="x"))
    assert caught.value.outcome is Outcome.NOT_SENT


async def challenge(peer: Peer, iterations: int) -> None:
    """Begin a SCRAM login with this iteration count."""
    await peer.expect(m.StartupMessage)
    await peer.send(m.AuthenticationSASL(("SCRAM-SHA-256",)))
    [initial] = await peer.expect(m.SASLInitialResponse)
    exchange = ScramServer(b"hush", b"sixteen bytes...", iterations, b"server")
    await peer.send(m.AuthenticationSASLContinue(exchange.first(initial.response)))


@ends_clean()
async def test_a_long_hash_does_not_block_the_loop() -> None:
    iterations, ticks = 2_000_000, 0  # the hash takes about a second

    async def tick() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0.001)
            ticks += 1

    async def script(peer: Peer) -> None:
        await challenge(peer, iterations)
        ticking = asyncio.ensure_future(tick())
        await peer.expect(m.SASLResponse)
        ticking.cancel()
        peer.close()

    async with FakePG(script) as fake:
        with pytest.raises(PgWireError):
            await WireConn.connect(fake.dsn, password="hush", scram_max_iterations=iterations)
    assert ticks > 20


@ends_clean()
async def test_more_iterations_than_allowed_are_refused_before_hashing() -> None:
    for asked, limit in ((2_000_000_000, 100_000), (4096, 4095)):
        async with FakePG(functools.partial(challenge, iterations=asked)) as fake:
            begin = time.perf_counter()
            with pytest.raises(AuthenticationError, match=f"more than {limit} iterations"):
                await WireConn.connect(fake.dsn, password="hush", scram_max_iterations=limit)
            assert time.perf_counter() - begin < SOON


@pytest.mark.parametrize("user", ["by_trust", "by_md5", "by_scram", "by_long_scram"])
@ends_clean(60)
async def test_a_login_cancelled_at_any_await_leaves_nothing(server: Postgres, user: str) -> None:
    there = at(server, host="localhost", user=user, password=RIGHT)  # a name, so that it has to be looked up
    n = await cancelled_at_every_await(lambda: WireConn.connect(**there))
    assert n > 3
