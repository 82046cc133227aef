"""From a host and a port to a socket: every address is tried, socket options are set, failures name each address."""

from __future__ import annotations

import asyncio
import socket
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from pg_wired import ConnConfig, IoError, Outcome
from pg_wired.dial import Address, connect_to, dial
from rig.checks import ends_clean
from rig.postgres import free_port

pytestmark = pytest.mark.both_loops


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener


def config(host: str, port: int) -> ConnConfig:
    return ConnConfig.parse(host=host, port=port, user="tester", environ={})


@ends_clean()
async def test_options_of_a_tcp_socket(listener: socket.socket) -> None:
    sock, address = await dial(config(*listener.getsockname()))
    with sock:
        assert not sock.getblocking() and sock.getpeername() == listener.getsockname()
        assert str(address) == "{}:{}".format(*listener.getsockname())
        for level, option, wanted in (
            (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
            (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
            (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 60),
            (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 15),
            (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 0),
        ):
            assert sock.getsockopt(level, option) == wanted


@pytest.mark.parametrize("host", ["path", "@abstract"])
@ends_clean()
async def test_unix_sockets(host: str) -> None:
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as listener:
        directory = folder if host == "path" else "@" + folder
        path = f"{directory}/.s.PGSQL.5432"
        listener.bind(path if host == "path" else "\0" + path[1:])
        listener.listen()
        sock, address = await dial(config(directory, 5432))
        with sock:
            assert sock.family == socket.AF_UNIX and not sock.getblocking()
            assert str(address) == path


@ends_clean()
async def test_nobody_listens() -> None:
    port = free_port()
    with pytest.raises(IoError, match=f"127.0.0.1:{port}: Connection refused") as caught:
        await dial(config("127.0.0.1", port))
    assert caught.value.outcome is Outcome.NOT_SENT
    with pytest.raises(IoError, match=r"/no/such/folder/.s.PGSQL.5432: No such file"):
        await dial(config("/no/such/folder", 5432))


@ends_clean()
async def test_a_name_that_does_not_exist() -> None:
    with pytest.raises(IoError, match=r"cannot resolve host 'no-such-host\.invalid'") as caught:
        await dial(config("no-such-host.invalid", 5432))
    assert caught.value.outcome is Outcome.NOT_SENT and isinstance(caught.value.__cause__, OSError)


async def resolve_to(monkeypatch: pytest.MonkeyPatch, *addresses: tuple[int, Any]) -> None:
    """Have the loop's resolver answer with these."""
    found = [(family, socket.SOCK_STREAM, 6, "", sockaddr) for family, sockaddr in addresses]

    async def getaddrinfo(host: str, port: int, **hints: object) -> list[Any]:
        return found

    monkeypatch.setattr(type(asyncio.get_running_loop()), "getaddrinfo", lambda _, *args, **hints: getaddrinfo(*args))


@ends_clean()
async def test_the_next_address_is_tried(listener: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    if "uvloop" in type(asyncio.get_running_loop()).__module__:
        return  # a compiled class takes no other resolver; the code under test is the same
    closed = free_port()
    address = listener.getsockname()
    await resolve_to(monkeypatch, (socket.AF_INET6, ("::1", closed, 0, 0)), (socket.AF_INET, address))
    sock, found = await dial(config("name", 5432))
    sock.close()
    assert found == (socket.AF_INET, address)
    await resolve_to(monkeypatch, (socket.AF_INET6, ("::1", closed, 0, 0)), (socket.AF_INET, ("127.0.0.1", closed)))
    with pytest.raises(IoError) as caught:
        await dial(config("name", 5432))
    assert f"[::1]:{closed}: " in str(caught.value) and f"127.0.0.1:{closed}: Connection refused" in str(caught.value)


@ends_clean()
async def test_localhost_means_whatever_listens_there(listener: socket.socket) -> None:
    sock, address = await dial(config("localhost", listener.getsockname()[1]))  # ::1 refuses where it comes first
    sock.close()
    assert address.sockaddr == listener.getsockname()


@ends_clean()
async def test_a_cancelled_attempt_leaves_no_socket() -> None:
    with ExitStack() as waiting, socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        address = Address(socket.AF_INET, full.getsockname())
        for _ in range(8):  # once the backlog is full, Linux drops SYNs: a connect waits
            attempt = asyncio.ensure_future(connect_to(address))
            done, _ = await asyncio.wait([attempt], timeout=0.05)
            if not done:
                break
            waiting.enter_context(attempt.result())
        assert not attempt.done()
        attempt.cancel()
        with pytest.raises(asyncio.CancelledError):
            await attempt


def test_how_addresses_read() -> None:
    assert str(Address(socket.AF_INET6, ("fe80::1", 5432, 0, 2))) == "[fe80::1]:5432"
    assert str(Address(socket.AF_INET, ("10.0.0.1", 5432))) == "10.0.0.1:5432"
    assert str(Address(socket.AF_UNIX, "\0abstract/.s.PGSQL.1")) == "@abstract/.s.PGSQL.1"
