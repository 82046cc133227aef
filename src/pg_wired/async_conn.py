"""AsyncConn: many tasks, one connection.

A request is checked and submitted by the call itself, without any `await` between looking up its statement and
appending its bytes; awaiting only waits. With nothing else in flight it is written at once; otherwise all requests of
one turn of the loop leave in one write. The session matches answers to requests; nobody's cancelling, error or
deadline touches another.
"""

from __future__ import annotations

import asyncio
import math
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

from .cancel import CancelToken
from .connection import WireConn
from .error import ConfigError, Outcome, RequestTimeout
from .protocol import requests
from .protocol.rows import Rows
from .protocol.session import Session
from .protocol.types import Oid, ResponseCollector, StatementDescription, TransactionStatus, Value
from .watch import Watch


class AsyncConn:
    """A connection that many tasks use at the same time, each for itself; for transactions and state see `docs/`.

    `AsyncConn(wire)` takes a WireConn over. All methods raise UsageError from another thread, loop or process, and
    ConnectionClosed, IoError or ProtocolError once the connection has ended. `timeout` is seconds, None means none; at
    the deadline RequestTimeout is raised. Every error's `outcome` says whether the request may have run.
    """

    def __init__(self, wire: WireConn) -> None:
        config = wire.config
        self._wire = wire
        self._session = Session(wire.parameters, config.statement_cache_size, config.max_in_flight)
        wire.take_over(self._session, self._session.feed)
        self._transport = wire.transport
        self._loop = wire.transport.loop
        self._watch = Watch(self._loop, self._session, self._cancel_sole, self._transport)
        self._is_broken = False
        self._is_state_mutated = False

    @classmethod
    async def connect(cls, dsn: str = "", **options: Any) -> AsyncConn:
        """Connect and log in; arguments as `ConnConfig.parse` takes them. Raises what `WireConn.connect` does."""
        return cls(await WireConn.connect(dsn, **options))

    # ---- requests

    def exec_query(
        self,
        sql: str,
        params: Sequence[Value] = (),
        param_oids: Sequence[Oid] = (),
        *,
        param_formats: int | Sequence[int] = 0,
        result_formats: int | Sequence[int] = 0,
        timeout: float | None = None,
    ) -> asyncio.Future[Rows]:
        """One prepared, cached, pipelined query; await it for its Rows, or PgError.

        `params` are bytes, str (UTF-8 text) or None; `param_oids` their types, 0 where the server is to infer one;
        formats are one FormatCode for all or one for each. TypeError and ConfigError are raised by the call itself.
        """
        reply: asyncio.Future[Rows] = self._loop.create_future()
        deadline = 0.0 if timeout is None else self._deadline(timeout)
        self._submit(requests.query(reply, sql, params, param_oids, param_formats, result_formats, deadline))
        return reply

    def simple_query(self, sql: str, *, timeout: float | None = None) -> asyncio.Future[list[Rows]]:
        """All statements of `sql` by the simple protocol; one Rows for each.

        PgError is that of the statement that failed; what came before is on its `partial`, and was rolled back with it
        unless `outcome` is UNKNOWN.
        """
        reply: asyncio.Future[list[Rows]] = self._loop.create_future()
        self._submit(requests.simple_query(reply, sql, self._deadline(timeout)))
        return reply

    def describe(
        self, sql: str, param_oids: Sequence[Oid] = (), *, timeout: float | None = None
    ) -> asyncio.Future[StatementDescription]:
        """The parameter types and columns of `sql`, which is parsed and not run."""
        reply: asyncio.Future[StatementDescription] = self._loop.create_future()
        self._submit(requests.describe(reply, sql, param_oids, self._deadline(timeout)))
        return reply

    def submit(
        self,
        messages: bytes,
        collector: ResponseCollector = ResponseCollector.ROWS,
        *,
        timeout: float | None = None,
    ) -> asyncio.Future[Rows]:
        """Encoded messages: one Query, or extended messages that end in their one Sync; ConfigError for anything else.

        With the collector ROWS the answer is the last result, as with libpq's PQexec; with DRAIN the same without rows.
        """
        reply: asyncio.Future[Rows] = self._loop.create_future()
        self._submit(self._encoded(reply, messages, collector, self._deadline(timeout)))
        return reply

    def submit_batch(
        self, batch: Iterable[tuple[bytes, ResponseCollector]], *, timeout: float | None = None
    ) -> asyncio.Future[list[Rows | BaseException]]:
        """Several such requests in one write: each one's Rows or error, in order. All or none are submitted."""
        deadline = self._deadline(timeout)
        replies: list[asyncio.Future[Rows]] = []
        submitted: list[requests.Request] = []
        for messages, collector in batch:
            replies.append(self._loop.create_future())
            submitted.append(self._encoded(replies[-1], messages, collector, deadline))
        self._transport.check_owner()
        for request in submitted:
            self._enqueue(request)
        self._transport.flush()
        return asyncio.gather(*replies, return_exceptions=True)

    def _encoded(
        self, reply: asyncio.Future[Rows], messages: bytes, collector: ResponseCollector, deadline: float
    ) -> requests.Request:
        if collector not in (ResponseCollector.ROWS, ResponseCollector.DRAIN):
            raise ConfigError(f"collector is {collector!r}: a shared connection takes ROWS and DRAIN")
        return requests.encoded(reply, bytes(messages), collector == ResponseCollector.DRAIN, deadline)

    def _submit(self, request: requests.Request) -> None:
        transport, session = self._transport, self._session
        transport.check_owner()
        if len(session.inflight) == 1:
            self._watch.cancel_abandoned()  # before this request makes it one of two
        self._enqueue(request)
        if len(session.inflight) == 1:
            transport.flush()
        else:
            transport.flush_soon()

    def _enqueue(self, request: requests.Request) -> None:
        if request.deadline < 0:
            request.fail(RequestTimeout("the timeout is 0", Outcome.NOT_SENT))
            return
        self._session.submit(request)
        if request.deadline:
            self._watch.arm_for(request.deadline)
        if not self._watch.is_armed:
            self._watch.arm()

    def _deadline(self, timeout: float | None) -> float:
        """On the loop's clock; 0 for none, and negative where it has passed already."""
        if timeout is None:
            return 0.0
        if isinstance(timeout, bool) or not isinstance(timeout, (int, float)):
            raise TypeError(f"timeout is {type(timeout).__name__}: pass seconds, or None for none")
        if not timeout >= 0:
            raise ConfigError(f"timeout is {timeout}: pass seconds from 0, or None for none")
        if timeout == 0:
            return -1.0
        return 0.0 if math.isinf(timeout) else self._loop.time() + timeout

    async def _cancel_sole(self) -> None:
        if self._wire.facts.secret_key is not None:
            await self._wire.cancel_token().cancel()

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
        return self._session.failure is None and not self._session.retired

    @property
    def is_broken(self) -> bool:
        """Whether a pool must not use it any more: it has ended, was retired, or somebody marked it."""
        return self._is_broken or not self.is_alive

    def mark_broken(self) -> None:
        """Say that the connection must not be used again."""
        self._is_broken = True

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
        """(3, 0)."""
        return self._wire.facts.protocol_version

    @property
    def auth_mechanism(self) -> str:
        """How the login went: "trust", "cleartext", "md5" or "SCRAM-SHA-256"."""
        return self._wire.auth_mechanism

    @property
    def in_flight(self) -> int:
        """Requests that are written and not answered."""
        return len(self._session.inflight)

    @property
    def dropped_notifications(self) -> int:
        """Notifications that came and were delivered to nobody."""
        return self._session.dropped_notifications

    def cancel_token(self) -> CancelToken:
        """What cancels, from elsewhere, whatever the server runs for this connection at that moment."""
        return self._wire.cancel_token()

    # ---- the end

    async def close(self, timeout: float = 10.0) -> None:
        """Take no more requests, wait for the answers to those submitted, send Terminate, wait for the end.

        After `timeout` seconds the connection is closed at once; RequestTimeout if requests were unanswered then.
        Idempotent.
        """
        session, transport = self._session, self._transport
        if transport.is_closed:
            return
        transport.check_owner()
        if not session.retired:
            session.retired = "it was closed by close()"
        session.finish()
        transport.flush()
        try:
            async with asyncio.timeout(timeout):
                await asyncio.shield(transport.closed)
                await self._watch.ended()
        except TimeoutError:
            unanswered = len(session.waiting())
            if unanswered:
                raise RequestTimeout(f"close() gave up on {unanswered} requests after {timeout} s") from None
        finally:
            self.abort()

    def abort(self) -> None:
        """Close at once: whoever waits is told. Idempotent."""
        self._session.is_aborted = True
        self._transport.abort()
        self._watch.stop()

    async def __aenter__(self) -> AsyncConn:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    def __del__(self, _warn: Any = warnings.warn) -> None:
        transport = self.__dict__.get("_transport")
        if transport is None or transport.is_closed:
            return
        _warn(f"unclosed {self!r}: close() it, or use `async with`", ResourceWarning, source=self)
        self.abort()

    def __repr__(self) -> str:
        state = "alive" if self.is_alive else "closed"
        return f"<AsyncConn {self.addr} pid={self.backend_pid} {state} in_flight={self.in_flight}>"
