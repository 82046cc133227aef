"""Hostile servers and a man in the middle: clear text amid TLS, false answers, cut streams and hung handshakes."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import struct
from contextlib import suppress
from typing import Any

import pytest
import trustme

from pg_wired import (
    AsyncConn,
    AuthenticationError,
    ConfigError,
    ConnConfig,
    ConnectionClosed,
    IoError,
    Outcome,
    PgError,
    PgWireError,
    RequestTimeout,
    TlsConfig,
    TlsMode,
    WireConn,
)
from pg_wired.connect.tls_handshake import TlsSettings, encrypted
from pg_wired.protocol import messages as m
from pg_wired.testing import FakePG, Peer, Script, error
from rig import certificates
from rig.certificates import NAME
from rig.checks import SOON, answers, cancelled_at_every_await, ends_clean, outcome_of, until
from rig.hosts import whatever_comes
from rig.man_in_the_middle import Middle, unchanged, without_plus
from rig.postgres import Postgres
from rig.tap import Tap, records

pytestmark = pytest.mark.both_loops

SECRET = "nobody has vouched for this"
LOGIN = m.encode(m.AuthenticationOk(), m.BackendKeyData(1, b"1234"), m.ReadyForQuery("I"))


@pytest.fixture
def context(authority: trustme.CA) -> ssl.SSLContext:
    """The context of a server without ALPN."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(NAME).configure_cert(context)
    return context


def to(server: Postgres, authority: trustme.CA, **options: Any) -> dict[str, Any]:
    given = {"host": NAME, "hostaddr": "127.0.0.1", "port": server.port, "user": server.user, "dbname": server.dbname}
    given |= {
        "password": server.password,
        "sslmode": "verify-full",
        "tls": TlsConfig(roots=certificates.root(authority)),
    }
    return given | options


def answering(data: bytes) -> Script:
    """A script that answers the SSLRequest with `data` and ends after the client's next bytes."""

    async def script(peer: Peer) -> None:
        await peer.expect(m.SSLRequest)
        if data:
            await peer.write(data)
            with suppress(ConnectionResetError):
                await peer.read()
        peer.close()

    return script


async def refused_by(data: bytes, mode: str) -> PgWireError:
    async with FakePG([answering(data)]) as fake:
        ended = await outcome_of(WireConn.connect(fake.dsn, sslmode=mode, password="hush"))
    assert isinstance(ended, PgWireError) and ended.outcome is Outcome.NOT_SENT, ended
    return ended


@pytest.mark.parametrize("size", [1, 6, len(LOGIN), 65536])
@ends_clean()
async def test_clear_text_after_the_answer_to_sslrequest_is_refused(size: int) -> None:
    """CVE-2021-23222: bytes right after the S, in the same segment."""
    refused = await refused_by(b"S" + (LOGIN * (size // len(LOGIN) + 1))[:size], "require")
    assert type(refused) is IoError and "TLS" in str(refused)


@ends_clean()
async def test_protocol_messages_instead_of_a_handshake_are_refused() -> None:
    async def script(peer: Peer) -> None:
        await peer.expect(m.SSLRequest)
        await peer.write(b"S")
        await peer.read()  # the ClientHello
        await peer.write(LOGIN)
        peer.close()

    async with FakePG([script]) as fake:
        refused = await outcome_of(WireConn.connect(fake.dsn, sslmode="require"))
    assert type(refused) is IoError and "TLS" in str(refused)


@pytest.mark.parametrize("mode", ["prefer", "require"])
@pytest.mark.parametrize(
    "answer",
    [m.encode(error("57P03", SECRET, "FATAL")), SECRET.encode(), b"HTTP/1.1 400 " + SECRET.encode(), b""],
    ids=["error", "text", "http", "end"],
)
@ends_clean()
async def test_other_answers_to_sslrequest_end_the_attempt_and_are_not_shown(
    answer: bytes, mode: str, caplog: pytest.LogCaptureFixture
) -> None:
    """CVE-2024-10977. Such an answer does not lead to a login in clear either; libpq ends there as well."""
    with caplog.at_level(logging.DEBUG):
        refused = await refused_by(answer, mode)
    assert type(refused) is IoError
    seen: BaseException | None = refused
    while seen is not None:
        assert SECRET not in f"{seen!r} {seen} {seen.args} {getattr(seen, '__notes__', [])}" + caplog.text
        seen = seen.__cause__ or seen.__context__


@ends_clean()
async def test_a_server_without_tls_is_accepted_by_prefer_only() -> None:
    async def script(peer: Peer) -> None:
        await peer.expect(m.SSLRequest)
        await peer.send(b"N")
        if mode == "prefer":
            await peer.expect(m.StartupMessage)
            await peer.write(LOGIN)
        else:
            await peer.eof()

    for mode in ("prefer", "require", "verify-full"):
        tls = TlsConfig(roots=certificates.root(trustme.CA())) if mode != "prefer" else None
        async with FakePG([script]) as fake:
            ended = await outcome_of(WireConn.connect(fake.dsn, sslmode=mode, tls=tls))
            if isinstance(ended, WireConn):
                assert mode == "prefer" and not ended.is_tls and not ended.tls_version
                await ended.close()
            else:
                assert f"the server does not support TLS, which sslmode={mode} demands" in str(ended)


@pytest.mark.parametrize("where", ["host", "hostaddr"])
@ends_clean()
async def test_with_tls_settings_given_there_is_no_login_in_clear(where: str) -> None:
    """Not after an N, not after a failed handshake, and not if the name to verify is missing."""
    roots = certificates.root(trustme.CA())
    for tls in (TlsConfig(roots=roots), TlsConfig(), ssl.create_default_context(cadata=roots)):
        for answer in (b"N", b"Snonsense"):
            async with FakePG(whatever_comes(answering(answer))) as fake:
                port = fake._listener.getsockname()[1]
                ended = await outcome_of(WireConn.connect(f"{where}=127.0.0.1 port={port} user=x", tls=tls))
                if not isinstance(ended, ConfigError):
                    assert type(ended) is IoError and "TLS" in str(ended), ended
                else:
                    assert where == "hostaddr" and "the name of the server is needed" in str(ended)


@ends_clean()
async def test_with_tls_settings_given_a_wrong_option_does_not_lead_to_clear_text() -> None:
    """This also holds for a ConnConfig made by hand, which `parse` would refuse."""
    parsed = ConnConfig.parse(hostaddr="127.0.0.1", user="x", tls=ssl.create_default_context())
    by_hand = ConnConfig(**{**vars(parsed), "sslmode": TlsMode.PREFER})
    with pytest.raises(ConfigError, match="the name of the server is needed"):
        await WireConn.connect(by_hand)


@ends_clean()
async def test_prefer_connects_in_clear_after_a_failed_handshake() -> None:
    async def plain(peer: Peer) -> None:
        await peer.expect(m.StartupMessage)
        await peer.write(LOGIN)

    async with FakePG([answering(b"Snonsense"), plain]) as fake:
        wire = await WireConn.connect(fake.dsn, sslmode="prefer")
        assert not wire.is_tls
        await wire.close()


@ends_clean()
async def test_a_handshake_that_hangs_is_ended_by_the_deadline() -> None:
    async def silent(peer: Peer) -> None:
        await peer.expect(m.SSLRequest)
        await peer.write(b"S")
        await peer.read()
        await peer.eof()

    for options in ({"connect_timeout": 0.1}, {"timeout": 0.1}):
        async with FakePG([silent]) as fake:
            refused = await outcome_of(WireConn.connect(fake.dsn, sslmode="require", **options))
        assert type(refused) is RequestTimeout and refused.outcome is Outcome.NOT_SENT


@ends_clean()
async def test_a_reset_before_the_handshake_leaves_no_socket() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        sock = socket.create_connection(listener.getsockname())
        sock.setblocking(False)
        peer, _ = listener.accept()
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # socket(7): a RST
        peer.close()
        await until(lambda: is_reset(sock), "the reset")
        security = TlsSettings(ssl.create_default_context(), "localhost", False)
        with pytest.raises(IoError, match="closed the connection during the handshake"):
            await encrypted(sock, security)
        assert sock.fileno() == -1


def is_reset(sock: socket.socket) -> bool:
    try:
        sock.getpeername()
    except OSError:
        return True
    return False


# ---- direct TLS, and ALPN


@ends_clean()
async def test_direct_tls_connects_and_cancels_without_sslrequest(tls_server: Postgres, authority: trustme.CA) -> None:
    async with Tap((tls_server.host, tls_server.port)) as tap:
        options = to(tls_server, authority, sslnegotiation="direct", port=tap.port)
        async with await AsyncConn.connect(**options) as conn:
            assert conn.is_tls and conn.channel_bound
            await answers(conn)
            running = conn.exec_query("select pg_sleep(30)")
            await asyncio.sleep(0)
            token = conn.cancel_token()
            while not running.done():
                await token.cancel()
            assert isinstance(await outcome_of(running), PgError)
        assert all(line.up[0] == 0x16 for line in tap.lines)  # a handshake record, at once
    ready = ssl.create_default_context(cadata=certificates.root(authority))
    with pytest.raises(IoError, match=r"set_alpn_protocols") as refused:
        await AsyncConn.connect(**to(tls_server, authority, sslnegotiation="direct", tls=ready))
    assert refused.value.outcome is Outcome.NOT_SENT
    ready.set_alpn_protocols(["postgresql"])
    async with await AsyncConn.connect(**to(tls_server, authority, sslnegotiation="direct", tls=ready)) as conn:
        await answers(conn)


@pytest.mark.parametrize(
    ("protocols", "negotiation", "wanted"),
    [
        ([], "direct", "chose no protocol"),
        (["http/1.1"], "direct", "TLS|chose no protocol"),
        ([], "postgres", "closed"),
        (["postgresql"], "direct", "closed"),
    ],
)
@ends_clean()
async def test_direct_tls_demands_alpn_and_negotiated_tls_does_not(
    context: ssl.SSLContext, authority: trustme.CA, protocols: list[str], negotiation: str, wanted: str
) -> None:
    """If the handshake is accepted, the login begins, and this server closes the connection."""
    if protocols:
        context.set_alpn_protocols(protocols)
    async with Middle(context, None, is_direct=negotiation == "direct") as middle:
        tls = TlsConfig(roots=certificates.root(authority))
        options: dict[str, Any] = {"host": NAME, "hostaddr": "127.0.0.1", "port": middle.port, "user": "x", "tls": tls}
        refused = await outcome_of(WireConn.connect(**options, sslmode="verify-full", sslnegotiation=negotiation))
    assert isinstance(refused, IoError if wanted != "closed" else IoError | ConnectionClosed)
    with pytest.raises(type(refused), match=wanted):
        raise refused


@ends_clean()
async def test_direct_tls_is_refused_with_sslmode_disable() -> None:
    for options in ({"sslnegotiation": "direct"}, {"tls": TlsConfig(direct=True)}):
        with pytest.raises(ConfigError, match="direct"):
            await WireConn.connect("host=127.0.0.1 user=x connect_timeout=1", sslmode="disable", **options)


# ---- a man in the middle with a valid certificate


@pytest.mark.parametrize("strips", [False, True], ids=["as it is", "without PLUS"])
@ends_clean()
async def test_channel_binding_detects_a_man_in_the_middle(
    tls_server: Postgres, authority: trustme.CA, context: ssl.SSLContext, strips: bool
) -> None:
    edit = without_plus if strips else unchanged
    async with Middle(context, (tls_server.host, tls_server.port), edit) as middle:
        for binding in ("require", "prefer", "disable"):
            ended = await outcome_of(
                AsyncConn.connect(**to(tls_server, authority, port=middle.port, channel_binding=binding))
            )
            if binding == "disable":
                assert isinstance(ended, AsyncConn) and not ended.channel_bound
                await ended.close()
            elif strips and binding == "require":
                assert isinstance(ended, AuthenticationError) and "does not offer" in str(ended)
            else:  # the server detects another certificate's hash, or the client's flag y
                assert isinstance(ended, PgError) and ended.code == "28000", ended
                assert "channel binding" in ended.message or "authentication failed" in ended.message


# ---- the end of the stream


@ends_clean(60)
async def test_a_cut_stream_is_an_error_and_never_a_short_result(tls_server: Postgres, authority: trustme.CA) -> None:
    """The stream is cut at the ends of records and within them, during the login and amid rows."""
    sql = "select repeat('x', 200), n from generate_series(1, 200) n"
    async with Tap((tls_server.host, tls_server.port)) as tap:
        async with await AsyncConn.connect(**to(tls_server, authority, port=tap.port)) as conn:
            whole = await conn.exec_query(sql)
        stream = bytes(tap.lines[0].down)
    begins = [at + 1 for at, _ in records(stream[1:])]
    assert len(begins) > 8 and len(whole) == 200
    cuts = sorted({max(at + k, 0) for at in begins for k in (0, 3, 6)} | {1, len(stream) - 40})
    ends = set()
    for cut in cuts:
        async with Tap((tls_server.host, tls_server.port), cut_at=cut) as tap:
            conn = await outcome_of(AsyncConn.connect(**to(tls_server, authority, port=tap.port)))
            if not isinstance(conn, AsyncConn):
                assert type(conn) is IoError, (cut, conn)
                assert conn.outcome is Outcome.NOT_SENT
                ends.add("login")
                continue
            rows = await outcome_of(conn.exec_query(sql))
            conn.abort()
            if isinstance(rows, PgWireError):
                assert type(rows) is IoError and rows.outcome is Outcome.UNKNOWN
                ends.add("rows")
            else:
                assert list(rows) == list(whole), cut
    assert ends == {"login", "rows"}


@ends_clean(60)
async def test_a_tls_connect_cancelled_at_any_await_leaves_nothing(tls_server: Postgres, authority: trustme.CA) -> None:
    n = await cancelled_at_every_await(lambda: WireConn.connect(**to(tls_server, authority)))
    assert n > 3
    async with await AsyncConn.connect(**to(tls_server, authority)) as conn:  # the server has no half-open login
        others = "select count(*) = 0 from pg_stat_activity where backend_type = 'client backend' and pid <> $1::int"
        async with asyncio.timeout(SOON):
            while (await conn.exec_query(others, (str(conn.backend_pid),)))[0] != (b"t",):
                await asyncio.sleep(0.01)


@ends_clean()
async def test_rows_and_parameters_of_any_size_pass_through_tls(tls_server: Postgres, authority: trustme.CA) -> None:
    async with await AsyncConn.connect(**to(tls_server, authority)) as conn:
        for size in (1, 100, 8193, 16384, 1 << 20):
            assert list(await conn.exec_query("select repeat('x', $1::int)", (str(size),))) == [(b"x" * size,)]
            assert list(await conn.exec_query("select length($1)", (b"x" * size,))) == [(str(size).encode(),)]
