"""Opener: makes the connections of a pool, one attempt at a time, and sees them off."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from inspect import isawaitable

from ..client.async_conn import AsyncConn
from ..config.config import ConnConfig
from ..connect.wire_conn import connector
from ..errors import ConnectionClosed, Outcome, PgWireError, RequestTimeout
from ..loop.clock import seconds
from ..loop.owner import Owner
from ..session.notification_queue import NotificationQueue
from ..session.session import Reason
from .backoff import Backoff
from .pool_stats import Totals
from .settings import PoolSettings

LOG = logging.getLogger("pg_wired.pool")

# Seconds that on_connect may take where connect_timeout sets no limit: the default of that.
SETUP_TIMEOUT_SECONDS = 10.0
# Seconds between looks at a connection that still has answers to give, and is no longer wanted.
DRAIN_CHECK_SECONDS = 0.5
# Seconds in which the server has to end it then.
CLOSE_TIMEOUT_SECONDS = 10.0
WRITABLE_SESSION_ATTRS = ("read-write", "primary")


class Connections:
    """One attempt at a time for the whole pool, so that a server that comes back is not run over.

    It keeps every open connection, so that nothing is left when all is to end.
    """

    def __init__(
        self, owner: Owner, loop: asyncio.AbstractEventLoop, config: ConnConfig, settings: PoolSettings
    ) -> None:
        self.owner = owner
        self.loop = loop
        self.settings = settings
        self.connects = 0
        self.failures = 0
        self.last_failure: BaseException | None = None
        self.conns: set[AsyncConn] = set()
        self.tasks: set[asyncio.Task[None]] = set()  # cancelled when the pool ends
        self._farewells: set[asyncio.Task[None]] = set()
        self.past = Totals()
        self.past_dropped = 0
        self.listening: set[NotificationQueue] = set()  # these go from one connection to the next
        self.is_closed = False
        self._config = config
        self._connector = connector(config)
        self._must_write = config.target_session_attrs in WRITABLE_SESSION_ATTRS
        self._backoff = Backoff(settings.random)
        self._gate = asyncio.Lock()

    async def open(self, begins: Callable[[], None] | None = None) -> AsyncConn:
        """One more connection, set up. Raises what the attempt failed with, be it on_connect's own exception."""
        async with self._gate:
            delay = self._backoff.delay(self.loop.time())
            if delay:
                await asyncio.sleep(delay)
            if begins is not None:
                begins()
            try:
                conn = await self._connect()
            except Exception as error:
                self.failures += 1
                self.last_failure = error
                self._backoff.failed(self.loop.time())
                LOG.warning("cannot connect: %s", error)
                raise
            self.connects += 1
            self._backoff.succeeded()
            return conn

    async def _connect(self) -> AsyncConn:
        conn = AsyncConn(await self._connector.connect())
        self.conns.add(conn)
        conn._transport.closed.add_done_callback(lambda _: self._closed(conn))
        conn._core.is_set_up = self.settings.on_connect is not None
        try:
            await self.set_up(conn)
            if not conn.is_alive:
                raise conn._session.refusal()
        except BaseException:
            conn.abort()
            raise
        if self._must_write:
            conn._session.require_writes()
        return conn

    def late(self, timeout: float | None) -> RequestTimeout:
        """Why there is no connection after `timeout` seconds."""
        return self._connector.failures.late(timeout)

    async def set_up(self, conn: AsyncConn) -> None:
        """Run on_connect. Raises what that does, and RequestTimeout where it takes too long."""
        if self.settings.on_connect is None:
            return
        limit = self._config.connect_timeout or SETUP_TIMEOUT_SECONDS
        try:
            async with asyncio.timeout(limit) as scope:
                setting_up = self.settings.on_connect(conn)
                if not isawaitable(setting_up):
                    raise TypeError(f"on_connect returned {type(setting_up).__name__}: make it `async def`")
                await setting_up
        except TimeoutError as error:
            if not scope.expired():
                raise
            raise RequestTimeout(f"on_connect took more than {limit} s", Outcome.NOT_SENT) from error

    def _closed(self, conn: AsyncConn) -> None:
        self.conns.discard(conn)
        self.past.add(conn._core)
        if conn._session.notifications not in self.listening:
            self.past_dropped += conn.dropped_notifications

    def ended(self, conn: AsyncConn, what: str) -> None:
        """A connection takes no more requests; it may still have answers to give."""
        if self.is_closed:
            return
        session = conn._session
        LOG.warning("%s %s (pid %s) is gone: %s", what, conn.addr, conn.backend_pid, session.failure or _why(conn))
        self._backoff.ended(self.loop.time(), self.loop.time() - conn._core.born)
        if session.reason is Reason.READ_ONLY:
            self._eject(conn.addr)

    def _eject(self, addr: str) -> None:
        """A server that refuses to write is the wrong one: none of its connections takes further requests.

        All of them are drained before a request of one moves: it must not move to another connection to this server.
        """
        others = [conn for conn in self.conns if conn.addr == addr and conn.is_alive]
        for conn in others:
            conn._session.drain(Reason.READ_ONLY)
        for conn in others:
            conn._session.retire(Reason.READ_ONLY)

    def see_off(self, conn: AsyncConn) -> None:
        """Close it when all is answered, however long that takes; nobody waits for it but the pool's end."""
        if not conn._transport.is_closed:
            self._start(self._farewell(conn), self._farewells)

    @staticmethod
    async def _farewell(conn: AsyncConn) -> None:
        session, transport = conn._session, conn._transport
        if session.reason is None:
            session.drain(Reason.REPLACED)
        while (session.waiting() or session.window is not None) and not transport.is_closed:
            await asyncio.wait([transport.closed], timeout=DRAIN_CHECK_SECONDS)
        try:
            await conn.close(CLOSE_TIMEOUT_SECONDS)
        except PgWireError as error:
            LOG.warning("a connection to %s did not end by itself: %s", conn.addr, error)

    def run(self, work: Coroutine[object, object, None]) -> asyncio.Task[None]:
        """Something the pool has to do by itself; it is cancelled when the pool ends."""
        return self._start(work, self.tasks)

    def _start(self, work: Coroutine[object, object, None], tasks: set[asyncio.Task[None]]) -> asyncio.Task[None]:
        task = self.loop.create_task(work)
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        return task

    def lifetime(self) -> float:
        """Seconds that a new connection may live; up to a tenth less, so that they do not all go at once."""
        longest = self.settings.max_lifetime
        return float("inf") if longest is None else longest * (1 - 0.1 * self.settings.random())

    def totals(self) -> Totals:
        """Over all connections, past and present."""
        sums = self.past.copy()
        for conn in self.conns:
            sums.add(conn._core)
        return sums

    @property
    def dropped_notifications(self) -> int:
        """Over all connections, past and present."""
        queues = {conn._session.notifications for conn in self.conns} | self.listening
        return self.past_dropped + sum(queue.dropped for queue in queues)

    def closed(self) -> ConnectionClosed:
        """Why nothing more is taken."""
        return ConnectionClosed("the pool was closed: make another one", Outcome.NOT_SENT)

    async def finish(self, timeout: float) -> int:
        """Close all connections once all is answered; returns how many requests are not after `timeout` seconds."""
        limit = seconds(timeout)
        end = None if limit is None else self.loop.time() + limit
        self._cancel()
        unanswered = 0

        async def close(conn: AsyncConn) -> None:
            nonlocal unanswered
            try:
                await conn.close(timeout)
            except RequestTimeout:
                unanswered += 1

        await asyncio.gather(*[close(conn) for conn in self.conns])
        others = (self.tasks | self._farewells) - {asyncio.current_task()}
        if others:
            await asyncio.wait(others, timeout=None if end is None else max(0, end - self.loop.time()))
        return unanswered

    def _cancel(self) -> None:
        me = asyncio.current_task()
        for task in self.tasks:
            if task is not me:
                task.cancel()

    def abort(self) -> None:
        """End everything at once."""
        self.is_closed = True
        if self.owner.has_loop:
            for task in self.tasks | self._farewells:
                task.cancel()
        for conn in list(self.conns):
            conn.abort()


def _why(conn: AsyncConn) -> str:
    session = conn._session
    if session.reason is Reason.SERVER_ENDS:
        return str(session.refusal())
    return session.reason_text or "it was marked as broken"
