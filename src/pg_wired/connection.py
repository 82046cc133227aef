"""WireConn: one owner, one connection, message by message. It dials and logs in; it knows no requests."""

from __future__ import annotations

import asyncio
import base64
import os
import socket
import warnings
from collections.abc import Awaitable, Callable
from typing import Any
from weakref import WeakMethod

from . import scram
from .cancel import CancelToken
from .conninfo import ConnConfig
from .dial import Address, dial
from .error import (
    ConfigError,
    ConnectionClosed,
    Outcome,
    PgError,
    PgWireError,
    ProtocolError,
    RequestTimeout,
    UsageError,
)
from .inbox import Inbox
from .protocol import messages, startup
from .protocol.types import FieldDescription, Oid, Row, StatementDescription, TransactionStatus
from .tls import TlsMode
from .transport import Receiver, Transport

# 4,096 iterations take a millisecond, 100,000 some twenty: above this the loop must not wait for them.
ITERATIONS_ON_LOOP = 20_000
# Bytes of messages that wait to be asked for, or of encoded ones that wait for the socket.
HIGH_WATER = 1024 * 1024
_NONCE_BYTES = 18  # as libpq (SCRAM_RAW_NONCE_LEN)


class WireConn:
    """A connection after the handshake. Only one task may use it at a time; `AsyncConn(wire)` takes it over.

    `parameters` are the server's settings as ParameterStatus reports them, `auth_mechanism` is how the login went.
    """

    def __init__(self, config: ConnConfig, sock: socket.socket, address: Address) -> None:
        self.config = config
        self.address = address
        # The loop holds the transport, and that the inbox: none of them may keep alive a WireConn that nobody has.
        self.inbox = Inbox(WeakMethod(self._hold_back))
        self.transport = Transport(asyncio.get_running_loop(), sock, self.inbox)
        self.facts: startup.Startup
        self.parameters: dict[str, str] = {}
        self.transaction_status = TransactionStatus.IDLE
        self._is_paused = False
        self._is_taken = False
        self._is_closing = False

    @classmethod
    async def connect(cls, dsn: str | ConnConfig = "", **options: Any) -> WireConn:
        """Connect and log in; `dsn` and `options` as `ConnConfig.parse` takes them, or a ConnConfig ready made.

        Raises ConfigError, IoError, RequestTimeout after `connect_timeout`, AuthenticationError, PgError for the
        server's refusal, ProtocolError.
        """
        config = ConnConfig.of(dsn, **options)
        if config.sslmode not in (TlsMode.DISABLE, TlsMode.ALLOW, TlsMode.PREFER) or len(config.hosts) > 1:
            raise ConfigError("TLS and several hosts are not available in this version")
        try:
            async with asyncio.timeout(config.connect_timeout):
                wire = cls(config, *await dial(config))
                try:
                    await wire._log_in()
                except BaseException as error:
                    wire.abort()
                    if isinstance(error, PgWireError):
                        error.outcome = Outcome.NOT_SENT
                    raise
        except TimeoutError as error:
            text = f"no connection to {config.host!r} within {config.connect_timeout} s (connect_timeout)"
            raise RequestTimeout(text, Outcome.NOT_SENT) from error
        return wire

    async def _log_in(self) -> None:
        config = self.config
        is_unix = config.hosts[0].is_unix
        policy = config.policy(is_private=is_unix, is_tls=False, binding=None, no_binding="there is no TLS")
        nonce = base64.b64encode(os.urandom(_NONCE_BYTES)).decode()
        steps = startup.handshake(config.startup_parameters(), policy, nonce=nonce)
        step = next(steps)
        try:
            while True:
                if isinstance(step, startup.DeriveKey):
                    step = steps.send(await self._derive(step))
                elif isinstance(step, startup.AskPassword):
                    step = steps.send(await self._password())
                else:
                    if step and self.inbox.failure is None:  # else what has come says why
                        await self.send_raw(step)
                    step = steps.send(await self.recv_msg())
        except StopIteration as end:
            self.facts = end.value
            self.parameters = dict(self.facts.parameters)
            self.inbox.is_logged_in = True

    async def _password(self) -> str | None:
        """The one that was given, or that a function gives now; else that of the password file."""
        given = self.config.password
        said = given() if callable(given) else given
        return await said if isinstance(said, Awaitable) else said or self.config.hosts[0].password

    async def _derive(self, step: startup.DeriveKey) -> bytes:
        arguments = (step.password, step.salt, step.iterations)
        if step.iterations <= ITERATIONS_ON_LOOP:
            return scram.salted_password(*arguments)
        return await self.transport.loop.run_in_executor(None, scram.salted_password, *arguments)

    # ---- messages

    async def send_raw(self, data: bytes) -> None:
        """Write encoded messages; returns when the socket has taken enough of them. Nothing is checked."""
        self._check_owner()
        if self.inbox.failure is not None:
            raise self.inbox.ended()
        self.inbox.out += data
        self.transport.flush()
        if len(self.inbox.out) > HIGH_WATER:
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
        if self._is_paused and self.inbox.size < HIGH_WATER:
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

    def take_over(self, receiver: Receiver, feed: Callable[[bytes], None]) -> None:
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

    def take_back(self) -> None:
        """Be the owner again: the other one has all its answers."""
        if not self.transport.is_closed:
            self.transport.hand_over(self.inbox)
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
        if self.inbox.size >= HIGH_WATER and not self._is_paused:
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
        """ "trust", "cleartext", "md5" or "SCRAM-SHA-256"."""
        return self.facts.auth_mechanism

    def cancel_token(self) -> CancelToken:
        """What cancels this session's query from elsewhere. UsageError where the server gave no key for it."""
        pid, key = self.facts.pid, self.facts.secret_key
        if pid is None or key is None:
            raise UsageError("the server sent no BackendKeyData: its queries cannot be cancelled")
        return CancelToken(self.address, pid, key, self.transport.is_open)

    async def close(self, timeout: float = 10.0) -> None:
        """Send Terminate and wait up to `timeout` seconds for the server to close; idempotent."""
        if self._is_taken or self.transport.is_closed:
            return
        self.transport.check_owner()
        if not self._is_closing:
            self._is_closing = True
            self._is_paused = True  # what still comes is thrown away
            self.transport.resume()
            self.inbox.out += messages.encode(messages.Terminate())
            self.transport.flush()
        try:
            async with asyncio.timeout(timeout):
                await asyncio.shield(self.transport.closed)
        except TimeoutError:
            pass
        finally:
            self.abort()

    def abort(self) -> None:
        """Close the socket at once; idempotent, and without effect once an AsyncConn has taken over."""
        if not self._is_taken:
            self.inbox.lost(ConnectionClosed("it was closed by us"))
            self.transport.abort()

    def __del__(self, _warn: Any = warnings.warn) -> None:
        if self._is_taken or self.transport.is_closed:
            return
        _warn(f"unclosed {self!r}: close() it, or use `async with`", ResourceWarning, source=self)
        self.abort()

    def __repr__(self) -> str:
        state = "taken over" if self._is_taken else "closed" if self.transport.is_closed else "open"
        return f"<WireConn {self.address} {state}>"

    async def __aenter__(self) -> WireConn:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()
