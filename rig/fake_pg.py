"""A scripted PostgreSQL on a socket, for tests: scripts expect and send messages. Knows no SQL and starts no server.

Except for the first bytes of a connection, data is read only when its script asks, so a script that does not read
behaves like a server that does not read.
"""

from __future__ import annotations

import asyncio
import itertools
import socket
import struct
import tempfile
import traceback
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from types import MappingProxyType, TracebackType
from typing import Any, Self, TypeAlias, TypeVar

from pg_wired.protocol import messages as m

from .talk import MemoryPG as MemoryPG
from .talk import Verbs
from .talk import error as error

Script: TypeAlias = Callable[["Peer"], Coroutine[Any, Any, None]]
T = TypeVar("T")

DEADLINE = 20.0  # seconds for each wait, however busy the machine; an answer on loopback takes under a millisecond
READ = 65536  # bytes
PID = 1001
KEY = b"\0\1\2\3"
# The parameters that clients use; PostgreSQL reports more.
PARAMETERS: Mapping[str, str] = MappingProxyType(
    {"server_version": "18.0", "client_encoding": "UTF8", "standard_conforming_strings": "on"}
)


class Peer(Verbs):
    """One client of a FakePG, as its script sees it."""

    def __init__(self, sock: socket.socket, fake: FakePG) -> None:
        super().__init__(is_started=False)
        self.sock = sock
        self.fake = fake

    async def read(self) -> bytes:
        return await self.fake.within(self._read(), "something from the client")

    async def _read(self) -> bytes:
        return await asyncio.get_running_loop().sock_recv(self.sock, READ)

    async def write(self, data: bytes) -> None:
        sending = asyncio.get_running_loop().sock_sendall(self.sock, data)
        await self.fake.within(sending, "the client to read")

    async def startup(
        self, parameters: Mapping[str, str] = PARAMETERS, *, pid: int = PID, key: bytes = KEY
    ) -> m.StartupMessage:
        """Refuse encryption, take the StartupMessage, and let the client in without a password."""
        while not isinstance(message := await self.recv(), m.StartupMessage):
            assert isinstance(message, m.SSLRequest | m.GSSENCRequest), f"expected a StartupMessage, got {message}"
            await self.send(b"N")
        await self.welcome(parameters, pid=pid, key=key)
        return message

    async def welcome(self, parameters: Mapping[str, str] = PARAMETERS, *, pid: int = PID, key: bytes = KEY) -> None:
        """Send the end of a login: AuthenticationOk, the parameters, the cancel key and ReadyForQuery."""
        reported = [m.ParameterStatus(name, value) for name, value in parameters.items()]
        await self.send(m.AuthenticationOk(), *reported, m.BackendKeyData(pid, key), m.ReadyForQuery("I"))

    async def cancel_request(self) -> m.CancelRequest:
        """The next CancelRequest to arrive, on any connection."""
        return await self.fake.within(self.fake.cancels.get(), "a CancelRequest")

    async def eof(self) -> None:
        """Expect the client to end the connection without sending anything more."""
        try:
            data = bytes(self.talk.unread) or await self.read()
        except ConnectionResetError:  # the client closed with our bytes unread
            return
        assert not data, f"expected the end, got {data!r}"

    def close(self) -> None:
        """End the connection with a FIN, as a server that exits does."""
        with suppress(OSError):  # closing with bytes unread would send a RST
            while self.sock.recv(READ):
                pass
        self.sock.close()

    def reset(self) -> None:
        """End the connection with a RST (socket(7): linger for 0 seconds); TCP only."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    async def asks_for_cancel(self) -> bool:
        """Whether the connection begins with a CancelRequest."""
        with suppress(ConnectionResetError):
            while len(self.talk.unread) < 8 and (data := await self._read()):
                self.talk.unread += data
        return self.talk.unread[4:8] == m.CancelRequest.code

    async def see_off(self) -> None:
        """Wait for the client to end the connection; assert that it sends nothing but Terminate."""
        with self.sock, suppress(ConnectionResetError):
            while self.sock.fileno() >= 0:
                message = self.talk.take()
                if isinstance(message, m.Terminate):
                    return
                assert message is None, f"the script is over, and the client sent {message}"
                data = await self._read()
                if not data:
                    return
                self.talk.unread += data


async def until_terminate(peer: Peer) -> None:
    """The script of a server that gets no requests: it accepts the login and expects Terminate."""
    await peer.startup()
    await peer.expect(m.Terminate)
    peer.close()


class FakePG:
    """A server that answers each connection with a script: always the same one, or the next one of a list.

    When a script returns, its connection stays open until the client ends it; any message except Terminate is then a
    failure. Leaving the block waits for the scripts, and raises a failure in one of them, with the transcript.
    `cancels` has the CancelRequests; their connections are closed at once, or held until `release_cancels`.
    """

    def __init__(
        self,
        script: Script | Sequence[Script],
        *,
        unix: bool = False,
        hold_cancels: bool = False,
        deadline: float = DEADLINE,
    ) -> None:
        self.unix = unix
        self.deadline = deadline
        self.cancels: asyncio.Queue[m.CancelRequest] = asyncio.Queue()
        self._cancels_may_end = asyncio.Event()
        if not hold_cancels:
            self._cancels_may_end.set()
        self.dsn = ""
        self.peers: list[Peer] = []
        self.failures: list[BaseException] = []
        self._is_endless = callable(script)
        self._scripts: Iterator[Script] = itertools.repeat(script) if callable(script) else iter(script)
        self._serving: set[asyncio.Task[None]] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._resources = ExitStack()

    def release_cancels(self) -> None:
        """Close the connections of cancel requests, including later ones."""
        self._cancels_may_end.set()

    def transcript(self) -> str:
        """The messages on each connection, in the format of libpq's trace."""
        lines = []
        for number, peer in enumerate(self.peers, 1):
            lines += [f"-- connection {number}", *peer.talk.transcript()]
        return "\n".join(lines)

    async def within(self, awaited: Coroutine[Any, Any, T], what: str) -> T:
        """Await it, but not longer than the deadline."""
        try:
            async with asyncio.timeout(self.deadline):
                return await awaited
        except TimeoutError:
            raise AssertionError(f"waited {self.deadline} s for {what}") from None

    async def __aenter__(self) -> Self:
        listener = socket.socket(socket.AF_UNIX if self.unix else socket.AF_INET)
        self._listener = self._resources.enter_context(listener)
        if self.unix:
            host, port = self._resources.enter_context(tempfile.TemporaryDirectory()), 5432
            listener.bind(f"{host}/.s.PGSQL.{port}")
        else:
            listener.bind(("127.0.0.1", 0))
            host, port = listener.getsockname()
        listener.listen()
        listener.setblocking(False)
        self.dsn = f"host={host} port={port} user=tester dbname=tester sslmode=disable"
        self._start(self._accept())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            await self._wait_for_scripts()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._resources.close()
        if error is not None:
            error.add_note(self._report(self.failures))
        elif self.failures:
            self.failures[0].add_note(self._report(self.failures[1:]))
            raise self.failures[0]

    async def _wait_for_scripts(self) -> None:
        with suppress(BlockingIOError):  # connections that the loop has not accepted yet
            while True:
                self._welcome(self._listener.accept()[0])
        patience = 2 * self.deadline  # a wait inside a script must fail first: its error says what it waited for
        late = (await asyncio.wait(self._serving, timeout=patience))[1] if self._serving else ()
        if late:
            self.failures.append(AssertionError(f"{len(late)} scripts had not ended {patience} s after the test"))
        unused = 0 if self._is_endless else sum(1 for _ in self._scripts)
        if unused and not self.failures:
            self.failures.append(AssertionError(f"{unused} scripts were waiting for a connection"))

    def _report(self, failures: Sequence[BaseException]) -> str:
        return "\n".join([self.transcript(), *["".join(traceback.format_exception(failure)) for failure in failures]])

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        task.add_done_callback(self._record)
        self._tasks.add(task)
        return task

    def _record(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (failure := task.exception()) is not None:
            self.failures.append(failure)

    async def _accept(self) -> None:
        while True:
            self._welcome((await asyncio.get_running_loop().sock_accept(self._listener))[0])

    def _welcome(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._resources.enter_context(sock)
        serving = self._start(self._serve(Peer(sock, self)))
        self._serving.add(serving)
        serving.add_done_callback(self._serving.discard)

    async def _serve(self, peer: Peer) -> None:
        """Run the script, or read the CancelRequest; another task then waits for the end of the connection."""
        try:
            if await peer.asks_for_cancel():
                self.cancels.put_nowait((await peer.expect(m.CancelRequest))[0])
                self._start(self._hold(peer))
            else:
                self.peers.append(peer)
                script = next(self._scripts, None)
                assert script is not None, "there are more connections than scripts"
                await script(peer)
                self._start(peer.see_off())
        except BaseException:
            peer.sock.close()
            raise

    async def _hold(self, peer: Peer) -> None:
        await self._cancels_may_end.wait()
        peer.sock.close()
