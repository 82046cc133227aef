"""Servers that speak another protocol, end at any byte or stay silent: connecting ends in time, with a typed error."""

from __future__ import annotations

import asyncio
import functools
import socket
import tempfile
import time
from typing import Any

import pytest

from pg_wired import (
    AuthenticationError,
    ConnectionClosed,
    IoError,
    Outcome,
    PgError,
    PgWireError,
    ProtocolError,
    RequestTimeout,
    WireConn,
)
from pg_wired.protocol import messages as m
from pg_wired.testing import KEY, PID, FakePG, Peer, error
from rig.checks import LATE, ends_clean, outcome_of
from rig.scram_server import ScramServer

pytestmark = pytest.mark.both_loops

WELCOME = m.encode(
    m.AuthenticationOk(),
    m.ParameterStatus("client_encoding", "UTF8"),
    m.NoticeResponse(error("01000", "careful", "WARNING").fields),
    m.BackendKeyData(PID, KEY),
    m.ReadyForQuery("I"),
)


async def answer(peer: Peer, data: bytes, reset: bool = False) -> None:
    """Answer the StartupMessage with these bytes, then end the connection."""
    await peer.expect(m.StartupMessage)
    await peer.write(data)
    if reset:
        peer.reset()
    else:
        peer.close()


async def connect_to(data: bytes, **options: Any) -> Any:
    """The outcome of a connect that is answered with these bytes."""
    async with FakePG(functools.partial(answer, data=data)) as fake:
        return await outcome_of(WireConn.connect(fake.dsn, **options))


NO_LOGIN: dict[str, tuple[bytes, type[PgWireError]]] = {
    "http": (b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n", ProtocolError),
    "ssh": (b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n", ProtocolError),
    "tls alert": (b"\x15\x03\x01\x00\x02\x02\x46", ProtocolError),
    "one byte": (b"N", ConnectionClosed),
    "length too short": (b"R\0\0\0\x07\0\0\0", ProtocolError),
    "length too long": (b"R\x7f\xff\xff\xff\0\0\0\0", ProtocolError),
    "long message before the login": (b"D\0\xff\xff\xff" + bytes(100), ProtocolError),
    "ready at once": (m.encode(m.ReadyForQuery("I")), ProtocolError),
    "ready in a transaction": (m.encode(m.AuthenticationOk(), m.ReadyForQuery("T")), ProtocolError),
    "key of five bytes": (m.encode(m.AuthenticationOk(), m.BackendKeyData(PID, b"12345")), ProtocolError),
    "row": (m.encode(m.AuthenticationOk(), m.DataRow(())), ProtocolError),
    "gss": (m.encode(m.AuthenticationGSS()), AuthenticationError),
    "unknown mechanism": (m.encode(m.AuthenticationSASL(("SCRAM-SHA-512",))), AuthenticationError),
    "refusal": (m.encode(error("53300", "too many clients", "FATAL")), PgError),
    "late refusal": (m.encode(m.AuthenticationOk(), error("57P03", "starting up", "FATAL")), PgError),
    "unknown tag": (WELCOME[:-6] + b"X\0\0\0\x04", ProtocolError),
}


@pytest.mark.parametrize(("data", "kind"), NO_LOGIN.values(), ids=NO_LOGIN)
@ends_clean()
async def test_answers_that_are_not_a_login_raise_the_fitting_error(data: bytes, kind: type[PgWireError]) -> None:
    refused = await connect_to(data, password="hush")
    assert type(refused) is kind, refused
    assert refused.outcome is Outcome.NOT_SENT


@ends_clean(60)
async def test_an_end_after_any_byte_of_the_login_raises_not_sent() -> None:
    cut = 0

    async def script(peer: Peer) -> None:
        await answer(peer, WELCOME[:cut], reset=cut % 2 == 1)

    async with FakePG(script) as fake:
        for cut in range(len(WELCOME)):
            refused = await outcome_of(WireConn.connect(fake.dsn))
            assert isinstance(refused, ConnectionClosed | IoError), (cut, refused)
            assert refused.outcome is Outcome.NOT_SENT, cut
        cut = len(WELCOME)
        wire = await WireConn.connect(fake.dsn)
        assert (wire.pid, wire.parameters) == (PID, {"client_encoding": "UTF8"})
        await wire.close()


@pytest.mark.parametrize("steps", range(4))
@ends_clean()
async def test_an_end_at_any_step_of_scram_raises_connection_closed(steps: int) -> None:
    async def script(peer: Peer) -> None:
        await peer.expect(m.StartupMessage)
        server = ScramServer(b"hush", b"sixteen bytes...", 4096, b"server")
        if steps > 0:
            await peer.send(m.AuthenticationSASL(("SCRAM-SHA-256",)))
            [initial] = await peer.expect(m.SASLInitialResponse)
        if steps > 1:
            await peer.send(m.AuthenticationSASLContinue(server.first(initial.response)))
            [response] = await peer.expect(m.SASLResponse)
        if steps > 2:
            await peer.send(m.AuthenticationSASLFinal(server.final(response.data)))
        peer.close()

    async with FakePG(script) as fake:
        refused = await outcome_of(WireConn.connect(fake.dsn, password="hush"))
    assert type(refused) is ConnectionClosed and refused.outcome is Outcome.NOT_SENT


async def in_time(dsn: str, limit: float) -> None:
    begin = time.monotonic()
    with pytest.raises(RequestTimeout, match="connect_timeout") as caught:
        await WireConn.connect(dsn, connect_timeout=limit)
    assert limit - 0.001 <= time.monotonic() - begin < limit + LATE  # uvloop counts in milliseconds
    assert caught.value.outcome is Outcome.NOT_SENT and isinstance(caught.value, TimeoutError)


@ends_clean()
async def test_connecting_to_a_silent_server_times_out() -> None:
    async def mute(peer: Peer) -> None:
        await peer.expect(m.StartupMessage)

    async with FakePG(mute) as fake:
        await in_time(fake.dsn, 0.1)
    with socket.create_server(("127.0.0.1", 0)) as deaf:  # only the kernel accepts the connection
        await in_time("host={} port={} user=tester sslmode=disable".format(*deaf.getsockname()), 0.1)


@ends_clean()
async def test_a_login_that_arrives_byte_by_byte_does_not_extend_the_deadline() -> None:
    async def script(peer: Peer) -> None:
        await peer.expect(m.StartupMessage)
        try:
            for octet in WELCOME:
                await peer.write(bytes([octet]))
                await asyncio.sleep(0.01)
        except ConnectionError:  # the client has given up
            pass

    async with FakePG(script) as fake:
        await in_time(fake.dsn, 0.2)


@ends_clean()
async def test_a_login_that_arrives_byte_by_byte_succeeds() -> None:
    async def script(peer: Peer) -> None:
        await peer.expect(m.StartupMessage)
        for octet in WELCOME:
            await peer.write(bytes([octet]))
            await asyncio.sleep(0)

    async with FakePG(script) as fake, await WireConn.connect(fake.dsn) as wire:
        assert wire.pid == PID


@ends_clean()
async def test_too_many_parameters_or_notices_at_login_are_refused() -> None:
    """The limits are above what any server sends, and bound the memory for messages that are not read."""
    for flood in (
        b"".join(m.encode(m.ParameterStatus(f"p{number}", "x" * 1000)) for number in range(2000)),
        m.encode(m.NoticeResponse(error("01000", "x" * 1000, "WARNING").fields)) * 2000,
    ):
        refused = await connect_to(m.encode(m.AuthenticationOk()) + flood)
        assert type(refused) is ProtocolError and "1000" in str(refused)


@ends_clean()
async def test_a_server_that_sends_no_key_gives_no_cancel_token() -> None:
    async def script(peer: Peer) -> None:
        await answer(peer, m.encode(m.AuthenticationOk(), m.ReadyForQuery("I")))

    async with FakePG(script) as fake, await WireConn.connect(fake.dsn) as wire:
        assert wire.pid is None
        with pytest.raises(PgWireError, match="BackendKeyData"):
            wire.cancel_token()


@ends_clean()
async def test_connects_to_a_unix_socket_with_a_full_backlog_end_in_time() -> None:
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as full:
        full.bind(f"{folder}/.s.PGSQL.5432")
        full.listen(0)
        attempts = [
            asyncio.ensure_future(WireConn.connect(host=folder, user="tester", connect_timeout=0.2)) for _ in range(5)
        ]
        for refused in await asyncio.gather(*attempts, return_exceptions=True):
            assert isinstance(refused, RequestTimeout | IoError) and refused.outcome is Outcome.NOT_SENT, refused


@ends_clean()
async def test_the_password_does_not_appear_in_the_error() -> None:
    async def script(peer: Peer) -> None:
        await peer.expect(m.StartupMessage)
        await peer.send(m.AuthenticationCleartextPassword())
        await peer.expect(m.PasswordMessage)
        peer.close()

    async with FakePG(script) as fake:
        refused = await outcome_of(WireConn.connect(fake.dsn, password="hush-hush", require_auth="password"))
    assert isinstance(refused, ConnectionClosed)
    seen: BaseException | None = refused
    while seen is not None:
        assert "hush-hush" not in f"{seen!r} {seen}"
        seen = seen.__cause__ or seen.__context__
