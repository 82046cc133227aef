"""Hosts and addresses: which are tried, in which order, and which error is raised in the end."""

from __future__ import annotations

import asyncio
import functools
import itertools
import random
import socket
from typing import Any

import pytest

from pg_wired import AuthenticationError, ConnConfig, ConnectionClosed, IoError, PgError, WireConn
from pg_wired.connect.wire_conn import connector
from pg_wired.protocol import messages as m
from pg_wired.testing import PARAMETERS, Peer, Script, error
from rig.checks import ends_clean, outcome_of
from rig.hosts import Hosts, asking_in_clear, hanging_up, name_of, refusing, server
from rig.postgres import free_port
from rig.randomness import chosen
from rig.scram_server import ScramServer

pytestmark = pytest.mark.both_loops


@pytest.mark.parametrize("first", [refusing("57P03"), hanging_up, None], ids=["starting up", "hangs up", "closed"])
@ends_clean()
async def test_the_next_host_is_tried_when_one_is_unavailable(first: Script | None) -> None:
    async with Hosts(*([first] if first else []), [server("good")]) as hosts:
        if first:
            assert await hosts.connect() == "good"
        else:
            options = hosts.options(sslmode="disable")
            options |= {"host": "127.0.0.1,127.0.0.1", "port": f"{free_port()},{options['port']}"}
            assert await name_of(WireConn.connect(**options)) == "good"


@pytest.mark.parametrize("code", ["28P01", "28000", "3D000", "53300", "42704"])
@ends_clean()
async def test_a_refusal_by_the_server_ends_the_attempts(code: str) -> None:
    async with Hosts([hanging_up], [refusing(code)], []) as hosts:
        refused = await hosts.connect()
    assert isinstance(refused, PgError) and refused.code == code
    assert str(refused) == f"FATAL:  no {code}"
    [first] = refused.__notes__[:1]
    assert first.startswith('connection to server at "127.0.0.1", port ') and "closed" in first


@ends_clean()
async def test_a_refusal_by_our_own_policy_ends_the_attempts() -> None:
    async with Hosts([asking_in_clear], []) as hosts:
        refused = await hosts.connect(password="hush")
    assert isinstance(refused, AuthenticationError)


@ends_clean()
async def test_each_host_gets_its_own_nonce_and_the_same_policy() -> None:
    nonces = []

    async def script(peer: Peer, breaks_off: bool) -> None:
        await peer.expect(m.StartupMessage)
        await peer.send(m.AuthenticationSASL(("SCRAM-SHA-256",)))
        [initial] = await peer.expect(m.SASLInitialResponse)
        exchange = ScramServer(b"hush", b"sixteen bytes...", 4096, b"server")
        await peer.send(m.AuthenticationSASLContinue(exchange.first(initial.response)))
        nonces.append(initial.response)
        [response] = await peer.expect(m.SASLResponse)
        if breaks_off:
            peer.close()
            return
        await peer.send(m.AuthenticationSASLFinal(exchange.final(response.data)))
        await peer.welcome({**PARAMETERS, "name": "good"})

    first, second = (functools.partial(script, breaks_off=breaks_off) for breaks_off in (True, False))
    async with Hosts([first], [second]) as hosts:
        assert await hosts.connect(password="hush", require_auth="scram-sha-256") == "good"
    assert len(set(nonces)) == 2


@ends_clean()
async def test_require_auth_holds_for_the_second_host_too() -> None:
    async def trusting(peer: Peer) -> None:
        await peer.startup()
        await peer.eof()

    async with Hosts([hanging_up], [trusting]) as hosts:
        refused = await hosts.connect(password="hush", require_auth="scram-sha-256")
    assert isinstance(refused, AuthenticationError), refused


@ends_clean()
async def test_the_error_lists_all_attempts() -> None:
    async with Hosts([hanging_up], [refusing("57P03")]) as hosts:
        refused = await hosts.connect(free_port())
        first, second = hosts.ports
    assert isinstance(refused, PgError) and refused.code == "57P03"
    said = "\n".join(refused.__notes__)
    for port in (first, second):
        assert f"port {port} failed" in said
    assert "Connection refused" in said
    ports = free_port(), free_port()
    nobody: dict[str, Any] = {
        "host": "127.0.0.1,127.0.0.1,/no/such",
        "port": f"{ports[0]},{ports[1]},1",
        "user": "tester",
    }
    refused = await outcome_of(WireConn.connect(**nobody))
    assert type(refused) is IoError
    assert str(refused).splitlines() == [
        *[f'connection to server at "127.0.0.1", port {port} failed: Connection refused' for port in ports],
        'connection to server on socket "/no/such/.s.PGSQL.1" failed: No such file or directory',
    ]


@ends_clean()
async def test_an_invalid_host_name_is_skipped_or_reported() -> None:
    async with Hosts([server("good")]) as hosts:
        options = hosts.options(1)
        good = options["port"].split(",")[0]
        assert await name_of(WireConn.connect(**{**options, "host": "a..b,127.0.0.1", "port": f"1,{good}"})) == "good"
    refused = await outcome_of(WireConn.connect(host="a..b", user="tester"))
    assert type(refused) is IoError and not hasattr(refused, "__notes__")
    assert str(refused).startswith("could not translate host name 'a..b' to address: ")


@ends_clean()
async def test_a_single_error_is_raised_unchanged() -> None:
    async with Hosts([hanging_up]) as hosts:
        refused = await hosts.connect()
    assert type(refused) is ConnectionClosed and len(refused.__notes__) == 1
    async with Hosts([refusing("57P03")]) as hosts:
        refused = await hosts.connect()
    assert type(refused) is PgError and str(refused) == "FATAL:  no 57P03"


# ---- the addresses of a host


async def resolve_to(monkeypatch: pytest.MonkeyPatch, *addresses: tuple[int, Any]) -> None:
    """Make the loop's resolver return these addresses."""
    found = [(family, socket.SOCK_STREAM, 6, "", sockaddr) for family, sockaddr in addresses]

    async def getaddrinfo(*args: object) -> list[Any]:
        return found

    monkeypatch.setattr(type(asyncio.get_running_loop()), "getaddrinfo", lambda _, *args, **hints: getaddrinfo(*args))


@ends_clean()
async def test_every_address_is_tried_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    if "uvloop" in type(asyncio.get_running_loop()).__module__:
        return  # a compiled class cannot be patched; the code under test is the same
    async with Hosts([server("good")]) as hosts:
        [port], closed = hosts.ports, free_port()
        none = socket.AF_APPLETALK, ("127.0.0.1", port)  # this family has no stream sockets here
        dead = (socket.AF_INET6, ("::1", closed, 0, 0)), (socket.AF_INET, ("127.0.0.1", closed))
        await resolve_to(monkeypatch, none, *dead, (socket.AF_INET, ("127.0.0.1", port)))
        assert await hosts.connect(host="name") == "good"
    await resolve_to(monkeypatch, *dead)
    with pytest.raises(IoError) as caught:
        await WireConn.connect(host="name", port=closed, user="tester")
    assert str(caught.value).splitlines() == [
        f'connection to server at "name" (::1), port {closed} failed: Connection refused',
        f'connection to server at "name" (127.0.0.1), port {closed} failed: Connection refused',
    ]


@ends_clean()
async def test_a_server_that_is_not_ready_is_not_tried_at_its_other_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in libpq: the next host is tried, not another address of the same host."""
    if "uvloop" in type(asyncio.get_running_loop()).__module__:
        return
    async with Hosts([refusing("57P03")], []) as hosts:
        await resolve_to(monkeypatch, *[(socket.AF_INET, ("127.0.0.1", port)) for port in hosts.ports])
        refused = await hosts.connect(host="name", port="1")
    assert isinstance(refused, PgError) and refused.code == "57P03"


@ends_clean()
async def test_a_name_is_looked_up_for_each_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also by the one connector that a pool keeps, because a name may move to another server."""
    if "uvloop" in type(asyncio.get_running_loop()).__module__:
        return
    async with Hosts([server("before")], [server("behind")]) as hosts:
        kept = connector(ConnConfig.parse(**hosts.options(host="name", port="1")))
        for port, name in zip(hosts.ports, ["before", "behind"], strict=True):
            await resolve_to(monkeypatch, (socket.AF_INET, ("127.0.0.1", port)))
            assert await name_of(kept.connect()) == name


@ends_clean()
async def test_localhost_connects_to_whichever_of_its_addresses_listens() -> None:
    async with Hosts([server("good")]) as hosts:
        assert await hosts.connect(host="localhost") == "good"  # ::1 refuses where it comes first


@ends_clean()
async def test_an_ipv6_address_is_dialled() -> None:
    with socket.socket(socket.AF_INET6) as listener:
        try:
            listener.bind(("::1", 0))
        except OSError:
            return  # this machine has no IPv6
        listener.listen()
        port = listener.getsockname()[1]
        begin = asyncio.ensure_future(outcome_of(WireConn.connect(f"postgresql://u@[::1]:{port}/?sslmode=disable")))
        listener.setblocking(False)
        sock, _ = await asyncio.get_running_loop().sock_accept(listener)
        sock.close()
        assert isinstance(await begin, ConnectionClosed | IoError)


@ends_clean()
async def test_random_order_comes_from_the_given_shuffle() -> None:
    names = ["a", "b", "c", "d"]
    async with Hosts(*[[server(name)] * 3 for name in names]) as hosts:
        met = []
        config = ConnConfig.parse(**hosts.options(load_balance_hosts="random"))
        for seed in itertools.count():
            met.append(await name_of(connector(config, chosen(shuffle=random.Random(seed).shuffle)).connect()))
            wanted = list(names)
            random.Random(seed).shuffle(wanted)
            assert met[-1] == wanted[0]
            if len(set(met)) > 1:
                break
        for fake in hosts.fakes:  # drop the scripts that were not needed
            fake._scripts = iter(())
    async with Hosts(*[server(name) for name in names]) as hosts:
        assert await hosts.connect(load_balance_hosts="random") in names
        assert await hosts.connect() == "a"


# ---- with TLS or without


async def refusing_tls(peer: Peer) -> None:
    await peer.expect(m.SSLRequest)
    await peer.send(b"N")
    await peer.eof()


@pytest.mark.parametrize("mode", ["allow", "prefer"])
@ends_clean()
async def test_a_refusal_makes_allow_and_prefer_try_the_other_way_once(mode: str) -> None:
    """The server has no TLS: `prefer` has connected in clear already, and `allow` finds out with an SSLRequest."""

    async def refusing_plainly(peer: Peer) -> None:
        while isinstance(await peer.recv(), m.SSLRequest):
            await peer.send(b"N")
        await peer.send(error("28000", "no", "FATAL"))
        peer.close()

    async with Hosts([refusing_plainly, refusing_tls] if mode == "allow" else [refusing_plainly]) as hosts:
        refused = await hosts.connect(sslmode=mode)
    assert isinstance(refused, PgError) and refused.code == "28000"
    assert ("does not support TLS" in "".join(getattr(refused, "__notes__", []))) == (mode == "allow")


@ends_clean()
async def test_a_refusal_that_tls_would_not_change_is_final() -> None:
    """The server has authenticated us already, or accepts no connections now: like libpq, we do not try again."""

    async def too_late(peer: Peer) -> None:
        await peer.expect(m.StartupMessage)
        await peer.send(m.AuthenticationOk(), error("3D000", "no", "FATAL"))
        peer.close()

    for script in (too_late, refusing("57P03")):
        async with Hosts([script]) as hosts:
            assert isinstance(await hosts.connect(sslmode="allow"), PgError)
