"""A scripted PostgreSQL for tests of layers above this library: scripts expect the client's messages, and send answers.

`FakePG` is a server on a socket; each of its connections is a `Peer`, whose methods a script awaits. `MemoryPG` has the
same verbs without a socket, for anything with `out` and `feed`. Neither knows any SQL. A failed expectation is an
AssertionError with the transcript of the conversation. Except for the first bytes of a connection, data is read only
when its script asks, so a script that does not read behaves like a server that does not read.

    async def script(peer: Peer) -> None:
        await peer.startup()
        await peer.answer_rows([(b"1",)])

    async with FakePG(script) as server, await AsyncConn.connect(server.dsn) as conn:
        rows = await conn.exec_query("select 1")
"""

from __future__ import annotations

import asyncio
import itertools
import re
import socket
import struct
import tempfile
import traceback
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from types import MappingProxyType, TracebackType
from typing import Any, Literal, Protocol, Self, TypeAlias, TypeVar

from .protocol import messages as m
from .protocol.octets import LONG_LIMIT_BYTES
from .protocol.records import FieldDescription
from .protocol.trace import trace_line
from .protocol.types import Row

Script: TypeAlias = Callable[["Peer"], Coroutine[Any, Any, None]]
T = TypeVar("T")

TEXT = 25  # the type OID of text (pg_type.dat)
# Our limits for transcripts: the number of messages, the bytes of a message, the first bytes of raw data.
MAX_KEPT_MESSAGES = 1000
MAX_KEPT_BYTES = 16384
SHOWN_RAW_BYTES = 64
# The message with tag `p` after each request; after all others it is PasswordMessage.
PASSWORD_AS: dict[type[m.Message], type[m.AuthenticationResponse]] = {
    m.AuthenticationSASL: m.SASLInitialResponse,
    m.AuthenticationSASLContinue: m.SASLResponse,
    m.AuthenticationGSS: m.GSSResponse,
    m.AuthenticationGSSContinue: m.GSSResponse,
    m.AuthenticationSSPI: m.GSSResponse,
}


# The limit of each wait, however busy the machine. An answer on loopback takes under a millisecond.
WAIT_SECONDS = 20.0
READ_BYTES = 65536
PID = 1001
KEY = b"\0\1\2\3"
# The parameters that clients use; PostgreSQL reports more.
PARAMETERS: Mapping[str, str] = MappingProxyType(
    {"server_version": "18.0", "client_encoding": "UTF8", "standard_conforming_strings": "on"}
)


class Talk:
    """The server's view of one connection: decodes and encodes messages, and keeps a transcript of both directions."""

    def __init__(self, is_started: bool) -> None:
        self._said: deque[tuple[Literal["F", "B"], m.Message | str]] = deque(maxlen=MAX_KEPT_MESSAGES)
        self.unread = bytearray()
        self.is_started = is_started
        self.password_as: type[m.AuthenticationResponse] = m.PasswordMessage

    def take(self) -> m.FrontendMessage | None:
        """The next message; None if it has not arrived completely."""
        head = 5 if self.is_started else 4
        if len(self.unread) < head:
            return None
        length = int.from_bytes(self.unread[head - 4 : head], "big")
        assert 4 <= length <= LONG_LIMIT_BYTES, f"the client sent a length of {length}: {bytes(self.unread[:64])!r}"
        end = head - 4 + length
        if len(self.unread) < end:
            return None
        tag, body = self.unread[0], bytes(self.unread[head:end])
        del self.unread[:end]
        message = m.decode_frontend(tag, body, self.password_as) if self.is_started else m.decode_startup(body)
        self.is_started |= isinstance(message, m.StartupMessage)
        self._note("F", message, end)
        return message

    def say(self, item: m.BackendMessage | bytes) -> bytes:
        """The bytes of a message; raw bytes are returned unchanged."""
        if isinstance(item, bytes):
            self._said.append(("B", f"{len(item)}\tbytes\t {item[:SHOWN_RAW_BYTES]!r}"))
            return item
        if isinstance(item, m.Authentication):
            self.password_as = PASSWORD_AS.get(type(item), m.PasswordMessage)
        data = m.encode(item)
        self._note("B", item, len(data))
        return data

    def _note(self, sender: Literal["F", "B"], message: m.Message, size: int) -> None:
        self._said.append(
            (sender, message if size <= MAX_KEPT_BYTES else f"{size}\t{type(message).__name__}\t not kept")
        )

    def transcript(self, *, regress: bool = False) -> list[str]:
        """The messages of both sides, in the format of libpq's trace."""
        return [
            f"{sender}\t{item}" if isinstance(item, str) else trace_line(item, sender=sender, regress=regress)
            for sender, item in self._said
        ]


class Verbs(ABC):
    """The verbs of a script, for any transport. A failed expectation is an AssertionError."""

    def __init__(self, is_started: bool) -> None:
        self.talk = Talk(is_started)
        self.statements: dict[str, m.Parse] = {}

    @abstractmethod
    async def read(self) -> bytes:
        """New data, at least one byte; empty at the end."""

    @abstractmethod
    async def write(self, data: bytes) -> None:
        """Send bytes to the client."""

    async def recv(self) -> m.FrontendMessage:
        """The client's next message."""
        while (message := self.talk.take()) is None:
            data = await self.read()
            assert data, f"the client sent no whole message, only {bytes(self.talk.unread)!r}, and no more will come"
            self.talk.unread += data
        return message

    async def expect(self, *patterns: type[m.Message] | m.Message) -> list[Any]:
        """The next messages; each has to be of the class, or equal to the message, given at its position."""
        taken = []
        for pattern in patterns:
            message = await self.recv()
            fits = isinstance(message, pattern) if isinstance(pattern, type) else message == pattern
            assert fits, f"expected {pattern.__name__ if isinstance(pattern, type) else pattern}, got {message}"
            taken.append(message)
        return taken

    async def group(self) -> list[m.FrontendMessage]:
        """Messages up to and including Sync, Query or Terminate."""
        taken = [await self.recv()]
        while not isinstance(taken[-1], m.Sync | m.Query | m.Terminate):
            taken.append(await self.recv())
        return taken

    async def send(self, *items: m.BackendMessage | bytes) -> None:
        """Send messages or raw bytes in one write."""
        await self.write(b"".join(map(self.talk.say, items)))

    async def answer_rows(
        self, rows: Sequence[Row], tag: str | None = None, *, columns: Sequence[str] = (), status: str = "I"
    ) -> list[m.FrontendMessage]:
        """Read one group and answer each of its messages as PostgreSQL would, Execute and Query with these rows.

        `tag` defaults to "SELECT" and the number of rows. The columns are text, named `columns`, or else c1, c2 ...;
        without rows and columns the statement has no result (NoData). Returns the group.
        """
        names = columns or [f"c{number}" for number, _ in enumerate(rows[0] if rows else (), 1)]
        result = [*map(m.DataRow, rows), m.CommandComplete(f"SELECT {len(rows)}" if tag is None else tag)]
        group = await self.group()
        answer: list[m.BackendMessage] = []
        formats: tuple[int, ...] = ()
        for message in group:
            match message:
                case m.Parse(statement):
                    self.statements[statement] = message
                    answer.append(m.ParseComplete())
                case m.Bind():
                    formats = message.result_formats
                    answer.append(m.BindComplete())
                case m.Describe("S", name):
                    answer += [m.ParameterDescription(self._param_oids(name)), describe(names, ())]
                case m.Describe("P"):
                    answer.append(describe(names, formats))
                case m.Execute():
                    answer += result
                case m.Close():
                    answer.append(m.CloseComplete())
                case m.Sync():
                    answer.append(m.ReadyForQuery(status))
                case m.Query():
                    answer += [describe(names, ())] * bool(names) + result + [m.ReadyForQuery(status)]
                case m.Flush():
                    pass
                case _:
                    raise AssertionError(f"answer_rows has no answer to {message}")
        await self.send(*answer)
        return group

    def _param_oids(self, name: str) -> tuple[int, ...]:
        """The parameter types given in Parse, and text for the others."""
        parse = self.statements[name]
        count = max(map(int, re.findall(r"\$(\d+)", parse.query)), default=0)
        return parse.param_oids + (TEXT,) * (count - len(parse.param_oids))


def error(code: str, message: str = "no", severity: str = "ERROR") -> m.ErrorResponse:
    """An error with the four fields that PostgreSQL always sends."""
    return m.ErrorResponse((("S", severity), ("V", severity), ("C", code), ("M", message)))


def describe(names: Sequence[str], formats: Sequence[int]) -> m.RowDescription | m.NoData:
    """The description of text columns, in the result formats that Bind asked for: none, one for all, or one each."""
    if not names:
        return m.NoData()
    each = formats if len(formats) > 1 else (*formats, 0)[:1] * len(names)
    return m.RowDescription(
        tuple(FieldDescription(name, 0, 0, TEXT, -1, -1, code) for name, code in zip(names, each, strict=True))
    )


class Driver(Protocol):
    """A client that communicates with a server without a socket."""

    out: bytearray

    def feed(self, data: bytes) -> None: ...


class _Memory(Verbs):
    def __init__(self, driver: Driver) -> None:
        super().__init__(is_started=True)
        self.driver = driver

    async def read(self) -> bytes:
        data = bytes(self.driver.out)
        del self.driver.out[:]
        return data

    async def write(self, data: bytes) -> None:
        self.driver.feed(data)


class MemoryPG:
    """The verbs without waiting, for a driver whose startup is over: only bytes already in `out` can be read."""

    def __init__(self, driver: Driver) -> None:
        self._verbs = _Memory(driver)

    def recv(self) -> m.FrontendMessage:
        return self._at_once(self._verbs.recv())

    def expect(self, *patterns: type[m.Message] | m.Message) -> list[Any]:
        return self._at_once(self._verbs.expect(*patterns))

    def group(self) -> list[m.FrontendMessage]:
        return self._at_once(self._verbs.group())

    def send(self, *items: m.BackendMessage | bytes) -> None:
        self._at_once(self._verbs.send(*items))

    def answer_rows(
        self, rows: Sequence[Row], tag: str | None = None, *, columns: Sequence[str] = (), status: str = "I"
    ) -> list[m.FrontendMessage]:
        return self._at_once(self._verbs.answer_rows(rows, tag, columns=columns, status=status))

    def _at_once(self, verb: Coroutine[Any, Any, T]) -> T:
        """The result of a coroutine that does not wait."""
        try:
            verb.send(None)
        except StopIteration as end:
            result: T = end.value
            return result
        except AssertionError as failure:
            failure.add_note("\n".join(self._verbs.talk.transcript()))
            raise
        raise RuntimeError("a verb in memory waits for something")


class Peer(Verbs):
    """One client of a FakePG, as its script sees it."""

    def __init__(self, sock: socket.socket, fake: FakePG) -> None:
        super().__init__(is_started=False)
        self.sock = sock
        self.fake = fake

    async def read(self) -> bytes:
        return await self.fake.within(self._read(), "something from the client")

    async def _read(self) -> bytes:
        return await asyncio.get_running_loop().sock_recv(self.sock, READ_BYTES)

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
            while self.sock.recv(READ_BYTES):
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
        deadline: float = WAIT_SECONDS,
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
