"""Hosts, addresses, deadlines and kinds of servers: which are tried, in which order, and what is said in the end."""

from __future__ import annotations

import asyncio
import functools
import itertools
import random
import socket
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress
from typing import Any

import pytest

from pg_wired import (
    AsyncConn,
    AuthenticationError,
    ConfigError,
    ConnConfig,
    ConnectionClosed,
    IoError,
    Outcome,
    PgError,
    RequestTimeout,
    WireConn,
)
from pg_wired.connection import connector
from pg_wired.connector import Connector
from pg_wired.protocol import messages as m
from rig.checks import Cancelled, ends_clean, nothing_left, open_sockets, outcome_of
from rig.fake_pg import PARAMETERS, FakePG, Peer, Script, error
from rig.postgres import free_port
from rig.scram_server import ScramServer

pytestmark = pytest.mark.both_loops

LATE = 0.25  # seconds that a deadline may be late (I9)


def server(name: str, **reported: str) -> Script:
    """Lets everybody in, answers the questions about its kind, and takes its leave."""

    async def script(peer: Peer) -> None:
        await peer.startup({**PARAMETERS, "name": name, **reported})
        while isinstance(message := await peer.recv(), m.Query):
            value = {"SHOW transaction_read_only": b"off", "SELECT pg_catalog.pg_is_in_recovery()": b"f"}[message.query]
            if name == "standby":
                value = b"on" if value == b"off" else b"t"
            await peer.send(m.DataRow((value,)), m.CommandComplete("SELECT 1"), m.ReadyForQuery("I"))
        assert isinstance(message, m.Terminate)
        peer.close()

    return script


def refusing(code: str) -> Script:
    async def script(peer: Peer) -> None:
        await peer.expect(m.StartupMessage)
        await peer.send(error(code, f"no {code}", "FATAL"))
        peer.close()

    return script


async def hanging_up(peer: Peer) -> None:
    await peer.expect(m.StartupMessage)
    peer.close()


async def silent(peer: Peer) -> None:
    await peer.expect(m.StartupMessage)
    await peer.eof()


async def asking_in_clear(peer: Peer) -> None:
    """It gets no answer."""
    await peer.expect(m.StartupMessage)
    await peer.send(m.AuthenticationCleartextPassword())
    await peer.eof()


def whatever_comes(script: Script) -> Script:
    """The same, for clients that break off anywhere."""

    async def tolerant(peer: Peer) -> None:
        with suppress(AssertionError, OSError):
            await script(peer)
        peer.close()

    return tolerant


class Hosts:
    """Some fake servers, as the hosts of one connection string."""

    def __init__(self, *scripts: Script | Sequence[Script]) -> None:
        self.fakes = [FakePG(script) for script in scripts]
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Hosts:
        for fake in self.fakes:
            await self._stack.enter_async_context(fake)
        return self

    async def __aexit__(self, *exc: Any) -> bool | None:
        return await self._stack.__aexit__(*exc)

    @property
    def ports(self) -> list[int]:
        return [fake._listener.getsockname()[1] for fake in self.fakes]

    def options(self, *more: int, **options: Any) -> dict[str, Any]:
        ports = [*self.ports, *more]
        return {
            **{"host": ",".join(["127.0.0.1"] * len(ports)), "port": ",".join(map(str, ports))},
            **{"user": "tester", "sslmode": "disable", **options},
        }

    async def connect(self, *more: int, **options: Any) -> Any:
        """The name of the server that is connected to, or the error."""
        return await name_of(WireConn.connect(**self.options(*more, **options)))


async def name_of(connecting: Any) -> Any:
    wire = await outcome_of(connecting)
    if not isinstance(wire, WireConn):
        assert not isinstance(wire, Exception) or wire.outcome is Outcome.NOT_SENT  # type: ignore[attr-defined]
        return wire
    await wire.close()
    return wire.parameters["name"]


# ---- which host


@pytest.mark.parametrize("first", [refusing("57P03"), hanging_up, None], ids=["starting up", "hangs up", "closed"])
@ends_clean()
async def test_the_next_host_is_tried(first: Script | None) -> None:
    async with Hosts(*([first] if first else []), [server("good")]) as hosts:
        if first:
            assert await hosts.connect() == "good"
        else:
            options = hosts.options(sslmode="disable")
            options |= {"host": "127.0.0.1,127.0.0.1", "port": f"{free_port()},{options['port']}"}
            assert await name_of(WireConn.connect(**options)) == "good"


@pytest.mark.parametrize("code", ["28P01", "28000", "3D000", "53300", "42704"])
@ends_clean()
async def test_a_refusal_is_the_last_word(code: str) -> None:
    async with Hosts([hanging_up], [refusing(code)], []) as hosts:
        refused = await hosts.connect()
    assert isinstance(refused, PgError) and refused.code == code
    assert str(refused) == f"FATAL:  no {code}"
    [first] = refused.__notes__[:1]
    assert first.startswith('connection to server at "127.0.0.1", port ') and "closed" in first


@ends_clean()
async def test_a_refusal_by_our_own_policy_is_the_last_word() -> None:
    async with Hosts([asking_in_clear], []) as hosts:
        refused = await hosts.connect(password="hush")
    assert isinstance(refused, AuthenticationError)


@ends_clean()
async def test_each_host_gets_a_nonce_of_its_own_and_the_same_policy() -> None:
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
async def test_a_second_host_gets_in_by_no_weaker_way() -> None:
    async def trusting(peer: Peer) -> None:
        await peer.startup()
        await peer.eof()

    async with Hosts([hanging_up], [trusting]) as hosts:
        refused = await hosts.connect(password="hush", require_auth="scram-sha-256")
    assert isinstance(refused, AuthenticationError), refused


@ends_clean()
async def test_all_attempts_are_in_the_error() -> None:
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
async def test_a_name_that_is_none_among_hosts() -> None:
    async with Hosts([server("good")]) as hosts:
        options = hosts.options(1)
        good = options["port"].split(",")[0]
        assert await name_of(WireConn.connect(**{**options, "host": "a..b,127.0.0.1", "port": f"1,{good}"})) == "good"
    refused = await outcome_of(WireConn.connect(host="a..b", user="tester"))
    assert type(refused) is IoError and not hasattr(refused, "__notes__")
    assert str(refused).startswith("could not translate host name 'a..b' to address: ")


@ends_clean()
async def test_one_error_is_raised_as_it_is() -> None:
    async with Hosts([hanging_up]) as hosts:
        refused = await hosts.connect()
    assert type(refused) is ConnectionClosed and len(refused.__notes__) == 1
    async with Hosts([refusing("57P03")]) as hosts:
        refused = await hosts.connect()
    assert type(refused) is PgError and str(refused) == "FATAL:  no 57P03"


# ---- the addresses of a host


async def resolve_to(monkeypatch: pytest.MonkeyPatch, *addresses: tuple[int, Any]) -> None:
    """Have the loop's resolver answer with these."""
    found = [(family, socket.SOCK_STREAM, 6, "", sockaddr) for family, sockaddr in addresses]

    async def getaddrinfo(*args: object) -> list[Any]:
        return found

    monkeypatch.setattr(type(asyncio.get_running_loop()), "getaddrinfo", lambda _, *args, **hints: getaddrinfo(*args))


@ends_clean()
async def test_every_address_is_tried_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    if "uvloop" in type(asyncio.get_running_loop()).__module__:
        return  # a compiled class takes no other resolver; the code under test is the same
    async with Hosts([server("good")]) as hosts:
        [port], closed = hosts.ports, free_port()
        dead = (socket.AF_INET6, ("::1", closed, 0, 0)), (socket.AF_INET, ("127.0.0.1", closed))
        await resolve_to(monkeypatch, *dead, (socket.AF_INET, ("127.0.0.1", port)))
        assert await hosts.connect(host="name") == "good"
    await resolve_to(monkeypatch, *dead)
    with pytest.raises(IoError) as caught:
        await WireConn.connect(host="name", port=closed, user="tester")
    assert str(caught.value).splitlines() == [
        f'connection to server at "name" (::1), port {closed} failed: Connection refused',
        f'connection to server at "name" (127.0.0.1), port {closed} failed: Connection refused',
    ]


@ends_clean()
async def test_localhost_means_whatever_listens_there() -> None:
    async with Hosts([server("good")]) as hosts:
        assert await hosts.connect(host="localhost") == "good"  # ::1 refuses where it comes first


@ends_clean()
async def test_ipv6() -> None:
    with socket.socket(socket.AF_INET6) as listener:
        try:
            listener.bind(("::1", 0))
        except OSError:
            return  # a machine without it
        listener.listen()
        port = listener.getsockname()[1]
        begin = asyncio.ensure_future(outcome_of(WireConn.connect(f"postgresql://u@[::1]:{port}/?sslmode=disable")))
        listener.setblocking(False)
        sock, _ = await asyncio.get_running_loop().sock_accept(listener)
        sock.close()
        assert isinstance(await begin, ConnectionClosed | IoError)


@ends_clean()
async def test_random_order_is_that_of_the_source_handed_in() -> None:
    names = ["a", "b", "c", "d"]
    async with Hosts(*[[server(name)] * 3 for name in names]) as hosts:
        met = []
        config = ConnConfig.parse(**hosts.options(load_balance_hosts="random"))
        for seed in itertools.count():
            met.append(await name_of(connector(config, shuffle=random.Random(seed).shuffle).connect()))
            wanted = list(names)
            random.Random(seed).shuffle(wanted)
            assert met[-1] == wanted[0]
            if len(set(met)) > 1:
                break
        for fake in hosts.fakes:  # the scripts that were not needed
            fake._scripts = iter(())
    async with Hosts(*[server(name) for name in names]) as hosts:
        assert await hosts.connect(load_balance_hosts="random") in names
        assert await hosts.connect() == "a"


# ---- which kind of server


WRITABLE = {"in_hot_standby": "off", "default_transaction_read_only": "off"}
READ_ONLY = {"in_hot_standby": "off", "default_transaction_read_only": "on"}
STANDBY = {"in_hot_standby": "on", "default_transaction_read_only": "off"}


@pytest.mark.parametrize(
    ("wanted", "order", "met"),
    [
        ("any", "spr", "standby"),
        ("read-write", "srp", "primary"),
        ("read-only", "psr", "standby"),
        ("read-only", "prs", "read only"),
        ("primary", "sr", "read only"),
        ("standby", "prs", "standby"),
        ("prefer-standby", "prs", "standby"),
        ("prefer-standby", "pr", "primary"),
        ("read-write", "sr", "session is read-only"),
        ("read-only", "p", "session is not read-only"),
        ("primary", "ss", "server is in hot standby mode"),
        ("standby", "pr", "server is not in hot standby mode"),
    ],
)
@pytest.mark.parametrize("reports", [True, False], ids=["reported", "asked for"])
@ends_clean()
async def test_target_session_attrs(wanted: str, order: str, met: str, reports: bool) -> None:
    kinds = {"p": ("primary", WRITABLE), "r": ("read only", READ_ONLY), "s": ("standby", STANDBY)}
    if not reports:  # a server before 14, or a pooler: what it is, it says when it is asked
        if "r" in order:
            return
        kinds = {letter: (name, {}) for letter, (name, _) in kinds.items()}
    async with Hosts(*[server(name, **reported) for name, reported in map(kinds.__getitem__, order)]) as hosts:
        got = await hosts.connect(target_session_attrs=wanted)
        if isinstance(got, str):
            assert got == met
        else:
            assert isinstance(got, IoError)
            assert f"{met} (target_session_attrs={wanted})" in str(got)
            assert "\n".join([str(got), *getattr(got, "__notes__", [])]).count("port") >= len(order)


@ends_clean()
async def test_an_unreachable_host_is_no_reason_against_prefer_standby() -> None:
    async with Hosts(server("primary", **WRITABLE)) as hosts:
        assert await hosts.connect(free_port(), target_session_attrs="prefer-standby") == "primary"


# ---- deadlines


@ends_clean()
async def test_each_attempt_has_its_own_deadline() -> None:
    async with Hosts([silent], [server("good")]) as hosts:
        begin = time.monotonic()
        assert await hosts.connect(connect_timeout=0.1) == "good"
        assert time.monotonic() - begin >= 0.099
    async with Hosts([silent], [silent]) as hosts:
        refused = await hosts.connect(connect_timeout=0.1)
        assert type(refused) is RequestTimeout and str(refused).count("connect_timeout") == 2


@ends_clean()
async def test_one_deadline_for_all_of_them() -> None:
    async with Hosts([hanging_up], [silent], []) as hosts:
        begin = time.monotonic()
        refused = await hosts.connect(timeout=0.1)
        assert 0.099 <= time.monotonic() - begin < 0.1 + LATE
    assert type(refused) is RequestTimeout and str(refused) == "no connection within 0.1 s"
    assert len(refused.__notes__) == 1 and f"port {hosts_port(refused)} failed" in refused.__notes__[0]


def hosts_port(refused: BaseException) -> str:
    return refused.__notes__[0].split("port ")[1].split()[0]


@pytest.mark.parametrize(("timeout", "kind"), [("1", TypeError), (True, TypeError), (-1, ConfigError)])
@ends_clean()
async def test_a_timeout_that_is_none(timeout: Any, kind: type[Exception]) -> None:
    with pytest.raises(kind):
        await AsyncConn.connect("host=127.0.0.1 user=tester", timeout=timeout)


@ends_clean()
async def test_no_time_at_all() -> None:
    refused = await outcome_of(AsyncConn.connect("host=127.0.0.1 user=tester", timeout=0))
    assert type(refused) is RequestTimeout and refused.outcome is Outcome.NOT_SENT


@ends_clean(20)
async def test_cancelled_at_every_await() -> None:
    """Several hosts, questions about their kind, and the leave that is taken from one that does not fit."""
    before = open_sockets()
    for n in itertools.count(1):
        async with Hosts(*map(whatever_comes, (server("standby"), hanging_up, server("primary")))) as hosts:
            attempt = Cancelled(WireConn.connect(**hosts.options(target_session_attrs="primary")), at=n)
            result = await outcome_of(attempt.run())
            if isinstance(result, WireConn):
                await result.close()
            else:
                assert isinstance(result, asyncio.CancelledError), result
        await nothing_left(before)
        if not attempt.was_cancelled:
            break
    assert n > 5


# ---- passwords


async def clear_text(peer: Peer, passwords: list[str]) -> None:
    await peer.expect(m.StartupMessage)
    await peer.send(m.AuthenticationCleartextPassword())
    [message] = await peer.expect(m.PasswordMessage)
    passwords.append(message.password)
    peer.close()


@pytest.mark.parametrize("is_async", [False, True])
@ends_clean()
async def test_a_callable_is_asked_once_for_each_attempt(is_async: bool) -> None:
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
    assert next(asked) == 4  # it was not asked where no password was needed


@ends_clean()
async def test_a_callable_that_fails() -> None:
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
            refused = await hosts.connect(password=password, require_auth="password", connect_timeout=0.2)
        assert type(refused) is kind and text in str(refused), refused
        assert "open sesame" not in str(refused)


@ends_clean()
async def test_a_reconnect_costs_no_hashing(monkeypatch: pytest.MonkeyPatch) -> None:
    from pg_wired import scram

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
