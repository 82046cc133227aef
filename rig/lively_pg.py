"""A FakePG that answers every request, for tests with many connections: each result is one row (process id, first
parameter). It tracks BEGIN, COMMIT and ROLLBACK, and can withhold answers, and refuse or drop connections."""

from __future__ import annotations

import asyncio
import itertools
import socket
from contextlib import suppress

from pg_wired.protocol import messages as m
from pg_wired.testing import KEY, TEXT, FakePG, Peer, describe, error

COLUMNS = ("pid", "parameter")


class LivelyPG(FakePG):
    """`sessions` has the current sessions by process id; `heard` counts the queries of every session so far."""

    def __init__(self, *, unix: bool = False) -> None:
        super().__init__(self._serve_session, unix=unix, deadline=30.0)
        self.sessions: dict[int, Peer] = {}
        self.heard: dict[int, int] = {}
        self.said: list[str] = []  # simple queries
        self.refuses = False  # connections
        self.most = 0  # the highest number of concurrent sessions
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.mute: set[int] = set()  # sessions that answer nothing
        self.standbys: set[int] = set()  # sessions that refuse every simple query, as a standby refuses writes
        self._pids = itertools.count(1)

    def kill(self, pid: int) -> None:
        """End a session as a crashed server does."""
        with suppress(OSError):
            self.sessions.pop(pid).sock.shutdown(socket.SHUT_RDWR)

    async def _serve_session(self, peer: Peer) -> None:
        pid = next(self._pids)
        with suppress(OSError):  # the client is gone
            try:
                if self.refuses:
                    await peer.recv()
                    await peer.send(error("57P03", "not now", "FATAL"))
                    peer.close()
                    return
                await peer.startup(pid=pid, key=KEY)
            except AssertionError:  # a client may give up during the login
                peer.sock.close()
                return
            self.sessions[pid] = peer
            self.heard[pid] = 0
            self.most = max(self.most, len(self.sessions))
            try:
                await self._answer(pid, peer)
            finally:
                self.sessions.pop(pid, None)
                peer.sock.close()

    async def _answer(self, pid: int, peer: Peer) -> None:
        status, parameter = "I", b""
        while True:
            while (message := peer.talk.take()) is None:
                data = await peer.read()
                if not data:
                    return
                peer.talk.unread += data
            if isinstance(message, m.Terminate):
                return
            if isinstance(message, m.Query | m.Execute):
                self.heard[pid] += 1
                await self.may_answer.wait()
                while pid in self.mute:
                    await asyncio.sleep(0.005)
            if isinstance(message, m.Bind):
                parameter = message.params[0] or b"" if message.params else b""
            row = m.DataRow((str(pid).encode(), parameter))
            if isinstance(message, m.Query):
                self.said.append(message.query)
                word = message.query.split(";")[0].split()[0].upper() if message.query.strip() else ""
                status = {"BEGIN": "T", "ROLLBACK": "I", "COMMIT": "I"}.get(word, status)
                done: m.BackendMessage = m.CommandComplete(word) if word else m.EmptyQueryResponse()
                if pid in self.standbys:
                    done = error("25006")
                await peer.send(done, m.ReadyForQuery(status))
            else:
                await peer.send(*self._extended(message, row, status))

    @staticmethod
    def _extended(message: m.FrontendMessage, row: m.DataRow, status: str) -> list[m.BackendMessage]:
        match message:
            case m.Parse():
                return [m.ParseComplete()]
            case m.Describe("S"):
                return [m.ParameterDescription((TEXT,)), describe(COLUMNS, ())]
            case m.Describe():
                return [describe(COLUMNS, ())]
            case m.Bind():
                return [m.BindComplete()]
            case m.Execute():
                return [row, m.CommandComplete("SELECT 1")]
            case m.Close():
                return [m.CloseComplete()]
            case m.Sync():
                return [m.ReadyForQuery(status)]
        raise AssertionError(f"a lively server has no answer to {message}")
