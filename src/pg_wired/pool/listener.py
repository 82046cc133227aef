"""PoolListener: notifications of some channels, over as many connections as it takes."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable
from weakref import WeakMethod

from ..client.async_conn import AsyncConn, quote_channel
from ..client.lease import AcquireTimeout
from ..client.notifications import QueueReader
from ..errors import ConfigError, ConnectionClosed, PgWireError, UsageError
from ..protocol.records import ListenerGap, Notification, NotificationGap
from ..session.notification_queue import Drop, NotificationQueue
from ..session.session import choose
from .backoff import MAX_DELAY_SECONDS
from .connections import LOG
from .lending import Checkout, Lending
from .shared import SharedConns

# Seconds that LISTEN may take, and that a notification of our own may be on its way.
LISTEN_TIMEOUT_SECONDS = 10.0
DELIVERY_TIMEOUT_SECONDS = 5.0
VERB = "listener()"


class PoolListener(QueueReader):
    """`async with pool.listener(["jobs"]) as events: async for event in events`; also without `async with`.

    Yields each Notification; a NotificationGap where some were lost for want of room; and a ListenerGap where the
    connection was lost: by then a new one listens. Ends behind its own aclose(), or the pool's close().
    received = delivered + queued + dropped, at every moment, over all its connections.
    """

    def __init__(
        self,
        shared: SharedConns,
        lending: Lending,
        channels: Iterable[str],
        capacity: int,
        drop: Drop,
        patience: AcquireTimeout,
    ) -> None:
        if isinstance(channels, str):
            raise TypeError("channels is a str: pass a list of names")
        super().__init__(NotificationQueue(), capacity, drop)
        self._channels = list(dict.fromkeys(map(quote_channel, channels)))
        if not self._channels:
            raise ConfigError("channels is empty: pass the name of at least one")
        self._shared = shared
        self._lending = lending
        self._connections = lending.connections
        self._patience = patience
        self._lent: Checkout | None = None
        self._task: asyncio.Task[object] | None = None  # who has opened it
        self._reopening: asyncio.Task[None] | None = None
        self._failure: PgWireError | None = None
        self._is_open = self._is_over = False

    @property
    def backend_pid(self) -> int | None:
        """The server process that listens; None while there is none."""
        return self._lent.conn.backend_pid if self._lent is not None else None

    # ---- a connection that listens

    async def __aenter__(self) -> PoolListener:
        if self._is_open:
            raise UsageError(f"{VERB} is open already: make another one")
        self._is_open = True
        self._task = asyncio.current_task()
        self._connections.listening.add(self._queue)
        limit = self._connections.settings.acquire_timeout if self._patience is ... else self._patience
        try:
            await self._listen(limit, self._queue)
        except BaseException:
            await self.aclose()
            raise
        return self

    async def _listen(self, limit: float | None, queue: NotificationQueue) -> None:
        """Borrow a connection, and LISTEN there, into `queue`; from then on its end is heard of."""
        is_first = queue is self._queue
        lent = await self._lending.acquire(VERB, self._lending.deadline(limit), 0.0)
        lent.task = self._task
        conn = lent.conn
        try:
            if is_first:
                await self._check_delivery(conn)
            conn._session.deliver_notifications(queue)
            await conn.simple_query(
                "; ".join(f"LISTEN {name}" for name in self._channels), timeout=LISTEN_TIMEOUT_SECONDS
            )
            if conn.is_broken:
                raise conn._session.refusal()
            if self._is_over:
                raise self._connections.closed()
        except BaseException:
            self._drop(lent)
            raise
        self._lent = lent
        ended = WeakMethod(self._ended)  # a listener that nobody has must not be kept by its connection
        lent.on_end = lambda: method() if (method := ended()) is not None else None

    async def _check_delivery(self, conn: AsyncConn) -> None:
        """Have something notified: a pooler in transaction mode says yes to LISTEN, and delivers nothing.

        By another connection where there is one: behind such a pooler ours could meet the listening session by chance.
        """
        channel = f"pg_wired_{os.urandom(8).hex()}"
        queue = conn._session.notifications
        queue.capacity = 16  # there may be others, if on_connect listens
        queue.drop = "oldest"
        await conn.simple_query(f"LISTEN {channel}", timeout=LISTEN_TIMEOUT_SECONDS)
        notify = f"NOTIFY {channel}"
        try:
            async with asyncio.timeout(DELIVERY_TIMEOUT_SECONDS):
                try:
                    await self._neighbour(conn).simple_query(notify, timeout=DELIVERY_TIMEOUT_SECONDS / 2)
                except (ConnectionClosed, OSError):  # lost, or too busy: OSError has timeouts, too
                    await conn.simple_query(notify)
                await self._arrived(conn, channel)
        except TimeoutError:
            raise UsageError(
                f"LISTEN has no effect through {conn.addr}: a notification of our own did not come back within "
                f"{DELIVERY_TIMEOUT_SECONDS} s, as behind a pooler in transaction mode; "
                "connect to the server itself, or in session mode"
            ) from None
        queue.capacity = 0
        await conn.simple_query(f"UNLISTEN {channel}", timeout=LISTEN_TIMEOUT_SECONDS)

    def _neighbour(self, conn: AsyncConn) -> AsyncConn:
        """A shared connection to the same server, or else this one."""
        others = [other for other in self._shared.conns if other.addr == conn.addr]
        return others[choose([other._session for other in others])] if others else conn

    @staticmethod
    async def _arrived(conn: AsyncConn, channel: str) -> None:
        queue = conn._session.notifications
        reader = QueueReader(queue, queue.capacity, queue.drop)
        while (item := queue.take()) is None or not isinstance(item, Notification) or item.channel != channel:
            if item is None and conn._session.failure is not None:
                raise conn._session.refusal()
            if item is None:
                await reader._arrival()

    # ---- its loss

    def _ended(self) -> None:
        """The connection is gone, or of no more use: another one."""
        lent = self._lent
        if lent is None:
            return
        self._lent = None
        before = lent.conn.backend_pid
        self._drop(lent)
        if self._connections.is_closed:
            self._end()
        else:
            self._reopening = self._connections.run(self._reopen(before))

    async def _reopen(self, before: int | None) -> None:
        """Again and again, until it listens or nobody wants it to."""
        begin = self._connections.loop.time()
        try:
            while (lent := self._lent) is None:
                early = NotificationQueue()
                early.capacity, early.drop = self._queue.capacity, self._queue.drop
                try:
                    await self._listen(None, early)
                except PgWireError as error:
                    LOG.warning("a listener waits for a connection that listens: %s", error)
                    await asyncio.sleep(MAX_DELAY_SECONDS * self._connections.settings.random())
        except BaseException as error:
            self._failure = ConnectionClosed(f"the listener was stopped: {type(error).__name__}")
            self._end()
            raise
        gap = ListenerGap(0, self._connections.loop.time() - begin, before, lent.conn.backend_pid)
        self._queue.reconnected(gap, early)
        lent.conn._session.deliver_notifications(self._queue)

    def _drop(self, lent: Checkout) -> None:
        """It has listened: nobody else shall have it."""
        lent.on_end = None
        if lent.conn._session.notifications is self._queue:
            lent.conn._session.deliver_notifications(NotificationQueue())
        lent.conn._core.is_broken = True
        self._lending.release(lent)

    # ---- the reader

    def __aiter__(self) -> PoolListener:
        return self

    async def __anext__(self) -> Notification | NotificationGap | ListenerGap:
        if not self._is_open:
            await self.__aenter__()
        while (item := self._queue.take()) is None:
            self._connections.owner.check()
            if self._failure is not None and not self._connections.is_closed:
                raise self._failure
            if self._is_over:
                raise StopAsyncIteration
            await self._arrival()
        return item

    async def __aexit__(self, *exc: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Listen no more, and give the connection up. Idempotent."""
        self._end()
        task = self._reopening
        if task is not None and task is not asyncio.current_task():
            task.cancel()
            await asyncio.wait([task])

    def _end(self) -> None:
        if self._is_over:
            return
        self._is_over = True
        lent, self._lent = self._lent, None
        if lent is not None:
            self._drop(lent)
        self._connections.listening.discard(self._queue)
        self._connections.past_dropped += self._queue.dropped
        self._queue.wake()

    def __del__(self) -> None:
        if "_is_over" in self.__dict__ and self._lent is not None and self._connections.owner.has_loop:
            self._connections.owner.run(self._end)
