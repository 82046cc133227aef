"""The connections of a pool: made one attempt at a time, probed while they are idle, and closed in order."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable
from contextlib import suppress
from inspect import isawaitable
from typing import Any

from ..client.core import Core
from ..config.config import ConnConfig
from ..connect.wire_conn import WireConn, connector
from ..errors import ConnectionClosed, Outcome, PgWireError, RequestTimeout
from ..loop.clock import seconds
from ..loop.owner import Owner
from ..loop.runtime import Runtime
from ..protocol.rows import Rows
from ..session.notification_queue import NotificationQueue
from ..session.session import Reason
from .backoff import Backoff
from .settings import PoolSettings

LOG = logging.getLogger("pg_wired.pool")

# Time for on_connect where connect_timeout sets no limit: the default of that.
SETUP_TIMEOUT_SECONDS = 10.0
# Time between looks at a connection whose waiting requests may have been cancelled, and which is no longer wanted.
DRAIN_CHECK_SECONDS = 0.5
# Time for the server to close it then.
CLOSE_TIMEOUT_SECONDS = 10.0
# Time for the answer of an idle server to an empty query.
PROBE_TIMEOUT_SECONDS = 5.0
# Values of target_session_attrs that ask for a server which takes writes.
WRITABLE_SESSION_ATTRS = ("read-write", "primary")


class Totals:
    """Sums over connections."""

    def __init__(self) -> None:
        self.requests = 0
        self.writes = 0
        self.bytes_in = 0
        self.bytes_out = 0

    def add(self, core: Core) -> None:
        """Add what one connection has done so far."""
        self.requests += core.session.numbers
        self.writes += core.transport.writes
        self.bytes_in += core.transport.bytes_in
        self.bytes_out += core.session.handed

    def copy(self) -> Totals:
        """The same sums, to be added to."""
        twin = Totals()
        twin.__dict__.update(self.__dict__)
        return twin


class Connections:
    """Every open connection of a pool. One attempt to connect runs at a time, so that a server can recover.

    `wrap` makes the AsyncConn of a WireConn, and returns its core, too. `conns` has both.
    """

    def __init__(
        self,
        owner: Owner,
        loop: asyncio.AbstractEventLoop,
        config: ConnConfig,
        settings: PoolSettings,
        runtime: Runtime,
        wrap: Callable[[WireConn], tuple[Core, Any]],
    ) -> None:
        self.owner = owner
        self.loop = loop
        self.clock = runtime.clock(loop)
        self.runtime = runtime
        self.settings = settings
        self.connects = 0
        self.failures = 0
        self.last_failure: BaseException | None = None
        self.conns: dict[Core, Any] = {}
        self.tasks: set[asyncio.Task[None]] = set()  # cancelled when the pool ends
        self._closing: set[asyncio.Task[None]] = set()
        self._past = Totals()
        self._past_dropped = 0
        self._listening: set[NotificationQueue] = set()  # these go from one connection to the next
        self.is_closed = False
        self._config = config
        self._wrap = wrap
        self._connector = connector(config, runtime)
        self._must_write = config.target_session_attrs in WRITABLE_SESSION_ATTRS
        self._backoff = Backoff(runtime.randomness.random)
        self._gate = asyncio.Lock()

    # ---- connecting

    async def open(self, begins: Callable[[], None] | None = None) -> Core:
        """One more connection, set up. Raises the error of the attempt, or the exception of on_connect."""
        async with self._gate:
            delay = self._backoff.delay(self.clock.now())
            if delay:
                await asyncio.sleep(delay)
            if begins is not None:
                begins()
            try:
                core = await self._connect()
            except Exception as error:
                self.failures += 1
                self.last_failure = error
                self._backoff.failed(self.clock.now())
                LOG.warning("cannot connect: %s", error)
                raise
            self.connects += 1
            self._backoff.succeeded()
            return core

    async def _connect(self) -> Core:
        core, conn = self._wrap(await self._connector.connect())
        self.conns[core] = conn
        core.transport.closed.add_done_callback(lambda _: self._closed(core))
        if self.settings.on_connect is not None:
            core.mark_set_up()
        try:
            await self.set_up(core)
            if not core.is_alive:
                raise core.session.refusal()
        except BaseException:
            core.abort()
            raise
        if self._must_write:
            core.session.require_writes()
        return core

    def late(self, timeout: float | None) -> RequestTimeout:
        """Why there is no connection after `timeout` seconds."""
        return self._connector.failures.late(timeout)

    async def set_up(self, core: Core) -> None:
        """Run on_connect. Raises its exception, and RequestTimeout if it takes too long."""
        if self.settings.on_connect is None:
            return
        limit = self._config.connect_timeout or SETUP_TIMEOUT_SECONDS
        try:
            async with asyncio.timeout(limit) as scope:
                setting_up = self.settings.on_connect(self.conns[core])
                if not isawaitable(setting_up):
                    raise TypeError(f"on_connect returned {type(setting_up).__name__}: make it `async def`")
                await setting_up
        except TimeoutError as error:
            if not scope.expired():
                raise
            raise RequestTimeout(f"on_connect took more than {limit} s", Outcome.NOT_SENT) from error

    def lifetime(self) -> float:
        """Seconds that a new connection may live; up to a tenth less than the limit, so that not all end at once."""
        longest = self.settings.max_lifetime
        return float("inf") if longest is None else longest * (1 - 0.1 * self.runtime.randomness.random())

    # ---- losing

    def _closed(self, core: Core) -> None:
        self.conns.pop(core, None)
        self._past.add(core)
        if core.session.notifications not in self._listening:
            self._past_dropped += core.session.notifications.dropped

    def ended(self, core: Core, what: str) -> None:
        """A connection takes no more requests; it may still have answers to give."""
        if self.is_closed:
            return
        session = core.session
        LOG.warning("%s %s (pid %s) is gone: %s", what, core.address, core.pid, session.failure or _why(core))
        now = self.clock.now()
        self._backoff.ended(now, now - core.born)
        if session.reason is Reason.READ_ONLY:
            self._eject(core.address)

    def _eject(self, address: str) -> None:
        """A server that refuses to write is the wrong one: none of its connections takes further requests.

        All of them are drained and out of the way before a request of one moves: it must not move to another connection
        to this server.
        """
        others = [core for core in self.conns if core.address == address and core.is_alive]
        for core in others:
            core.session.drain(Reason.READ_ONLY)
        for core in others:
            core.session.tell_supervisor()
        for core in others:
            core.session.retire(Reason.READ_ONLY)

    def close_when_drained(self, core: Core) -> None:
        """Close a connection when all its requests are answered, however long that takes."""
        if not core.transport.is_closed:
            self._start(self._drain(core), self._closing)

    @staticmethod
    async def _drain(core: Core) -> None:
        session, transport = core.session, core.transport
        if session.reason is None:
            session.drain(Reason.REPLACED)
        while (session.waiting() or session.window is not None) and not transport.is_closed:
            answered: asyncio.Future[None] = core.loop.create_future()
            session.tell_when_answered(answered)
            await asyncio.wait([answered], timeout=DRAIN_CHECK_SECONDS)  # a cancelled request is not answered
            answered.cancel()
        try:
            await core.close(CLOSE_TIMEOUT_SECONDS)
        except PgWireError as error:
            LOG.warning("a connection to %s did not end by itself: %s", core.address, error)

    # ---- tasks of the pool

    def run(self, work: Coroutine[object, object, None]) -> asyncio.Task[None]:
        """Start a task of the pool, which is cancelled when the pool ends."""
        return self._start(work, self.tasks)

    def _start(self, work: Coroutine[object, object, None], tasks: set[asyncio.Task[None]]) -> asyncio.Task[None]:
        task = self.loop.create_task(work)
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        return task

    # ---- counters

    def totals(self) -> Totals:
        """Sums over all connections, past and present."""
        sums = self._past.copy()
        for core in self.conns:
            sums.add(core)
        return sums

    @property
    def dropped_notifications(self) -> int:
        """Over all connections, past and present."""
        queues = {core.session.notifications for core in self.conns} | self._listening
        return self._past_dropped + sum(queue.dropped for queue in queues)

    def listens(self, queue: NotificationQueue) -> None:
        """A listener's queue goes from one connection to the next: count it once."""
        self._listening.add(queue)

    def stops_listening(self, queue: NotificationQueue) -> None:
        """A listener has ended: keep what its queue has dropped."""
        self._listening.discard(queue)
        self._past_dropped += queue.dropped

    # ---- the end

    def closed(self) -> ConnectionClosed:
        """The error that says why no more requests are taken."""
        return ConnectionClosed("the pool was closed: make another one", Outcome.NOT_SENT)

    async def finish(self, timeout: float) -> int:
        """Close all connections once all is answered; returns how many had unanswered requests after `timeout` s."""
        limit = seconds(timeout)
        end = None if limit is None else self.clock.now() + limit
        self._cancel()
        unanswered = 0

        async def close(core: Core) -> None:
            nonlocal unanswered
            try:
                await core.close(timeout)
            except RequestTimeout:
                unanswered += 1

        await asyncio.gather(*[close(core) for core in self.conns])
        others = (self.tasks | self._closing) - {asyncio.current_task()}
        if others:
            await asyncio.wait(others, timeout=None if end is None else max(0, end - self.clock.now()))
        return unanswered

    def _cancel(self) -> None:
        me = asyncio.current_task()
        for task in self.tasks:
            if task is not me:
                task.cancel()

    def close(self) -> None:
        """Make no more connections."""
        self.is_closed = True

    def abort(self) -> None:
        """End everything at once."""
        self.close()
        if self.owner.has_loop:
            for task in self.tasks | self._closing:
                task.cancel()
        for core in list(self.conns):
            core.abort()


def _why(core: Core) -> str:
    session = core.session
    if session.reason is Reason.SERVER_ENDS:
        return str(session.refusal())
    return session.reason_text or "it was marked as broken"


class Probes:
    """Every `interval` seconds each idle one of `cores` gets an empty query. One that does not answer is ended.

    A probe is a request of its own on each connection, so it delays no other request.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, interval: float | None, cores: Callable[[], Iterable[Core]]
    ) -> None:
        self._loop = loop
        self._interval = interval
        self._cores = cores
        self._timer: asyncio.TimerHandle | None = None
        self._start()

    def _start(self) -> None:
        if self._interval is not None:
            self._timer = self._loop.call_later(self._interval, self._look)

    def stop(self) -> None:
        """Send no more probes."""
        if self._timer is not None:
            self._timer.cancel()

    def _look(self) -> None:
        for core in list(self._cores()):
            session = core.session
            is_busy = session.inflight or session.pending or session.holds or session.window is not None
            if core.is_alive and not is_busy:
                self._ask(core)
        self._start()

    @staticmethod
    def _ask(core: Core) -> None:
        def answered(reply: asyncio.Future[list[Rows]]) -> None:
            error = None if reply.cancelled() else reply.exception()
            if isinstance(error, RequestTimeout):
                text = "%s (pid %s) did not answer within %s s"
                LOG.warning(text, core.address, core.pid, PROBE_TIMEOUT_SECONDS)
                core.give_up()

        with suppress(PgWireError):  # it ends just now, and says so itself
            core.simple_query("", PROBE_TIMEOUT_SECONDS).add_done_callback(answered)
