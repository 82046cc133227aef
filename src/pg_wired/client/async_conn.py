"""AsyncConn: many tasks, one connection.

The call itself checks and submits a request, without an `await` between finding its statement and appending its bytes;
awaiting only waits. With nothing else in flight it is written at once; otherwise all requests of one iteration of the
loop leave in one write. The session matches answers to requests. Cancelling, an error or a deadline of one request
never affects another.
"""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from ..errors import UsageError
from ..protocol.rows import Rows
from ..protocol.server_error import PgError
from ..protocol.types import TransactionStatus
from ..session.notification_queue import Drop
from .core import Core
from .lease import AcquireTimeout, Lease
from .queries import Queries

if TYPE_CHECKING:
    from ..config.config import ConnConfig
    from ..connect.cancel import CancelToken
    from ..connect.wire_conn import WireConn
    from .exclusive import ExclusiveConn
    from .notifications import NotificationReceiver


class AsyncConn(Queries):
    """A connection that many tasks use at the same time. Their requests share it, and never affect each other.

    `AsyncConn(wire)` takes a WireConn over; `connect` makes one. For transactions and session state use `exclusive()`.
    """

    def __init__(self, wire: WireConn) -> None:
        from ..connect.wire_conn import WireConn, take_over

        if not isinstance(wire, WireConn):
            raise TypeError(f"AsyncConn takes over a WireConn, not {type(wire).__name__}: await AsyncConn.connect(dsn)")
        core = take_over(wire, partial(Core, statement_cache_size=wire.config.statement_cache_size))
        super().__init__(core, lambda name, has_state: Lease(core.clock, core, name, has_state))
        self._core = core
        self._wire = wire
        self._is_state_mutated = False

    @classmethod
    async def connect(cls, dsn: str | ConnConfig = "", *, timeout: float | None = None, **options: Any) -> AsyncConn:
        """Connect and log in, within `timeout` seconds; arguments and errors are those of `WireConn.connect`."""
        from ..connect.wire_conn import WireConn

        return cls(await WireConn.connect(dsn, timeout=timeout, **options))

    def exclusive(self, *, acquire_timeout: AcquireTimeout = ...) -> ExclusiveConn:
        """The connection for the caller alone: `async with conn.exclusive() as mine`, for transactions and state.

        Other tasks wait, in order. Raises RequestTimeout if it is not free within `acquire_timeout` seconds.
        """
        from .exclusive import ExclusiveConn

        return ExclusiveConn(self._new_lease("exclusive()", True), acquire_timeout)

    # ---- notifications and notices

    async def listen(self, channel: str, *, timeout: float | None = None) -> None:
        """LISTEN on a channel, whose name is quoted here. Notifications go to the receiver.

        Raises ConfigError for a name that PostgreSQL would change, RequestTimeout after `timeout` seconds, PgError.
        """
        await self._set_listening("LISTEN", channel, timeout, self._core.channels.add)

    async def unlisten(self, channel: str, *, timeout: float | None = None) -> None:
        """UNLISTEN: no further notifications of this channel. Arguments and errors are those of `listen`."""
        await self._set_listening("UNLISTEN", channel, timeout, self._core.channels.discard)

    async def _set_listening(self, verb: str, channel: str, timeout: float | None, note: Callable[[str], None]) -> None:
        """Once sent it is seen through, even if the caller is cancelled: both sides have to know the channels."""
        from .notifications import quote_channel

        name = quote_channel(channel)
        reply = self.simple_query(f"{verb} {name}", timeout=timeout)

        def keep(reply: asyncio.Future[list[Rows]]) -> None:
            if not reply.cancelled() and reply.exception() is None:
                note(name)

        reply.add_done_callback(keep)
        await asyncio.shield(reply)

    def take_notification_receiver(self, capacity: int = 4096, drop: Drop = "oldest") -> NotificationReceiver:
        """The one receiver of this connection's notifications: an async iterator.

        It keeps at most `capacity` notifications; when it is full, the `drop` ("oldest" or "newest") one is dropped and
        counted. Raises UsageError if it was taken before, ConfigError for other values.
        """
        if self._core.session.notifications.capacity:
            raise UsageError("the notification receiver is taken already: a connection has one")
        from .notifications import NotificationReceiver

        return NotificationReceiver(self._core, capacity, drop)

    def set_notice_handler(self, handler: Callable[[PgError], object] | None) -> None:
        """Call `handler` with each NoticeResponse, soon after it arrived; None for no handler.

        Its exceptions go to the loop's exception handler.
        """
        loop = self._core.loop

        def deliver(notice: PgError) -> None:
            if handler is not None:
                loop.call_soon(handler, notice)

        self._core.session.handle_notices(deliver)

    # ---- the statement cache

    def invalidate_statement(self, sql: str) -> None:
        """Prepare `sql` anew the next time it is used."""
        self._core.transport.check_owner()
        self._core.session.statements.drop_sql(sql)

    def clear_statement_cache(self) -> None:
        """Prepare every statement anew the next time it is used."""
        self._core.transport.check_owner()
        self._core.session.statements.drop_sql(None)

    # ---- state

    @property
    def is_alive(self) -> bool:
        """Whether it takes requests."""
        return self._core.is_alive

    @property
    def is_broken(self) -> bool:
        """Whether it must not be used any more: it has ended, was retired, or was marked broken."""
        return self._core.is_broken

    def mark_broken(self) -> None:
        """Say that the connection must not be used again, for a pool that asks `is_broken`."""
        self._core.mark_broken()

    @property
    def is_state_mutated(self) -> bool:
        """Whether `mark_state_mutated` was called."""
        return self._is_state_mutated

    def mark_state_mutated(self) -> None:
        """Say that the session was changed in a way that needs a reset."""
        self._is_state_mutated = True

    def take_state_mutated(self) -> bool:
        """`is_state_mutated`, which is False from then on."""
        taken, self._is_state_mutated = self._is_state_mutated, False
        return taken

    @property
    def backend_pid(self) -> int | None:
        """The server process of this session; None where the server named none."""
        return self._core.pid

    @property
    def addr(self) -> str:
        """The server's address: "host:port", or the path of its Unix socket."""
        return self._core.address

    @property
    def parameters(self) -> dict[str, str]:
        """The server's settings as it last reported them; live."""
        return self._core.session.parameters

    @property
    def transaction_status(self) -> TransactionStatus:
        """As of the last ReadyForQuery."""
        return self._core.session.transaction_status

    @property
    def protocol_version(self) -> tuple[int, int]:
        """(3, 0), or (3, 2) where `max_protocol_version` asks for it and the server has it."""
        return self._wire.protocol_version

    @property
    def auth_mechanism(self) -> str:
        """How the login went: "trust", "cleartext", "md5", "SCRAM-SHA-256" or "SCRAM-SHA-256-PLUS"."""
        return self._wire.auth_mechanism

    @property
    def channel_bound(self) -> bool:
        """Whether the login was bound to the TLS connection, which rules out a man in the middle (RFC 5929)."""
        return self._wire.channel_bound

    @property
    def is_tls(self) -> bool:
        """Whether the connection is encrypted."""
        return self._wire.is_tls

    @property
    def in_flight(self) -> int:
        """The number of requests that were encoded and are not answered."""
        return len(self._core.session.inflight)

    @property
    def dropped_notifications(self) -> int:
        """Notifications that arrived and were dropped: the queue was full, or there was no receiver."""
        return self._core.session.notifications.dropped

    def cancel_token(self) -> CancelToken:
        """A token that cancels, from elsewhere, whatever the server runs for this connection at that moment.

        Raises UsageError where the server gave no key for it.
        """
        return self._wire.cancel_token()

    # ---- the end

    async def close(self, timeout: float = 10.0) -> None:
        """Take no more requests, wait for the answers to those submitted, send Terminate, and wait for the end.

        After `timeout` seconds the connection is closed at once; RequestTimeout if requests were unanswered then.
        Idempotent.
        """
        await self._core.close(timeout)

    def abort(self) -> None:
        """Close at once: all waiting requests fail. Idempotent. UsageError while the loop runs in another thread."""
        self._core.abort()

    async def __aenter__(self) -> AsyncConn:
        return self

    async def __aexit__(self, kind: object, *exc: object) -> None:
        """After an exception no answers are waited for: the server is asked to stop, and the exception is kept."""
        if kind is not None and (self._core.session.waiting() or self._core.session.window is not None):
            await self._core.part()
        await self.close()

    def __del__(self, _warn: Any = warnings.warn) -> None:
        core = self.__dict__.get("_core")
        if core is None or core.transport.is_closed or core.session.supervisor is not None:  # a pool closes its own
            return
        _warn(f"unclosed {self!r}: close() it, or use `async with`", ResourceWarning, source=self)
        core.transport.owner.run(self.abort)

    def __repr__(self) -> str:
        state = "alive" if self.is_alive else "closed"
        return f"<AsyncConn {self.addr} pid={self.backend_pid} {state} in_flight={self.in_flight}>"


def core_of(conn: AsyncConn) -> Core:
    """The core that a connection's requests go through: for a pool."""
    return conn._core
