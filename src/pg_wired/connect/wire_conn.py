"""WireConn: one owner, one connection, message by message. It dials and logs in; it knows no requests."""

from __future__ import annotations

import asyncio
import base64
import logging
import os
import socket
import ssl
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from weakref import WeakMethod

from ..errors import ConnectionClosed, Outcome, ProtocolError, UsageError
from ..loop.clock import seconds
from ..loop.transport import Transport
from ..protocol import messages
from ..protocol.records import FieldDescription, StatementDescription
from ..protocol.server_error import PgError
from ..protocol.types import Oid, Row, TransactionStatus
from .message_queue import MessageQueue

# What connecting and cancelling need is loaded then.
if TYPE_CHECKING:
    from ..auth import handshake
    from ..config.config import ConnConfig
    from ..protocol.buffers import Buffers
    from . import dial
    from .cancel import CancelToken
    from .connector import Connector, Shuffle
    from .credentials import Credentials

# Bytes of messages that wait to be asked for, or of encoded ones that wait for the socket.
HIGH_WATER_BYTES = 1024 * 1024
_NONCE_BYTES = 18  # as libpq (SCRAM_RAW_NONCE_LEN)

_log = logging.getLogger("pg_wired")


class WireConn:
    """A connection after the handshake. Only one task may use it at a time; `AsyncConn(wire)` takes it over.

    `parameters` are the server's settings as ParameterStatus reports them, `auth_mechanism` is how the login went.
    """

    def __init__(self, config: ConnConfig, sock: socket.socket, route: dial.Route) -> None:
        self.config = config
        self.address = route.address
        self._route = route
        self._tls = sock if isinstance(sock, ssl.SSLSocket) else None
        # The loop holds the transport, and that the inbox: none of them may keep alive a WireConn that nobody has.
        self.inbox = MessageQueue(WeakMethod(self._hold_back))
        self.transport = Transport(asyncio.get_running_loop(), sock, self.inbox)
        self.facts: handshake.HandshakeResult
        self.parameters: dict[str, str] = {}
        self.transaction_status = TransactionStatus.IDLE
        self.is_authenticated = False
        self._is_paused = False
        self._is_taken = False
        self._is_closing = False

    @classmethod
    async def connect(cls, dsn: str | ConnConfig = "", *, timeout: float | None = None, **options: Any) -> WireConn:
        """Connect and log in; `dsn` and `options` as `ConnConfig.parse` takes them, or a ConnConfig ready made.

        All hosts and addresses are tried, each for `connect_timeout` seconds at most, all together for `timeout`.
        Raises ConfigError, IoError (the socket or TLS), RequestTimeout, AuthenticationError, PgError for the server's
        refusal, ConnectionClosed, ProtocolError; what other attempts met with is in the text or the notes.
        """
        from ..config.config import ConnConfig

        return await connector(ConnConfig.of(dsn, **options)).connect(timeout=timeout)

    async def log_in(self, policy: handshake.Policy, credentials: Credentials) -> None:
        """From StartupMessage to ReadyForQuery. Raises what `startup.handshake` does."""
        from ..auth import handshake

        nonce = base64.b64encode(os.urandom(_NONCE_BYTES)).decode()
        steps = handshake.handshake(self.config.startup_parameters(), policy, nonce=nonce)
        step = next(steps)
        try:
            while True:
                if isinstance(step, bytes):
                    if step and self.inbox.failure is None:  # else what has come says why
                        await self.send_raw(step)
                    message = await self.recv_msg()
                    self.is_authenticated |= isinstance(message, messages.AuthenticationOk)
                    step = steps.send(message)
                else:
                    step = steps.send(await credentials.answer(step))
        except StopIteration as end:
            self.facts = end.value
            self.parameters = dict(self.facts.parameters)
            self.inbox.is_logged_in = True
        for warning in self.facts.warnings:
            _log.warning("%s: %s", self.address, warning)

    # ---- messages

    async def send_raw(self, data: bytes) -> None:
        """Write encoded messages; returns when the socket has taken enough of them. Nothing is checked."""
        self._check_owner()
        if self.inbox.failure is not None:
            raise self.inbox.ended()
        self.inbox.append(data)
        self.transport.flush()
        if len(self.inbox.out) > HIGH_WATER_BYTES:
            await self.transport.drain()

    async def send(self, *items: messages.FrontendMessage) -> None:
        """Encode and write messages. ValueError names the message and field that cannot be sent."""
        await self.send_raw(messages.encode(*items))

    async def recv_msg(self) -> messages.BackendMessage:
        """The server's next message, of whatever kind; ErrorResponse too is returned, not raised.

        Raises ProtocolError where a message does not fit its description, ConnectionClosed or IoError at the end.
        """
        self._check_owner()
        while not self.inbox.frames:
            if self.inbox.failure is not None:
                raise self.inbox.ended()
            await self._arrival()
        try:
            message = self.inbox.take()
        except ProtocolError as error:
            self.inbox.fail(error)
            self.transport.abort()
            raise
        if self._is_paused and self.inbox.size < HIGH_WATER_BYTES:
            self._is_paused = False
            self.transport.resume()
        match message:
            case messages.ParameterStatus():
                self.parameters[message.name] = message.value
            case messages.ReadyForQuery():
                self.transaction_status = TransactionStatus(message.status)
        return message

    def _check_owner(self) -> None:
        self.transport.check_owner()
        if self._is_taken:
            raise UsageError("an AsyncConn has taken this connection over: use that")

    async def _arrival(self) -> None:
        """Wait until the inbox has something to say."""
        if self.inbox.waiter is not None:
            raise UsageError("another task is reading from this connection: a WireConn has one owner")
        self.inbox.waiter = self.transport.loop.create_future()
        try:
            await self.inbox.waiter
        finally:
            self.inbox.waiter = None

    def take_over(self, receiver: Buffers, feed: Callable[[bytes], None]) -> None:
        """Give the socket, and what has come and was not read, to another receiver; this one is done."""
        self._check_owner()
        if self.inbox.failure is not None:
            raise self.inbox.ended()
        if self.transaction_status is not TransactionStatus.IDLE:
            raise UsageError("a transaction is open: end it before another object takes over")
        if self.inbox.out:
            raise UsageError("messages are still being sent: read their answers before another object takes over")
        self._is_taken = True
        self.transport.hand_over(receiver)
        feed(self.inbox.take_rest())
        if receiver.failure is not None:
            self.transport.abort()
        elif self._is_paused:
            self.transport.resume()

    async def collect_rows(self) -> tuple[list[Row], str]:
        """Read up to ReadyForQuery: the rows, and the last command tag. Raises PgError, then, if one came."""
        answer = await self._answer(messages.DataRow, messages.CommandComplete)
        tags = [message.command_tag for message in answer if isinstance(message, messages.CommandComplete)]
        rows = [message.values for message in answer if isinstance(message, messages.DataRow)]
        return rows, tags[-1] if tags else ""

    async def drain_until_ready(self) -> None:
        """Read up to ReadyForQuery and throw away what comes. Raises PgError, then, if one came."""
        await self._answer()

    async def ask(self, sql: str) -> str:
        """The only value of the answer to a query, as text. Raises PgError."""
        await self.send(messages.Query(sql))
        rows, _ = await self.collect_rows()
        if len(rows) != 1 or len(rows[0]) != 1:
            raise ProtocolError(f"the server answered {sql!r} with something else than one value")
        return (rows[0][0] or b"").decode("utf-8", "replace")

    async def describe_statement(self, sql: str) -> StatementDescription:
        """Parse and describe `sql` as the unnamed statement. Raises PgError where the server cannot parse it."""
        await self.send(messages.Parse("", sql), messages.Describe("S"), messages.Sync())
        param_oids: tuple[Oid, ...] = ()
        fields: tuple[FieldDescription, ...] = ()
        for message in await self._answer(messages.ParameterDescription, messages.RowDescription, sql=sql):
            if isinstance(message, messages.ParameterDescription):
                param_oids = message.param_oids
            elif isinstance(message, messages.RowDescription):
                fields = message.fields
        return StatementDescription(param_oids, fields)

    def take_back(self, rest: bytes) -> None:
        """Be the owner again: the other one has all its answers, and `rest` is the beginning of what comes next."""
        if not self.transport.is_closed:
            self.transport.hand_over(self.inbox)
            self.inbox.feed(rest)
            self._is_taken = False

    async def _answer(self, *kept: type, sql: str | None = None) -> list[messages.BackendMessage]:
        """Messages of the `kept` kinds up to ReadyForQuery; the first error is raised there, a fatal one at once."""
        answer: list[messages.BackendMessage] = []
        error: PgError | None = None
        while True:
            message = await self.recv_msg()
            if isinstance(message, kept):
                answer.append(message)
            elif isinstance(message, messages.ErrorResponse):
                error = error or PgError(message.fields, Outcome.REJECTED, sql)
                if error.is_fatal:  # a lost connection proves nothing
                    error.outcome = Outcome.UNKNOWN
                    raise error
            elif isinstance(message, messages.ReadyForQuery):
                if error is not None:
                    raise error
                return answer

    def _hold_back(self) -> None:
        """Too much has come that nobody asked for: let the server wait."""
        if self.inbox.size >= HIGH_WATER_BYTES and not self._is_paused:
            self._is_paused = True
            self.transport.pause()

    # ---- state

    @property
    def has_pending_data(self) -> bool:
        """Whether bytes have come that were not asked for yet."""
        return bool(self.inbox.frames or self.inbox.tail)

    @property
    def pid(self) -> int | None:
        """The server process of this session; None where the server named none."""
        return self.facts.pid

    @property
    def auth_mechanism(self) -> str:
        """ "trust", "cleartext", "md5", "SCRAM-SHA-256" or "SCRAM-SHA-256-PLUS"."""
        return self.facts.auth_mechanism

    @property
    def channel_bound(self) -> bool:
        """Whether the login proved that nobody sits between: the server has the key of this TLS connection."""
        return self.facts.channel_bound

    @property
    def is_tls(self) -> bool:
        """Whether the connection is encrypted."""
        return self._tls is not None

    @property
    def tls_version(self) -> str | None:
        """ "TLSv1.3", say; None without TLS."""
        return self._tls.version() if self._tls else None

    @property
    def tls_cipher(self) -> str | None:
        """OpenSSL's name of the cipher; None without TLS."""
        cipher = self._tls.cipher() if self._tls else None
        return cipher[0] if cipher else None

    def cancel_token(self) -> CancelToken:
        """What cancels this session's query from elsewhere. UsageError where the server gave no key for it."""
        from .cancel import CancelToken

        pid, key = self.facts.pid, self.facts.secret_key
        if pid is None or key is None:
            raise UsageError("the server sent no BackendKeyData: its queries cannot be cancelled")
        return CancelToken(self.address, pid, key, self.transport.is_open, self._route, set())

    async def close(self, timeout: float = 10.0) -> None:
        """Send Terminate and wait up to `timeout` seconds for the server to close; idempotent."""
        limit = seconds(timeout)
        if self._is_taken or self.transport.is_closed:
            return
        self.transport.check_owner()
        if not self._is_closing:
            self._is_closing = True
            self._is_paused = True  # what still comes is thrown away
            self.transport.resume()
            self.inbox.append(messages.encode(messages.Terminate()))
            self.transport.flush()
        try:
            async with asyncio.timeout(limit):
                await asyncio.shield(self.transport.closed)
        except TimeoutError:
            pass
        finally:
            self.abort()

    def abort(self) -> None:
        """Close the socket at once; idempotent, and without effect once an AsyncConn has taken over.

        UsageError while the loop runs in another thread.
        """
        if not self._is_taken and not self.transport.is_closed:
            self.transport.owner.check_thread()
            self.inbox.lost(ConnectionClosed("it was closed by us"))
            self.transport.abort()

    def __del__(self, _warn: Any = warnings.warn) -> None:
        if self._is_taken or self.transport.is_closed:
            return
        _warn(f"unclosed {self!r}: close() it, or use `async with`", ResourceWarning, source=self)
        self.transport.owner.run(self.abort)

    def __repr__(self) -> str:
        state = "taken over" if self._is_taken else "closed" if self.transport.is_closed else "open"
        return f"<WireConn {self.address} {state}>"

    async def __aenter__(self) -> WireConn:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()


def connector(config: ConnConfig, *, shuffle: Shuffle | None = None) -> Connector[WireConn]:
    """What makes one WireConn after the other on the same terms: for a pool, or whoever connects again and again."""
    from .connector import Connector

    return Connector(config, WireConn, shuffle=shuffle)
