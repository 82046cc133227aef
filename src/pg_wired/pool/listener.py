"""PoolListener: the notifications of some channels, over as many connections as it takes."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from weakref import WeakMethod

from ..client.core import Core
from ..client.lease import AcquireTimeout
from ..client.notifications import QueueReader, arrival, quote_channel
from ..errors import ConfigError, ConnectionClosed, PgWireError, UsageError
from ..protocol.records import ListenerGap, Notification, NotificationGap
from ..session.notification_queue import Drop, NotificationQueue
from ..session.session import choose
from .backoff import MAX_DELAY_SECONDS
from .connections import LOG
from .lending import Checkout, Lending
from .shared import SharedConns

LISTEN_TIMEOUT_SECONDS = 10.0
# Time for a notification of the library's own to come back.
DELIVERY_TIMEOUT_SECONDS = 5.0
# Room for that notification, and for others if on_connect listens.
DELIVERY_CAPACITY = 16
VERB = "listener()"


class PoolListener(QueueReader):
    """`async with pool.listener(["jobs"]) as events: async for event in events`; also without `async with`.

    Yields each Notification; a NotificationGap where some were dropped because the queue was full; and a ListenerGap
    where the connection was lost and replaced. It ends after its own aclose(), or the pool's close(). At every moment,
    over all its connections, received = delivered + queued + dropped.
    """

    def __init__(
        self,
        shared: SharedConns,
        lending: Lending,
        channels: Iterable[str],
        capacity: int,
        drop: Drop,
        acquire_timeout: AcquireTimeout,
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
        self._acquire_timeout = acquire_timeout
        self._checkout: Checkout | None = None
        self._task: asyncio.Task[object] | None = None  # that opened it
        self._reopening: asyncio.Task[None] | None = None
        self._failure: PgWireError | None = None
        self._is_open = self._is_over = False

    @property
    def backend_pid(self) -> int | None:
        """The server process that listens; None while there is none."""
        return self._checkout.core.pid if self._checkout is not None else None

    # ---- a connection that listens

    async def __aenter__(self) -> PoolListener:
        if self._is_open:
            raise UsageError(f"{VERB} is open already: make another one")
        self._is_open = True
        self._task = asyncio.current_task()
        self._connections.listens(self._queue)
        timeout = self._acquire_timeout
        limit = self._connections.settings.acquire_timeout if timeout is ... else timeout
        try:
            await self._listen(limit, self._queue)
        except BaseException:
            await self.aclose()
            raise
        return self

    async def _listen(self, limit: float | None, queue: NotificationQueue) -> None:
        """Acquire a connection and LISTEN there, into `queue`. From then on its end calls `_ended`."""
        is_first = queue is self._queue
        checkout = await self._lending.acquire(VERB, self._lending.clock.deadline(limit), 0.0)
        checkout.task = self._task
        core = checkout.core
        try:
            if is_first:
                await self._check_delivery(core)
            core.session.deliver_notifications(queue)
            await core.simple_query("; ".join(f"LISTEN {name}" for name in self._channels), LISTEN_TIMEOUT_SECONDS)
            if core.is_broken:
                raise core.session.refusal()
            if self._is_over:
                raise self._connections.closed()
        except BaseException:
            self._drop(checkout)
            raise
        self._checkout = checkout
        ended = WeakMethod(self._ended)  # a listener that was dropped must not be kept alive by its connection
        checkout.on_end = lambda: method() if (method := ended()) is not None else None

    async def _check_delivery(self, core: Core) -> None:
        """Send a notification and wait for it: a pooler in transaction mode accepts LISTEN, and delivers nothing.

        Another connection sends it if possible: behind such a pooler ours could meet the listening session by chance.
        """
        channel = f"pg_wired_{self._connections.runtime.randomness.randbytes(8).hex()}"
        queue = core.session.notifications
        queue.set_limit(DELIVERY_CAPACITY, "oldest")
        await core.simple_query(f"LISTEN {channel}", LISTEN_TIMEOUT_SECONDS)
        notify = f"NOTIFY {channel}"
        try:
            async with asyncio.timeout(DELIVERY_TIMEOUT_SECONDS):
                try:
                    await self._neighbour(core).simple_query(notify, DELIVERY_TIMEOUT_SECONDS / 2)
                except (ConnectionClosed, OSError):  # lost, or too busy: OSError includes timeouts
                    await core.simple_query(notify)
                await self._arrived(core, channel)
        except TimeoutError:
            raise UsageError(
                f"LISTEN has no effect through {core.address}: a notification of our own did not come back within "
                f"{DELIVERY_TIMEOUT_SECONDS} s, as behind a pooler in transaction mode; "
                "connect to the server itself, or in session mode"
            ) from None
        queue.set_limit(0, "oldest")
        await core.simple_query(f"UNLISTEN {channel}", LISTEN_TIMEOUT_SECONDS)

    def _neighbour(self, core: Core) -> Core:
        """A shared connection to the same server, or else this one."""
        others = [other for other in self._shared.cores if other.address == core.address]
        return others[choose([other.session for other in others])] if others else core

    @staticmethod
    async def _arrived(core: Core, channel: str) -> None:
        queue = core.session.notifications
        while (item := queue.take()) is None or not isinstance(item, Notification) or item.channel != channel:
            if item is None and core.session.failure is not None:
                raise core.session.refusal()
            if item is None:
                await arrival(queue)

    # ---- its loss

    def _ended(self) -> None:
        """The connection is lost, or takes no more requests: make another one."""
        checkout = self._checkout
        if checkout is None:
            return
        self._checkout = None
        before = checkout.core.pid
        self._drop(checkout)
        if self._connections.is_closed:
            self._end()
        else:
            self._reopening = self._connections.run(self._reopen(before))

    async def _reopen(self, before: int | None) -> None:
        """Try again until a connection listens, or the listener is closed."""
        clock = self._connections.clock
        begin = clock.now()
        try:
            while (checkout := self._checkout) is None:
                early = NotificationQueue()
                early.set_limit(self._queue.capacity, self._queue.drop)
                try:
                    await self._listen(None, early)
                except PgWireError as error:
                    LOG.warning("a listener waits for a connection that listens: %s", error)
                    await asyncio.sleep(MAX_DELAY_SECONDS * self._connections.runtime.randomness.random())
        except BaseException as error:
            self._failure = ConnectionClosed(f"the listener was stopped: {type(error).__name__}")
            self._end()
            raise
        gap = ListenerGap(0, clock.now() - begin, before, checkout.core.pid)
        self._queue.reconnected(gap, early)
        checkout.core.session.deliver_notifications(self._queue)

    def _drop(self, checkout: Checkout) -> None:
        """Give up a connection that has listened: it must not be used for anything else."""
        checkout.on_end = None
        if checkout.core.session.notifications is self._queue:
            checkout.core.session.deliver_notifications(NotificationQueue())
        checkout.core.must_not_be_reused()
        self._lending.release(checkout)

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
            await arrival(self._queue)
        return item

    async def __aexit__(self, *exc: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Stop listening, and give the connection up. Idempotent."""
        self._end()
        task = self._reopening
        if task is not None and task is not asyncio.current_task():
            task.cancel()
            await asyncio.wait([task])

    def _end(self) -> None:
        if self._is_over:
            return
        self._is_over = True
        checkout, self._checkout = self._checkout, None
        if checkout is not None:
            self._drop(checkout)
        self._connections.stops_listening(self._queue)
        self._queue.wake()

    def __del__(self) -> None:
        if "_is_over" in self.__dict__ and self._checkout is not None and self._connections.owner.has_loop:
            self._connections.owner.run(self._end)
