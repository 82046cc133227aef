"""The server's side of a conversation, for tests: the verbs of scripts. Knows messages, but no SQL and no sockets.

`MemoryPG` uses them with anything that has `out` and `feed`; `rig.fake_pg` uses them over sockets.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Coroutine, Sequence
from typing import Any, Literal, Protocol, TypeVar

from pg_wired.protocol import messages as m
from pg_wired.protocol.octets import LONG_LIMIT_BYTES
from pg_wired.protocol.records import FieldDescription
from pg_wired.protocol.trace import trace_line
from pg_wired.protocol.types import Row

T = TypeVar("T")

TEXT = 25  # the type OID of text (pg_type.dat)
# Our limits for transcripts: the number of messages, the bytes of a message, the first bytes of raw data.
KEPT = 1000
LARGE = 16384
WIDTH = 64
# The message with tag `p` after each request; after all others it is PasswordMessage.
PASSWORD_AS: dict[type[m.Message], type[m.AuthenticationResponse]] = {
    m.AuthenticationSASL: m.SASLInitialResponse,
    m.AuthenticationSASLContinue: m.SASLResponse,
    m.AuthenticationGSS: m.GSSResponse,
    m.AuthenticationGSSContinue: m.GSSResponse,
    m.AuthenticationSSPI: m.GSSResponse,
}


class Talk:
    """The server's view of one connection: decodes and encodes messages, and keeps a transcript of both directions."""

    def __init__(self, is_started: bool) -> None:
        self._said: deque[tuple[Literal["F", "B"], m.Message | str]] = deque(maxlen=KEPT)
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
            self._said.append(("B", f"{len(item)}\tbytes\t {item[:WIDTH]!r}"))
            return item
        if isinstance(item, m.Authentication):
            self.password_as = PASSWORD_AS.get(type(item), m.PasswordMessage)
        data = m.encode(item)
        self._note("B", item, len(data))
        return data

    def _note(self, sender: Literal["F", "B"], message: m.Message, size: int) -> None:
        self._said.append((sender, message if size <= LARGE else f"{size}\t{type(message).__name__}\t not kept"))

    def transcript(self, *, regress: bool = False) -> list[str]:
        """The messages of both sides, in the format of libpq's trace."""
        return [
            f"{sender}\t{item}" if isinstance(item, str) else trace_line(item, sender=sender, regress=regress)
            for sender, item in self._said
        ]


class Verbs:
    """The verbs of a script, for any transport. A failed expectation is an AssertionError."""

    def __init__(self, is_started: bool) -> None:
        self.talk = Talk(is_started)
        self.statements: dict[str, m.Parse] = {}

    async def read(self) -> bytes:
        """New data, at least one byte; empty at the end."""
        raise NotImplementedError

    async def write(self, data: bytes) -> None:
        raise NotImplementedError

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
