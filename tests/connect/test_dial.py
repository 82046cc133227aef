"""Dialling a host and port: addresses, socket options and `requirepeer`; errors name the address."""

from __future__ import annotations

import asyncio
import os
import pwd
import socket
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any
from weakref import WeakValueDictionary

import pytest

from pg_wired import AuthenticationError, ConnConfig, IoError, Outcome
from pg_wired.connect.dial import Address, Route, addresses, reach
from pg_wired.loop.runtime import SYSTEM
from rig.checks import ends_clean
from rig.postgres import free_port

pytestmark = pytest.mark.both_loops


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener


def config(host: str, port: int, **options: Any) -> ConnConfig:
    return ConnConfig.parse(host=host, port=port, user="tester", environ={}, **options)


async def dial(config: ConnConfig) -> tuple[socket.socket, Route]:
    """Connect to the first address of the first host."""
    [host] = config.hosts
    route = Route(config, host, (await addresses(host))[0], None, WeakValueDictionary(), SYSTEM)
    return await reach(route), route


@pytest.mark.parametrize(
    ("given", "keepalive", "idle", "interval", "count", "user_timeout"),
    [
        ({}, 1, 60, 15, None, 0),
        ({"keepalives": "0"}, 0, None, None, None, 0),
        ({"keepalives_idle": 7, "keepalives_interval": 3, "keepalives_count": 2}, 1, 7, 3, 2, 0),
        ({"tcp_user_timeout": 1234}, 1, 60, 15, None, 1234),
    ],
)
@ends_clean()
async def test_tcp_sockets_get_the_configured_options(
    listener: socket.socket,
    given: dict[str, Any],
    keepalive: int,
    idle: int | None,
    interval: int | None,
    count: int | None,
    user_timeout: int,
) -> None:
    sock, route = await dial(config(*listener.getsockname(), **given))
    with sock:
        assert not sock.getblocking() and sock.getpeername() == listener.getsockname()
        assert str(route.address) == "{}:{}".format(*listener.getsockname())
        for level, option, wanted in (
            (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
            (socket.SOL_SOCKET, socket.SO_KEEPALIVE, keepalive),
            (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, idle),
            (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, interval),
            (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, count),
            (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, user_timeout),
        ):
            assert wanted is None or sock.getsockopt(level, option) == wanted


@pytest.fixture(params=["path", "@abstract"])
def unix(request: pytest.FixtureRequest) -> Iterator[str]:
    """The directory of a Unix socket on which this test listens."""
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as listener:
        directory = folder if request.param == "path" else "@" + folder
        path = f"{directory}/.s.PGSQL.5432"
        listener.bind(path if request.param == "path" else "\0" + path[1:])
        listener.listen()
        yield directory


@ends_clean()
async def test_unix_sockets_are_dialled_by_path_and_abstract_name(unix: str) -> None:
    sock, route = await dial(config(unix, 5432))
    with sock:
        assert sock.family == socket.AF_UNIX and not sock.getblocking()
        assert str(route.address) == f"{unix}/.s.PGSQL.5432"
        assert route.place == f'connection to server on socket "{unix}/.s.PGSQL.5432"'


@ends_clean()
async def test_requirepeer_refuses_a_server_of_another_user(unix: str) -> None:
    me = pwd.getpwuid(os.geteuid()).pw_name
    sock, _ = await dial(config(unix, 5432, requirepeer=me))
    sock.close()
    with pytest.raises(AuthenticationError, match=f"requirepeer specifies 'somebody', .* runs as '{me}'") as caught:
        await dial(config(unix, 5432, requirepeer="somebody"))
    assert caught.value.outcome is Outcome.NOT_SENT


@ends_clean()
async def test_requirepeer_is_ignored_for_tcp(listener: socket.socket) -> None:
    sock, _ = await dial(config(*listener.getsockname(), requirepeer="somebody"))
    sock.close()


@ends_clean()
async def test_a_refused_connection_names_the_address() -> None:
    port = free_port()
    text = f'connection to server at "127.0.0.1", port {port} failed: Connection refused'
    with pytest.raises(IoError, match=f"^{text}$") as caught:
        await dial(config("127.0.0.1", port))
    assert caught.value.outcome is Outcome.NOT_SENT and isinstance(caught.value.__cause__, ConnectionRefusedError)
    with pytest.raises(
        IoError, match=r'^connection to server on socket "/no/such/folder/.s.PGSQL.5432" failed: No such'
    ):
        await dial(config("/no/such/folder", 5432))


@ends_clean()
async def test_an_unsupported_address_family_raises_io_error() -> None:
    settled = config("127.0.0.1", 5432)
    address = Address(socket.AF_APPLETALK, ("127.0.0.1", 5432))
    route = Route(settled, settled.hosts[0], address, None, WeakValueDictionary(), SYSTEM)
    with pytest.raises(IoError, match=r'^connection to server at "127.0.0.1", port 5432 failed: .') as caught:
        await reach(route)
    assert caught.value.outcome is Outcome.NOT_SENT and type(caught.value.__cause__) is OSError


@pytest.mark.parametrize("name", ["no-such-host.invalid", "a..b", "x" * 300, "\u00fc" * 100])
@ends_clean()
async def test_a_host_name_that_cannot_be_resolved_raises_io_error(name: str) -> None:
    with pytest.raises(IoError, match=r"could not translate host name .* to address: .") as caught:
        await dial(config(name, 5432))
    assert caught.value.outcome is Outcome.NOT_SENT and caught.value.__cause__ is not None


@ends_clean()
async def test_hostaddr_is_dialled_instead_of_host(listener: socket.socket) -> None:
    host, port = listener.getsockname()
    sock, route = await dial(config("no-such-host.invalid", port, hostaddr=host))
    sock.close()
    assert route.place == f'connection to server at "no-such-host.invalid" ({host}), port {port}'


@ends_clean()
async def test_a_cancelled_attempt_leaves_no_socket() -> None:
    with ExitStack() as waiting, socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        settled = config(*full.getsockname())
        for _ in range(8):  # once the backlog is full, Linux drops SYNs: a connect waits
            attempt = asyncio.ensure_future(dial(settled))
            done, _ = await asyncio.wait([attempt], timeout=0.05)
            if not done:
                break
            waiting.enter_context(attempt.result()[0])
        assert not attempt.done()
        attempt.cancel()
        with pytest.raises(asyncio.CancelledError):
            await attempt


def test_addresses_read_as_host_and_port_or_as_path() -> None:
    assert str(Address(socket.AF_INET6, ("fe80::1", 5432, 0, 2))) == "[fe80::1]:5432"
    assert str(Address(socket.AF_INET, ("10.0.0.1", 5432))) == "10.0.0.1:5432"
    assert str(Address(socket.AF_UNIX, "\0abstract/.s.PGSQL.1")) == "@abstract/.s.PGSQL.1"
