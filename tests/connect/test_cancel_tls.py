"""A cancel request uses the same TLS as its session, verified again, and carries keys of any length."""

from __future__ import annotations

import asyncio
import socket
import ssl
from typing import Any

import pytest
import trustme

from pg_wired import AsyncConn, IoError, Outcome, PgError, PgWireError, RequestTimeout, TlsConfig
from pg_wired.protocol import messages as m
from pg_wired.testing import FakePG, Peer
from rig import certificates
from rig.certificates import NAME
from rig.checks import answers, ends_clean, outcome_of, until
from rig.man_in_the_middle import SSL_REQUEST
from rig.postgres import Postgres, Server
from rig.tap import Tap, Target, records
from tests.outcomes import until_asleep

pytestmark = pytest.mark.both_loops


def to(server: Postgres, authority: trustme.CA, port: int, **options: Any) -> dict[str, Any]:
    if options.get("sslmode") == "prefer":
        options["tls"] = None  # TLS settings are refused with sslmode=prefer
    return {
        **{"host": NAME, "hostaddr": "127.0.0.1", "port": port, "dbname": server.dbname},
        **{"user": server.user, "password": server.password},
        **{"sslmode": "verify-full", "tls": TlsConfig(roots=certificates.root(authority)), **options},
    }


def is_encrypted(sent: bytes | bytearray) -> bool:
    """Whether a client sent an SSLRequest, then a ClientHello, and after it only whole TLS records."""
    rest = bytes(sent[8:])
    found = records(rest)
    return bytes(sent[:8]) == SSL_REQUEST and [kind for _, kind in found[:1]] == [22] and ends(rest) == len(rest)


def ends(stream: bytes) -> int:
    at, _ = records(stream)[-1]
    return at + 5 + int.from_bytes(stream[at + 3 : at + 5], "big")


@pytest.mark.parametrize("mode", ["verify-full", "require", "prefer"])
@ends_clean()
async def test_a_cancel_request_is_encrypted_like_its_session(
    tls_server: Postgres, authority: trustme.CA, mode: str
) -> None:
    async with (
        Tap((tls_server.host, tls_server.port)) as tap,
        await AsyncConn.connect(tls_server.dsn, sslmode="disable") as admin,
    ):
        async with await AsyncConn.connect(**to(tls_server, authority, tap.port, sslmode=mode)) as conn:
            running = conn.exec_query("select pg_sleep(30)")
            await until_asleep(admin, conn.backend_pid)
            await conn.cancel_token().cancel()
            stopped = await outcome_of(running)
            assert isinstance(stopped, PgError) and stopped.code == "57014"
            abandoned = conn.exec_query("select pg_sleep(30)")  # the library's own cancel request
            await until_asleep(admin, conn.backend_pid)
            abandoned.cancel()
            await answers(conn)
            key = conn.cancel_token().secret_key
        assert len(tap.lines) == 3
        assert all(is_encrypted(line.up) and key not in line.up for line in tap.lines)


@ends_clean()
async def test_a_session_without_tls_sends_its_cancel_request_in_clear(
    tls_server: Postgres, authority: trustme.CA
) -> None:
    async with Tap((tls_server.host, tls_server.port)) as tap:
        async with await AsyncConn.connect(**to(tls_server, authority, tap.port, sslmode="disable", tls=None)) as conn:
            token = conn.cancel_token()
            await token.cancel()
        assert bytes(tap.lines[1].up) == m.encode(m.CancelRequest(token.pid, token.secret_key))


class Later(Tap):
    """A tap that answers the first bytes of its second and later connections itself, with `answer`."""

    def __init__(self, target: Target, answer: bytes) -> None:
        super().__init__(target)
        self.answer = answer
        self.said: list[bytes] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self.lines:
            await super().serve(reader, writer)
            return
        said = await reader.readexactly(8)
        writer.write(self.answer)
        try:
            while data := await reader.read(65536):
                said += data
        finally:  # unread bytes at the client's end cause a reset
            self.said.append(said)


@pytest.mark.parametrize(("answer", "wanted"), [(b"N", SSL_REQUEST), (b"E", SSL_REQUEST), (b"Snonsense", None)])
@ends_clean()
async def test_a_cancel_request_never_falls_back_to_clear_text(
    tls_server: Postgres, authority: trustme.CA, answer: bytes, wanted: bytes | None
) -> None:
    async with (
        Later((tls_server.host, tls_server.port), answer) as tap,
        await AsyncConn.connect(**to(tls_server, authority, tap.port, sslmode="prefer")) as conn,
    ):
        with pytest.raises(IoError, match="the cancel request could not be sent"):
            await conn.cancel_token().cancel()
        await until(lambda: bool(tap.said), "the end of the cancel connection")
        [said] = tap.said
        assert said == wanted if wanted else said.startswith(SSL_REQUEST + b"\x16\x03")
        assert conn.cancel_token().secret_key not in said
        await answers(conn)


@ends_clean()
async def test_a_cancel_request_verifies_the_servers_certificate(tls_server: Postgres, authority: trustme.CA) -> None:
    async with await AsyncConn.connect(**to(tls_server, authority, tls_server.port)) as conn:
        tls_server.reload(certificates.issued(authority, "example.org").files())
        try:
            with pytest.raises(IoError, match="Hostname mismatch"):
                await conn.cancel_token().cancel()
        finally:
            tls_server.reload(certificates.issued(authority, NAME).files())
        await conn.cancel_token().cancel()
        await answers(conn)


@ends_clean()
async def test_a_cancel_whose_handshake_hangs_can_time_out_or_be_cancelled(
    tls_server: Postgres, authority: trustme.CA
) -> None:
    async with (
        Later((tls_server.host, tls_server.port), b"S") as tap,
        await AsyncConn.connect(**to(tls_server, authority, tap.port)) as conn,
    ):
        with pytest.raises(RequestTimeout):
            await conn.cancel_token().cancel(timeout=0.1)
        cancelling = asyncio.ensure_future(conn.cancel_token().cancel())
        await until(lambda: len(tap.said) == 1, "the first to end")
        cancelling.cancel()
        assert isinstance(await outcome_of(cancelling), asyncio.CancelledError)
        await answers(conn)


class Curt(Tap):
    """A tap that does the TLS handshake of its later connections itself, reads, and ends without close_notify."""

    def __init__(self, target: Target, context: ssl.SSLContext) -> None:
        super().__init__(target)
        self.context = context
        self.said: list[bytes] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self.lines:
            await super().serve(reader, writer)
            return
        await reader.readexactly(8)
        writer.write(b"S")
        await writer.start_tls(self.context)
        self.said.append(await reader.read(100))
        writer.get_extra_info("socket").shutdown(socket.SHUT_WR)
        await reader.read()


@ends_clean()
async def test_a_cancel_connection_that_ends_without_close_notify_counts_as_confirmed(
    tls_server: Postgres, authority: trustme.CA
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(NAME).configure_cert(context)
    async with (
        Curt((tls_server.host, tls_server.port), context) as tap,
        await AsyncConn.connect(**to(tls_server, authority, tap.port)) as conn,
    ):
        token = conn.cancel_token()
        await token.cancel()
        assert tap.said == [m.encode(m.CancelRequest(token.pid, token.secret_key))]
        await answers(conn)


@pytest.mark.parametrize("size", [4, 32, 256])
@ends_clean()
async def test_cancel_keys_of_protocol_3_2_may_be_up_to_256_bytes(size: int) -> None:
    key = bytes(range(256))[-size:]

    async def script(peer: Peer) -> None:
        startup = await peer.startup(pid=-7, key=key)
        assert (startup.major, startup.minor) == (3, 2)
        await peer.expect(m.Terminate)
        peer.close()

    async with FakePG(script) as fake, await AsyncConn.connect(fake.dsn, max_protocol_version="3.2") as conn:
        assert conn.protocol_version == (3, 2)
        await conn.cancel_token().cancel()
        assert await fake.cancels.get() == m.CancelRequest(-7, key)


@ends_clean()
async def test_cancel_works_with_the_newest_protocol_of_the_server(postgres: Server) -> None:
    async with await AsyncConn.connect(postgres.dsn, max_protocol_version="latest") as conn:
        is_new = int(conn.parameters["server_version"].split(".")[0]) >= 18
        assert conn.protocol_version == ((3, 2) if is_new else (3, 0))
        running = conn.exec_query("select pg_sleep(30)")
        async with await AsyncConn.connect(postgres.dsn) as admin:
            await until_asleep(admin, conn.backend_pid)
        await conn.cancel_token().cancel()
        assert isinstance(await outcome_of(running), PgError)
        await answers(conn)


class Garbled(Tap):
    """A tap that damages each alert of TLS 1.3 from the server, as the one with which it closes a cancel connection."""

    def edited(self, data: bytes) -> bytes:
        alert = bytes.fromhex("1703030013")  # the header of its record: RFC 8446, 5.2 and 6
        return alert + bytes(19) if data.startswith(alert) else data


@ends_clean()
async def test_a_connection_is_not_used_again_after_an_unconfirmed_cancel_request(
    tls_server: Postgres, authority: trustme.CA
) -> None:
    """The server has got the request and may act on it later, whatever ended the cancel connection."""
    async with (
        Garbled((tls_server.host, tls_server.port)) as tap,
        await AsyncConn.connect(**to(tls_server, authority, tap.port)) as conn,
    ):
        async with conn.exclusive() as mine:
            with pytest.raises(IoError, match="the cancel request could not be sent"):
                await mine.cancel_token().cancel()
        with pytest.raises(PgWireError, match="did not confirm a cancel request") as caught:
            await conn.exec_query("select 1")
        assert caught.value.outcome is Outcome.NOT_SENT
        assert len(tap.lines) == 2
