"""AsyncPool: many tasks, few connections. Requests share connections; a verb that needs one alone acquires it."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Iterable
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from ..client.async_conn import AsyncConn, core_of
from ..client.core import Core
from ..client.lease import AcquireTimeout
from ..client.queries import Queries
from ..config.config import ConnConfig
from ..connect.wire_conn import WireConn
from ..errors import RequestTimeout
from ..loop.owner import Owner
from ..loop.runtime import SYSTEM, Runtime
from ..session.notification_queue import Drop
from ..session.session import choose
from .connections import Connections, Probes
from .lending import Lending, PoolLease
from .listener import PoolListener
from .settings import OnConnect, PoolSettings, WhenDown, check_count
from .shared import SharedConns

if TYPE_CHECKING:
    from ..client.exclusive import ExclusiveConn

# Requests, and verbs, that may wait: a few megabytes of objects.
MAX_WAITING_REQUESTS = 10_000
# The memory that a server uses for a session grows with its age.
MAX_LIFETIME_SECONDS = 3600.0
# An idle session costs a server memory.
MAX_IDLE_SECONDS = 300.0
PROBE_INTERVAL_SECONDS = 30.0


class PoolStats(NamedTuple):
    """A pool at one moment. Counters run from its beginning, over all connections it ever had."""

    size: int  # shared connections it is to have
    alive: int  # shared connections that take requests
    in_flight: int  # shared requests that are submitted and not answered
    waiting: int  # requests that wait for a shared connection to come up, and verbs that wait for one of their own
    lent: int  # connections that are checked out, or being cleaned
    idle: int  # connections that wait to be checked out
    opening: int  # connections being made
    connects: int
    connect_failures: int
    moved: int  # requests that moved from a lost connection to another one, unsent
    requests: int  # all that were encoded, the library's own included
    writes: int  # requests / writes shows how well requests share writes
    bytes_in: int
    bytes_out: int
    longest_wait: float  # seconds that a verb has waited for a connection
    dropped_notifications: int


def _wrap(wire: WireConn) -> tuple[Core, AsyncConn]:
    conn = AsyncConn(wire)
    return core_of(conn), conn


class AsyncPool(Queries):
    """`async with await AsyncPool.connect(dsn) as pool`: the query methods of AsyncConn, over several connections.

    Requests go to the shared connection with the least to do. `exclusive`, `stream`, `copy_*`, `pipeline` and
    `listener` acquire a connection of their own; PoolExhausted names the tasks that have them. Lost connections are
    replaced. A request of which nothing was sent moves to another connection, once; nothing else is ever repeated. All
    methods raise UsageError from another thread, loop or process, and ConnectionClosed after close().
    """

    def __init__(self, config: ConnConfig, settings: PoolSettings | None = None, runtime: Runtime = SYSTEM) -> None:
        if settings is None:
            raise TypeError("a pool is made by `await AsyncPool.connect(dsn)`")
        loop = asyncio.get_running_loop()
        self._owner = Owner(loop, "pool")
        self._connections = Connections(self._owner, loop, config, settings.checked(), runtime, _wrap)
        self._shared = shared = SharedConns(self._connections)
        self._lending = lending = Lending(self._connections)
        super().__init__(shared, lambda name, has_state: PoolLease(lending, name, has_state))
        self._probes = Probes(
            loop, settings.probe_interval, lambda: chain(shared.cores, [checkout.core for checkout in lending.idle])
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
        **options: Any,
    ) -> AsyncPool:
        """Connect `size` shared connections; up to `max_exclusive` more (default: `size`) are opened on demand.

        `dsn` and `options` are those of `ConnConfig.parse`. `acquire_timeout`, `max_lifetime`, `max_idle` and
        `probe_interval` are in seconds, None for no limit. `max_waiting` is how many requests may wait while no
        connection is up; with `when_down="fail"` they fail at once instead. `on_connect` is awaited with each new
        connection. Raises the error of the first connection, or RequestTimeout if that is not up within `timeout`
        seconds; the others are made in the background if they fail or that time is over.
        """
        runtime = options.pop("_runtime", SYSTEM)
        config = ConnConfig.of(dsn, **options)
        settings = PoolSettings(
            size,
            size if max_exclusive is None else max_exclusive,
            acquire_timeout,
            max_waiting,
            when_down,
            max_lifetime,
            max_idle,
            probe_interval,
            on_connect,
        )
        pool = cls(config, settings, runtime)
        try:
            await pool._shared.connect(timeout)
        except BaseException:
            pool.abort()
            raise
        return pool

    def get(self) -> AsyncConn:
        """The shared connection with the least to do, for what a pool has no method for.

        Other tasks use it at the same time, and it ends some day: do not keep it. ConnectionClosed if none is up.
        """
        self._owner.check()
        if self._connections.is_closed:
            raise self._connections.closed()
        if not self._shared.cores:
            raise self._shared.down()
        conn: AsyncConn = self._connections.conns[self._shared.cores[choose(self._shared.sessions)]]
        return conn

    def exclusive(self, *, acquire_timeout: AcquireTimeout = ...) -> ExclusiveConn:
        """A connection for the caller alone: `async with pool.exclusive() as mine`, for transactions and state.

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
        """The notifications of `channels`, on a connection of its own that is replaced when it is lost.

        It keeps at most `capacity` notifications; when it is full, the `drop` ("oldest" or "newest") one is dropped.
        Entering it raises UsageError where LISTEN has no effect, as behind a pooler in transaction mode, and
        PoolExhausted if no connection is free within `acquire_timeout` seconds.
        """
        return PoolListener(self._shared, self._lending, channels, capacity, drop, acquire_timeout)

    # ---- state

    @property
    def size(self) -> int:
        """The number of shared connections it is to have."""
        return len(self._shared.slots)

    @property
    def alive_count(self) -> int:
        """The number of shared connections that take requests."""
        return len(self._shared.cores)

    def resize(self, size: int) -> None:
        """Have `size` shared connections from now on. Surplus ones finish what they have."""
        self._owner.check()
        check_count("size", size, 1)
        if self._connections.is_closed:
            raise self._connections.closed()
        self._shared.resize(size)

    def stats(self) -> PoolStats:
        """A snapshot. It costs a few microseconds for each connection."""
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
        """Take no more requests, wait for those submitted and for checked out connections, then close. Idempotent.

        Connections that the calling task has are not waited for, but ended. After `timeout` seconds everything is
        closed at once; RequestTimeout if requests were unanswered then.
        """
        self._owner.check()
        self._stop()
        me = asyncio.current_task()
        for checkout in list(self._lending.out):  # the end of one may end others
            if checkout.task is me:
                checkout.core.abort()
        try:
            unanswered = await self._connections.finish(timeout)
        finally:
            self._connections.abort()
        if unanswered:
            raise RequestTimeout(f"close() gave up on {unanswered} connections with unanswered requests")

    def abort(self) -> None:
        """Close everything at once: all waiting requests fail. Idempotent. UsageError while the loop runs elsewhere."""
        if self._connections.conns or self._connections.tasks or not self._connections.is_closed:
            self._owner.check_thread()
        self._stop()
        self._connections.abort()

    def _stop(self) -> None:
        self._connections.close()
        self._probes.stop()
        self._shared.close()
        self._lending.close(self._connections.closed())

    async def __aenter__(self) -> AsyncPool:
        return self

    async def __aexit__(self, kind: object, *exc: object) -> None:
        """After an exception no answers are waited for: the servers are asked to stop, and the exception is kept."""
        if kind is not None and (self._lending.out or any(session.waiting() for session in self._shared.sessions)):
            try:
                await asyncio.gather(*[core.part() for core in self._connections.conns])
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
