"""AsyncConn: many tasks, one connection.

A request is checked and submitted by the call itself, without any `await` between looking up its statement and
appending its bytes; awaiting only waits. With nothing else in flight it is written at once; otherwise all requests of
one turn of the loop leave in one write. The session matches answers to requests; nobody's cancelling, error or
deadline touches another.
"""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError, RequestTimeout, UsageError
from ..loop.clock import seconds
from ..protocol.rows import Rows
from ..protocol.server_error import PgError
from ..protocol.types import TransactionStatus
from ..session.notification_queue import Drop
from ..session.session import Reason
from .core import Core
from .lease import AcquireTimeout, Lease
from .queries import Queries

if TYPE_CHECKING:
    from ..config.config import ConnConfig
    from ..connect.cancel import CancelToken
    from ..connect.wire_conn import WireConn
    from .exclusive import ExclusiveConn
    from .notifications import NotificationReceiver

# PostgreSQL cuts longer names off (NAMEDATALEN - 1), and would then notify another channel than the one asked for.
MAX_NAME_BYTES = 63


def quote_channel(name: str) -> str:
    """`name` as a quoted identifier. ConfigError where PostgreSQL would change it, or cannot have it."""
    if not isinstance(name, str):
        raise TypeError(f"channel is {type(name).__name__}: pass a str")
    n = len(name.encode("utf-8", "surrogatepass"))
    if not n or "\0" in name or n > MAX_NAME_BYTES or any("\ud800" <= char <= "\udfff" for char in name):
        raise ConfigError(f"channel {name!r} is empty, has a NUL, more than {MAX_NAME_BYTES} bytes or is no UTF-8")
    return '"' + name.replace('"', '""') + '"'


class AsyncConn(Queries):
    """A connection that many tasks use at the same time, each for itself; for transactions and state see `docs/`.

    `AsyncConn(wire)` takes a WireConn over. All methods raise UsageError from another thread, loop or process, and
    ConnectionClosed, IoError or ProtocolError once the connection has ended. `timeout` is seconds, None means none; at
    the deadline RequestTimeout is raised. Every error's `outcome` says whether the request may have run.
    """

    def __init__(self, wire: WireConn) -> None:
        from ..connect.wire_conn import WireConn

        if not isinstance(wire, WireConn):
            raise TypeError(f"AsyncConn takes over a WireConn, not {type(wire).__name__}: await AsyncConn.connect(dsn)")
        core = Core(wire, wire.config.statement_cache_size)
        super().__init__(core, lambda name, has_state: Lease(core, name, has_state))
        self._core = core
        self._wire = wire
        self._session = core.session
        self._transport = core.transport
        self.channels = core.channels
        self._is_state_mutated = False

    @classmethod
    async def connect(cls, dsn: str | ConnConfig = "", *, timeout: float | None = None, **options: Any) -> AsyncConn:
        """Connect and log in, within `timeout` seconds; arguments and errors are those of `WireConn.connect`."""
        from ..connect.wire_conn import WireConn

        return cls(await WireConn.connect(dsn, timeout=timeout, **options))

    def exclusive(self, *, acquire_timeout: AcquireTimeout = ...) -> ExclusiveConn:
        """The connection for you alone: `async with conn.exclusive() as mine`, for transactions and session state.

        Others wait outside, in order. Raises RequestTimeout if the turn does not come within `acquire_timeout` seconds.
        """
        from .exclusive import ExclusiveConn

        return ExclusiveConn(Lease(self._core, "exclusive()", has_state=True), acquire_timeout)

    # ---- notifications and notices

    async def listen(self, channel: str, *, timeout: float | None = None) -> None:
        """LISTEN; the name is quoted by us. Notifications go to the receiver."""
        await self._set_listening("LISTEN", channel, timeout, self.channels.add)

    async def unlisten(self, channel: str, *, timeout: float | None = None) -> None:
        """UNLISTEN."""
        await self._set_listening("UNLISTEN", channel, timeout, self.channels.discard)

    async def _set_listening(self, verb: str, channel: str, timeout: float | None, note: Callable[[str], None]) -> None:
        """Once sent it is seen through, also if the caller is cancelled: the server and we have to agree."""
        name = quote_channel(channel)
        reply = self.simple_query(f"{verb} {name}", timeout=timeout)

        def keep(reply: asyncio.Future[list[Rows]]) -> None:
            if not reply.cancelled() and reply.exception() is None:
                note(name)

        reply.add_done_callback(keep)
        await asyncio.shield(reply)

    def take_notification_receiver(self, capacity: int = 4096, drop: Drop = "oldest") -> NotificationReceiver:
        """The one receiver of this connection's notifications; of more than `capacity` the `drop` ones are lost."""
        if self._session.notifications.capacity:
            raise UsageError("the notification receiver is taken already: a connection has one")
        from .notifications import NotificationReceiver

        return NotificationReceiver(self._core, capacity, drop)

    def set_notice_handler(self, handler: Callable[[PgError], object] | None) -> None:
        """Call `handler` with each NoticeResponse, soon after it came; its exceptions go to the loop's handler."""
        loop = self._core.loop

        def deliver(notice: PgError) -> None:
            if handler is not None:
                loop.call_soon(handler, notice)

        self._session.handle_notices(deliver)

    # ---- the statement cache

    def invalidate_statement(self, sql: str) -> None:
        """Prepare `sql` anew the next time."""
        self._transport.check_owner()
        self._session.statements.drop_sql(sql)

    def clear_statement_cache(self) -> None:
        """Prepare everything anew the next time."""
        self._transport.check_owner()
        self._session.statements.drop_sql(None)

    # ---- state

    @property
    def is_alive(self) -> bool:
        """Whether it takes requests."""
        return self._session.takes_requests

    @property
    def is_broken(self) -> bool:
        """Whether a pool must not use it any more: it has ended, was retired, or somebody marked it."""
        return self._core.is_broken or not self.is_alive

    def mark_broken(self) -> None:
        """Say that the connection must not be used again."""
        self._core.mark_broken()

    @property
    def is_state_mutated(self) -> bool:
        """Whether somebody said that the session's state was changed."""
        return self._is_state_mutated

    def mark_state_mutated(self) -> None:
        """Say that the session's state was changed in a way that needs a reset."""
        self._is_state_mutated = True

    def take_state_mutated(self) -> bool:
        """`is_state_mutated`, which is False from then on."""
        taken, self._is_state_mutated = self._is_state_mutated, False
        return taken

    @property
    def backend_pid(self) -> int | None:
        """The server process of this session; None where the server named none."""
        return self._wire.pid

    @property
    def addr(self) -> str:
        """Where the server listens: "host:port", or the path of its Unix socket."""
        return str(self._wire.address)

    @property
    def parameters(self) -> dict[str, str]:
        """The server's settings as it last reported them; live."""
        return self._session.parameters

    @property
    def transaction_status(self) -> TransactionStatus:
        """As of the last ReadyForQuery."""
        return self._session.transaction_status

    @property
    def protocol_version(self) -> tuple[int, int]:
        """(3, 0), or (3, 2) where `max_protocol_version` asks for it and the server has it."""
        return self._wire.facts.protocol_version

    @property
    def auth_mechanism(self) -> str:
        """How the login went: "trust", "cleartext", "md5", "SCRAM-SHA-256" or "SCRAM-SHA-256-PLUS"."""
        return self._wire.auth_mechanism

    @property
    def channel_bound(self) -> bool:
        """Whether the login was bound to the TLS connection: nobody sits between."""
        return self._wire.channel_bound

    @property
    def is_tls(self) -> bool:
        """Whether the connection is encrypted."""
        return self._wire.is_tls

    @property
    def in_flight(self) -> int:
        """Requests that are written and not answered."""
        return len(self._session.inflight)

    @property
    def dropped_notifications(self) -> int:
        """Notifications that came and were delivered to nobody."""
        return self._session.notifications.dropped

    def cancel_token(self) -> CancelToken:
        """What cancels, from elsewhere, whatever the server runs for this connection at that moment."""
        return self._wire.cancel_token()

    # ---- the end

    async def close(self, timeout: float = 10.0) -> None:
        """Take no more requests, wait for the answers to those submitted, send Terminate, wait for the end.

        After `timeout` seconds the connection is closed at once; RequestTimeout if requests were unanswered then.
        Idempotent.
        """
        limit = seconds(timeout)
        session, transport = self._session, self._transport
        if transport.is_closed:
            return
        transport.check_owner()
        if session.reason is None:
            session.drain(Reason.CLOSED)
        session.closed_by_client()
        session.finish()
        transport.flush()
        try:
            async with asyncio.timeout(limit):
                await asyncio.shield(transport.closed)
                await self._core.watchdog.ended()
        except TimeoutError:
            unanswered = len(session.waiting())
            if unanswered:
                raise RequestTimeout(f"close() gave up on {unanswered} requests after {timeout} s") from None
        finally:
            self.abort()

    def abort(self) -> None:
        """Close at once: whoever waits is told. Idempotent. UsageError while the loop runs in another thread."""
        if not self._transport.is_closed:
            self._transport.owner.check_thread()
        self._session.closed_by_client()
        self._core.abort()

    async def __aenter__(self) -> AsyncConn:
        return self

    async def __aexit__(self, kind: object, *exc: object) -> None:
        """An exception of the block waits for no answers, and is not replaced: what is unanswered then is ended."""
        if kind is not None and (self._session.waiting() or self._session.window is not None):
            await self._core.part()
        await self.close()

    def __del__(self, _warn: Any = warnings.warn) -> None:
        transport = self.__dict__.get("_transport")
        if transport is None or transport.is_closed:
            return
        _warn(f"unclosed {self!r}: close() it, or use `async with`", ResourceWarning, source=self)
        transport.owner.run(self.abort)

    def __repr__(self) -> str:
        state = "alive" if self.is_alive else "closed"
        return f"<AsyncConn {self.addr} pid={self.backend_pid} {state} in_flight={self.in_flight}>"
