"""Several scripted servers as the hosts of one connection string, and scripts for the usual kinds of servers."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress
from typing import Any

from pg_wired import Outcome, WireConn
from pg_wired.protocol import messages as m
from pg_wired.testing import PARAMETERS, FakePG, Peer, Script, error
from rig.checks import outcome_of


def server(name: str, **reported: str) -> Script:
    """A script that accepts the login, answers queries about the kind of server, and expects Terminate."""

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
    """Ask for a password in clear; the client must not answer."""
    await peer.expect(m.StartupMessage)
    await peer.send(m.AuthenticationCleartextPassword())
    await peer.eof()


def whatever_comes(script: Script) -> Script:
    """The same script, for clients that may disconnect at any point."""

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
        """The name of the server that the connection reached, or the error."""
        return await name_of(WireConn.connect(**self.options(*more, **options)))


async def name_of(connecting: Any) -> Any:
    wire = await outcome_of(connecting)
    if not isinstance(wire, WireConn):
        assert not isinstance(wire, Exception) or wire.outcome is Outcome.NOT_SENT  # type: ignore[attr-defined]
        return wire
    await wire.close()
    return wire.parameters["name"]
