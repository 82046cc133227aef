"""WireConn: one owner, one connection, message by message."""

from __future__ import annotations

import asyncio
import base64
import logging
import socket
import ssl
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar
from weakref import WeakMethod

from ..errors import ConnectionClosed, Outcome, ProtocolError, UsageError
from ..loop.clock import seconds
from ..loop.runtime import SYSTEM, Runtime
from ..loop.transport import Transport
from ..protocol import messages
from ..protocol.buffers import Buffers
from ..protocol.records import FieldDescription, StatementDescription
from ..protocol.server_error import PgError
from ..protocol.types import Oid, Row, TransactionStatus
from .message_queue import MessageQueue

# What connecting and cancelling need is loaded then.
if TYPE_CHECKING:
    from ..auth.handshake import HandshakeResult
    from ..auth.policy import Policy
    from ..config.config import ConnConfig
    from . import dial
    from .cancel import CancelToken
    from .connector import Connector
    from .credentials import Credentials

# Bytes of messages that wait to be asked for, or of encoded messages that wait for the socket.
HIGH_WATER_BYTES = 1024 * 1024
_NONCE_BYTES = 18  # as libpq (SCRAM_RAW_NONCE_LEN)

_log = logging.getLogger("pg_wired")


class WireConn:
    """A connection after the login, for one task at a time, message by message. `AsyncConn(wire)` takes it over.

    `config` is the ConnConfig it was made from, `address` where the server listens, `parameters` are the server's
    settings as ParameterStatus reports them (live), `transaction_status` is as of the last ReadyForQuery. All methods
    raise UsageError from another thread, loop or process.
    """

    def __init__(self, config: ConnConfig, sock: socket.socket, route: dial.Route) -> None:
        self.config = config
        self.address = route.address
        self._route = route
        self._tls = sock if isinstance(sock, ssl.SSLSocket) else None
        # The loop holds the transport, and that holds the queue. Neither may keep alive a WireConn that was dropped.
        self._queue = MessageQueue(WeakMethod(self._hold_back))
        self._transport = Transport(asyncio.get_running_loop(), sock, self._queue)
        self._login: HandshakeResult
        self.parameters: dict[str, str] = {}
        self.transaction_status = TransactionStatus.IDLE
        self.is_authenticated = False
        self._is_paused = False
        self._is_taken = False
        self._is_closing = False

    @classmethod
    async def connect(cls, dsn: str | ConnConfig = "", *, timeout: float | None = None, **options: Any) -> WireConn:
        """Connect and log in.

        `dsn` and `options` are those of `ConnConfig.parse`, or `dsn` is a ConnConfig. All hosts and addresses are
        tried, each for `connect_timeout` seconds at most, all together for `timeout` seconds. Raises ConfigError,
        IoError (the socket or TLS), RequestTimeout, AuthenticationError, PgError for the server's refusal,
        ConnectionClosed, ProtocolError. The errors of other attempts are in its text or notes.
        """
        from ..config.config import ConnConfig

        runtime = options.pop("_runtime", SYSTEM)
        return await connector(ConnConfig.of(dsn, **options), runtime).connect(timeout=timeout)

    async def _log_in(self, policy: Policy, credentials: Credentials) -> None:
        """From StartupMessage to ReadyForQuery. Raises the errors of `handshake.handshake`."""
        from ..auth.handshake import handshake

        nonce = base64.b64encode(self._route.runtime.randomness.randbytes(_NONCE_BYTES)).decode()
        steps = handshake(self.config.startup_parameters(), policy, nonce=nonce)
        step = next(steps)
        try:
            while True:
                if isinstance(step, bytes):
                    if step and self._queue.failure is None:  # else the message that has arrived says why
                        await self.send_raw(step)
                    message = await self.recv_msg()
                    self.is_authenticated |= isinstance(message, messages.AuthenticationOk)
                    step = steps.send(message)
                else:
                    step = steps.send(await credentials.answer(step))
        except StopIteration as end:
            self._login = end.value
            self.parameters = dict(self._login.parameters)
            self._queue.is_logged_in = True
        for warning in self._login.warnings:
            _log.warning("%s: %s", self.address, warning)

    # ---- messages

    async def send_raw(self, data: bytes) -> None:
        """Write encoded messages, which are not checked; returns when the socket has taken enough of them.

        Raises ConnectionClosed, IoError or ProtocolError once the connection has ended.
        """
        self._check_owner()
        if self._queue.failure is not None:
            raise self._queue.ended()
        self._queue.append(data)
        self._transport.flush()
        if len(self._queue.out) > HIGH_WATER_BYTES:
            await self._transport.drain()

    async def send(self, *items: messages.FrontendMessage) -> None:
        """Encode and write messages. ValueError names the message and field that cannot be sent."""
        await self.send_raw(messages.encode(*items))

    async def recv_msg(self) -> messages.BackendMessage:
        """The server's next message, of any kind; an ErrorResponse is returned, too, not raised.

        Raises ProtocolError where a message does not fit its description, ConnectionClosed or IoError at the end.
        """
        self._check_owner()
        while not self._queue.frames:
            if self._queue.failure is not None:
                raise self._queue.ended()
            await self._arrival()
        try:
            message = self._queue.take()
        except ProtocolError as error:
            self._queue.fail(error)
            self._transport.abort()
            raise
        if self._is_paused and self._queue.size < HIGH_WATER_BYTES:
            self._is_paused = False
            self._transport.resume()
        match message:
            case messages.ParameterStatus():
                self.parameters[message.name] = message.value
            case messages.ReadyForQuery():
                self.transaction_status = TransactionStatus(message.status)
        return message

    def _check_owner(self) -> None:
        self._transport.check_owner()
        if self._is_taken:
            raise UsageError("an AsyncConn has taken this connection over: use that")

    async def _arrival(self) -> None:
        """Wait until something has arrived, or the connection has ended."""
        if self._queue.waiter is not None:
            raise UsageError("another task is reading from this connection: a WireConn has one owner")
        self._queue.waiter = self._transport.loop.create_future()
        try:
            await self._queue.waiter
        finally:
            self._queue.waiter = None

    async def collect_rows(self) -> tuple[list[Row], str]:
        """Read up to ReadyForQuery; returns all rows and the last command tag. Raises PgError then, if one came."""
        answer = await self._answer(messages.DataRow, messages.CommandComplete)
        tags = [message.command_tag for message in answer if isinstance(message, messages.CommandComplete)]
        rows = [message.values for message in answer if isinstance(message, messages.DataRow)]
        return rows, tags[-1] if tags else ""

    async def drain_until_ready(self) -> None:
        """Read up to ReadyForQuery and discard the messages. Raises PgError then, if one came."""
        await self._answer()

    async def _ask(self, sql: str) -> str:
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

    async def _answer(self, *kept: type, sql: str | None = None) -> list[messages.BackendMessage]:
        """Messages of the `kept` kinds up to ReadyForQuery. The first error is raised there, a fatal one at once."""
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
        """Too many messages wait to be asked for: let the server wait."""
        if self._queue.size >= HIGH_WATER_BYTES and not self._is_paused:
            self._is_paused = True
            self._transport.pause()

    # ---- state

    @property
    def has_pending_data(self) -> bool:
        """Whether bytes have arrived that were not asked for yet."""
        return bool(self._queue.frames or self._queue.tail)

    @property
    def pid(self) -> int | None:
        """The server process of this session; None where the server named none."""
        return self._login.pid

    @property
    def auth_mechanism(self) -> str:
        """ "trust", "cleartext", "md5", "SCRAM-SHA-256" or "SCRAM-SHA-256-PLUS"."""
        return self._login.auth_mechanism

    @property
    def channel_bound(self) -> bool:
        """Whether the login was bound to this TLS connection, which rules out a man in the middle (RFC 5929)."""
        return self._login.channel_bound

    @property
    def protocol_version(self) -> tuple[int, int]:
        """(3, 0), or (3, 2) where `max_protocol_version` asks for it and the server has it."""
        return self._login.protocol_version

    @property
    def is_tls(self) -> bool:
        """Whether the connection is encrypted."""
        return self._tls is not None

    @property
    def tls_version(self) -> str | None:
        """ "TLSv1.3", for example; None without TLS."""
        return self._tls.version() if self._tls else None

    @property
    def tls_cipher(self) -> str | None:
        """OpenSSL's name of the cipher; None without TLS."""
        cipher = self._tls.cipher() if self._tls else None
        return cipher[0] if cipher else None

    def cancel_token(self) -> CancelToken:
        """A token that cancels this session's query from elsewhere. UsageError where the server gave no key for it."""
        from .cancel import known

        return known(self._token())

    def _token(self) -> CancelToken | None:
        from .cancel import CancelToken

        pid, key = self._login.pid, self._login.secret_key
        if pid is None or key is None:
            return None
        return CancelToken(self.address, pid, key, self._transport.is_open, self._route, set())

    # ---- the end

    async def close(self, timeout: float = 10.0) -> None:
        """Send Terminate and wait up to `timeout` seconds for the server to close. Idempotent."""
        limit = seconds(timeout)
        if self._is_taken or self._transport.is_closed:
            return
        self._transport.check_owner()
        if not self._is_closing:
            self._is_closing = True
            self._is_paused = True  # what still arrives is thrown away
            self._transport.resume()
            self._queue.append(messages.encode(messages.Terminate()))
            self._transport.flush()
        try:
            async with asyncio.timeout(limit):
                await asyncio.shield(self._transport.closed)
        except TimeoutError:
            pass
        finally:
            self.abort()

    def abort(self) -> None:
        """Close the socket at once. Idempotent, and without effect once an AsyncConn has taken over.

        Raises UsageError while the loop runs in another thread.
        """
        if not self._is_taken and not self._transport.is_closed:
            self._transport.owner.check_thread()
            self._queue.lost(ConnectionClosed("it was closed by us"))
            self._transport.abort()

    def __del__(self, _warn: Any = warnings.warn) -> None:
        if self._is_taken or self._transport.is_closed:
            return
        _warn(f"unclosed {self!r}: close() it, or use `async with`", ResourceWarning, source=self)
        self._transport.owner.run(self.abort)

    def __repr__(self) -> str:
        state = "taken over" if self._is_taken else "closed" if self._transport.is_closed else "open"
        return f"<WireConn {self.address} {state}>"

    async def __aenter__(self) -> WireConn:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()


def connector(config: ConnConfig, runtime: Runtime = SYSTEM) -> Connector[WireConn]:
    """A connector that makes one WireConn after another, for a pool or any program that connects often."""
    from .connector import Connector

    return Connector(config, WireConn, runtime)


# ---- taking over


class Parts(NamedTuple):
    """What another object needs of a WireConn to take it over."""

    config: ConnConfig
    runtime: Runtime
    transport: Transport
    parameters: dict[str, str]
    address: str
    pid: int | None
    token: CancelToken | None  # None where the server gave no key for it


class Successor(Protocol):
    """An object that takes over a WireConn; its session continues the conversation."""

    @property
    def session(self) -> Buffers: ...


S = TypeVar("S", bound=Successor)


def take_over(wire: WireConn, make: Callable[[Parts], S]) -> S:
    """Give the socket, and the bytes that have arrived and were not read, to what `make` returns.

    Raises UsageError where a transaction is open or messages are still being sent, and the error of a connection that
    has ended.
    """
    wire._check_owner()
    if wire._queue.failure is not None:
        raise wire._queue.ended()
    if wire.transaction_status is not TransactionStatus.IDLE:
        raise UsageError("a transaction is open: end it before another object takes over")
    if wire._queue.out:
        raise UsageError("messages are still being sent: read their answers before another object takes over")
    transport = wire._transport
    parts = Parts(
        wire.config, wire._route.runtime, transport, wire.parameters, str(wire.address), wire.pid, wire._token()
    )
    successor = make(parts)
    session = successor.session
    wire._is_taken = True
    transport.hand_over(session)
    session.feed(wire._queue.take_rest())
    if session.failure is not None:
        transport.abort()
    elif wire._is_paused:
        transport.resume()
    return successor


def take_back(wire: WireConn, rest: bytes) -> None:
    """Let the WireConn continue: its successor has all answers, and `rest` is the beginning of the next message."""
    if not wire._transport.is_closed:
        wire._transport.hand_over(wire._queue)
        wire._queue.feed(rest)
        wire._is_taken = False
