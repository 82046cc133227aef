"""AsyncPool: many tasks, few connections. Requests share lanes; what needs a connection for itself is lent one."""

from __future__ import annotations

import asyncio
import random as randomness
import warnings
from collections.abc import Callable, Iterable
from itertools import chain
from typing import TYPE_CHECKING, Any, NoReturn

from ..client.async_conn import AsyncConn
from ..client.lease import AcquireTimeout
from ..client.queries import Queries
from ..config.config import ConnConfig
from ..errors import RequestTimeout
from ..loop.owner import Owner
from ..session.notification_queue import Drop
from ..session.session import choose
from .connections import Connections
from .lending import Lending
from .lent_turn import PoolLease
from .listener import PoolListener
from .pool_stats import PoolStats
from .probe import Probe
from .settings import OnConnect, PoolSettings, WhenDown, check_count
from .shared import SharedConns

if TYPE_CHECKING:
    from ..client.exclusive import ExclusiveConn

# Requests, and verbs, that may wait: a few megabytes of objects.
MAX_WAITING_REQUESTS = 10_000
# Seconds. What a server keeps for a session grows with its age; an idle one costs it memory.
MAX_LIFETIME_SECONDS = 3600.0
MAX_IDLE_SECONDS = 300.0
PROBE_INTERVAL_SECONDS = 30.0


class AsyncPool(Queries):
    """`async with await AsyncPool.connect(dsn) as pool`: the query methods of AsyncConn, over several connections.

    Requests go to the shared connection with the least to do. `exclusive`, `stream`, `copy_*`, `pipeline` and
    `listener` borrow a connection of their own; PoolExhausted says who has them. What is lost is made anew; a request
    of which nothing had left moves to another connection by itself, once, and nothing else is ever repeated. All
    methods raise UsageError from another thread, loop or process, and ConnectionClosed behind close().
    """

    def __init__(self, config: ConnConfig, settings: PoolSettings | None = None) -> None:
        if settings is None:
            raise TypeError("a pool is made by `await AsyncPool.connect(dsn)`")
        loop = asyncio.get_running_loop()
        self._owner = Owner(loop, "pool")
        self._connections = Connections(self._owner, loop, config, settings.checked())
        self._shared = SharedConns(self._connections)
        self._lending = lending = Lending(self._connections)
        super().__init__(self._shared, lambda name, has_state: PoolLease(lending, name, has_state))
        shared = self._shared
        self._probe = Probe(
            loop, settings.probe_interval, lambda: chain(shared.conns, [lent.conn for lent in lending.idle])
        )

    @classmethod
    async def connect(
        cls,
        dsn: str | ConnConfig = "",
        *,
        timeout: float | None = None,
        size: int = 4,
        max_exclusive: int | None = None,
        acquire_timeout: float | None = 30.0,
        max_waiting: int = MAX_WAITING_REQUESTS,
        when_down: WhenDown = "wait",
        max_lifetime: float | None = MAX_LIFETIME_SECONDS,
        max_idle: float | None = MAX_IDLE_SECONDS,
        probe_interval: float | None = PROBE_INTERVAL_SECONDS,
        on_connect: OnConnect | None = None,
        random: Callable[[], float] = randomness.random,
        **options: Any,
    ) -> AsyncPool:
        """`size` shared connections, and up to `max_exclusive` (else `size`) to be lent; times are seconds.

        `dsn` and `options` as `ConnConfig.parse` takes them. Raises what the first connection fails with, and
        RequestTimeout if it is not up in `timeout`; others are made in the background once they have failed or that
        time is over. `on_connect` is awaited with each new connection.
        """
        config = ConnConfig.of(dsn, **options)
        exclusive = size if max_exclusive is None else max_exclusive
        settings = PoolSettings(
            size,
            exclusive,
            acquire_timeout,
            max_waiting,
            when_down,
            max_lifetime,
            max_idle,
            probe_interval,
            on_connect,
            random,
        )
        pool = cls(config, settings)
        try:
            await pool._shared.connect(timeout)
        except BaseException:
            pool.abort()
            raise
        return pool

    def get(self) -> AsyncConn:
        """The shared connection with the least to do, where a pool has no method; ConnectionClosed if none is up.

        Others use it at the same time, and it ends some day: do not keep it.
        """
        self._owner.check()
        if self._connections.is_closed:
            raise self._connections.closed()
        if not self._shared.conns:
            raise self._shared.down()
        return self._shared.conns[choose(self._shared.sessions)]

    def exclusive(self, *, acquire_timeout: AcquireTimeout = ...) -> ExclusiveConn:
        """A connection for you alone: `async with pool.exclusive() as mine`, for transactions and session state.

        Raises PoolExhausted if none is free within `acquire_timeout` seconds.
        """
        from ..client.exclusive import ExclusiveConn

        return ExclusiveConn(self._new_lease("exclusive()", True), acquire_timeout)

    def listener(
        self,
        channels: Iterable[str],
        *,
        capacity: int = 4096,
        drop: Drop = "oldest",
        acquire_timeout: AcquireTimeout = ...,
    ) -> PoolListener:
        """Notifications of `channels`, on a connection of its own that is made anew when it is lost.

        Of more than `capacity` that wait, the `drop` ones are lost. UsageError, at its beginning, where LISTEN has no
        effect, as behind a pooler in transaction mode.
        """
        return PoolListener(self._shared, self._lending, channels, capacity, drop, acquire_timeout)

    # ---- state

    @property
    def size(self) -> int:
        """Shared connections it is to have."""
        return len(self._shared.slots)

    @property
    def alive_count(self) -> int:
        """Shared connections that take requests."""
        return len(self._shared.conns)

    def resize(self, size: int) -> None:
        """Have so many shared connections from now on; those that go finish what they have."""
        self._owner.check()
        check_count("size", size, 1)
        if self._connections.is_closed:
            raise self._connections.closed()
        self._shared.resize(size)

    def stats(self) -> PoolStats:
        """A snapshot; it costs a few microseconds for each connection."""
        shared, lending, connections = self._shared, self._lending, self._connections
        totals = connections.totals()
        return PoolStats(
            size=self.size,
            alive=self.alive_count,
            in_flight=sum(len(session.waiting()) for session in shared.sessions),
            waiting=len(shared.waiting) + len(lending.waiters),
            lent=len(lending.out),
            idle=len(lending.idle),
            opening=lending.opening,
            connects=connections.connects,
            connect_failures=connections.failures,
            moved=shared.moved,
            requests=totals.requests,
            writes=totals.writes,
            bytes_in=totals.bytes_in,
            bytes_out=totals.bytes_out,
            longest_wait=lending.longest_wait,
            dropped_notifications=connections.dropped_notifications,
        )

    # ---- the end

    async def close(self, timeout: float = 10.0) -> None:
        """Take no more, wait for what is submitted and lent, say Terminate, wait for the end. Idempotent.

        What the calling task has borrowed is not waited for, but ended. After `timeout` seconds everything is closed at
        once; RequestTimeout if requests were unanswered then.
        """
        self._owner.check()
        self._stop()
        me = asyncio.current_task()
        for lent in list(self._lending.out):  # whose end may take others with it
            if lent.task is me:
                lent.conn.abort()
        try:
            unanswered = await self._connections.finish(timeout)
        finally:
            self._connections.abort()
        if unanswered:
            raise RequestTimeout(f"close() gave up on {unanswered} connections with unanswered requests")

    def abort(self) -> None:
        """Close everything at once: whoever waits is told. Idempotent. UsageError while the loop runs elsewhere."""
        if self._connections.conns or self._connections.tasks or not self._connections.is_closed:
            self._owner.check_thread()
        self._stop()
        self._connections.abort()

    def _stop(self) -> None:
        self._connections.is_closed = True
        self._probe.stop()
        self._shared.close()
        self._lending.close(self._connections.closed())

    async def __aenter__(self) -> AsyncPool:
        return self

    async def __aexit__(self, kind: object, *exc: object) -> None:
        """An exception of the block waits for no answers, and is not replaced: what is unanswered then is ended."""
        if kind is not None and (self._lending.out or any(session.waiting() for session in self._shared.sessions)):
            try:
                await asyncio.gather(*[conn._core.part() for conn in self._connections.conns])
            finally:
                self.abort()
        await self.close()

    def __reduce__(self) -> NoReturn:
        raise TypeError("an AsyncPool cannot be pickled: its sockets belong to this process; connect in each one")

    def __del__(self, _warn: Any = warnings.warn) -> None:
        connections = self.__dict__.get("_connections")
        if connections is None or connections.is_closed or not (connections.conns or connections.tasks):
            return
        _warn(f"unclosed {self!r}: close() it, or use `async with`", ResourceWarning, source=self)
        self._owner.run(self.abort)

    def __repr__(self) -> str:
        state = "closed" if self._connections.is_closed else f"alive={self.alive_count}"
        return f"<AsyncPool size={self.size} {state} lent={len(self._lending.out)}>"
