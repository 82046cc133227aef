"""Connections of a pool for one owner at a time: opened on demand, kept open, acquired in order."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any

from ..client.core import Core
from ..client.lease import AcquireTimeout, Lease
from ..errors import ConnectionClosed, Outcome, PgWireError, PoolExhausted, RequestTimeout
from ..loop.clock import sooner
from ..protocol.types import TransactionStatus
from ..session.request import Request
from .connections import LOG, Connections

# How many holders an error names.
MAX_NAMED_HOLDERS = 10


class Checkout:
    """One connection and its present holder: the supervisor of its session."""

    def __init__(self, lending: Lending, core: Core) -> None:
        self.core = core
        self.expires = core.born + lending.connections.lifetime()
        self.timer: asyncio.TimerHandle | None = None
        self.verb = ""
        self.since = 0.0
        self.task: asyncio.Task[Any] | None = None
        self.on_end: Callable[[], None] | None = None
        self.is_over = False  # its end is known
        self.is_set_up = True
        self._lending = lending

    def ended(self) -> None:
        """It takes no more requests. Its holder releases it all the same."""
        self._lending.ended(self)
        if self.on_end is not None:
            self.on_end()

    def unsent(self, request: Request) -> bool:
        """Requests of a holder never move to another connection."""
        return False

    def holder(self, now: float) -> str:
        """Who has it, in which verb, and for how long."""
        who = f"task {self.task.get_name()!r}" if self.task is not None else "no task any more"
        return f"{who} in {self.verb} for {now - self.since:.1f} s"


class Waiter:
    """A task that waits for a connection."""

    def __init__(self, loop: asyncio.AbstractEventLoop, now: float, verb: str) -> None:
        self.future: asyncio.Future[Checkout] = loop.create_future()
        self.since = now
        self.verb = verb


class Lending:
    """At most `max_exclusive` connections: idle, checked out, being made, or being closed."""

    def __init__(self, connections: Connections) -> None:
        self.connections = connections
        self.clock = connections.clock
        self.loop = connections.loop
        self.limit = connections.settings.max_exclusive
        self.idle: list[Checkout] = []
        self.out: set[Checkout] = set()  # with a holder, or being cleaned
        self._opening: set[asyncio.Task[None]] = set()
        self.leaving = 0  # closing, and not closed yet
        self.waiters: deque[Waiter] = deque()
        self._longest_wait = 0.0

    @property
    def opening(self) -> int:
        """How many are being made."""
        return len(self._opening)

    @property
    def in_use(self) -> int:
        """How many count towards the limit."""
        return len(self.idle) + len(self.out) + self.opening + self.leaving

    @property
    def longest_wait(self) -> float:
        """The longest time in seconds that a task has waited so far, those that still wait included."""
        now = self.clock.now()
        return max(self._longest_wait, *(now - waiter.since for waiter in self.waiters), 0.0)

    # ---- acquiring

    async def acquire(self, verb: str, latest: float, deadline: float) -> Checkout:
        """A connection for the current task, in order. PoolExhausted at `latest`, RequestTimeout at `deadline`."""
        self.connections.owner.check()
        if self.connections.is_closed:
            raise self.connections.closed()
        if self.idle and not self.waiters:
            return self._check_out(self.idle.pop(), verb)
        end = sooner(latest, deadline)
        self._check_wait(verb, end, deadline)
        waiter = Waiter(self.loop, self.clock.now(), verb)
        timer = self.loop.call_at(end, self._give_up, waiter, end == deadline) if end else None
        self.waiters.append(waiter)
        self.grow()
        try:
            return await waiter.future
        except BaseException:
            if waiter.future.done() and not waiter.future.cancelled() and waiter.future.exception() is None:
                self.release(waiter.future.result())  # it was handed over in the iteration of the cancelling
            elif waiter in self.waiters:
                self.waiters.remove(waiter)
            raise
        finally:
            if timer is not None:
                timer.cancel()
            self._longest_wait = max(self._longest_wait, self.clock.now() - waiter.since)

    def _check_wait(self, verb: str, end: float, deadline: float) -> None:
        """Refuse at once a wait for nothing, behind too many others, or without any time."""
        if not self.limit:
            raise PoolExhausted(f"{verb} needs a connection of its own, and max_exclusive is 0", Outcome.NOT_SENT)
        to_come = self.limit - len(self.out) - self.leaving  # a connection that is opened for a waiter is no queue
        if len(self.waiters) >= self.connections.settings.max_waiting + to_come:
            raise self._exhausted(f"{len(self.waiters)} wait already (max_waiting)")
        if deadline < 0:
            raise RequestTimeout("the timeout is 0", Outcome.NOT_SENT)
        if end < 0:
            raise self._exhausted("none is free, and acquire_timeout is 0")

    def _give_up(self, waiter: Waiter, is_deadline: bool) -> None:
        if waiter.future.done():
            return
        if is_deadline:
            text = f"the request's deadline has passed: no connection was free for {waiter.verb}"
            waiter.future.set_exception(RequestTimeout(text, Outcome.NOT_SENT))
        else:
            seconds = self.clock.now() - waiter.since
            waiter.future.set_exception(self._exhausted(f"no connection for {waiter.verb} within {seconds:.1f} s"))

    def _check_out(self, checkout: Checkout, verb: str) -> Checkout:
        if checkout.timer is not None:
            checkout.timer.cancel()
        checkout.verb, checkout.since = verb, self.clock.now()
        self.out.add(checkout)
        return checkout

    # ---- releasing

    def release(self, checkout: Checkout) -> None:
        """The holder is done, and left the connection clean, or broken."""
        self.out.discard(checkout)
        checkout.task, checkout.on_end = None, None
        self._offer(checkout)

    def release_to_set_up(self, checkout: Checkout) -> None:
        """The same, but the settings of on_connect were reset: run that again first."""
        if self.connections.settings.on_connect is None or checkout.core.is_broken or self.connections.is_closed:
            self.release(checkout)
        else:
            checkout.is_set_up = False
            self.connections.run(self._set_up(checkout)).add_done_callback(lambda _: self._abandoned(checkout))

    async def _set_up(self, checkout: Checkout) -> None:
        try:
            await self.connections.set_up(checkout.core)
        except Exception as error:  # also that of on_connect
            LOG.warning("on_connect failed after a reset: %s", error)
            checkout.core.abort()
        except BaseException:
            checkout.core.abort()
            raise
        finally:
            checkout.is_set_up = True
            self.release(checkout)

    def _abandoned(self, checkout: Checkout) -> None:
        """The task may have been cancelled before its first step."""
        if not checkout.is_set_up:
            checkout.is_set_up = True
            checkout.core.abort()
            self.release(checkout)

    def _offer(self, checkout: Checkout) -> None:
        """Give a connection to the first waiter, or keep it idle."""
        if checkout.core.is_broken or self.connections.is_closed or checkout.expires <= self.clock.now():
            self._discard(checkout)
            return
        while self.waiters:
            waiter = self.waiters.popleft()
            if not waiter.future.done():
                self.out.add(checkout)
                checkout.verb, checkout.since = waiter.verb, self.clock.now()
                waiter.future.set_result(checkout)
                return
        self.idle.append(checkout)
        longest = self.connections.settings.max_idle
        end = min(checkout.expires, float("inf") if longest is None else self.clock.now() + longest)
        if end != float("inf"):
            checkout.timer = self.loop.call_at(end, self._retire, checkout)

    def _retire(self, checkout: Checkout) -> None:
        """It was idle for too long, or is too old."""
        self.idle.remove(checkout)
        self._discard(checkout)

    def _discard(self, checkout: Checkout) -> None:
        checkout.is_over = True
        transport = checkout.core.transport
        if not transport.is_closed:
            self.leaving += 1
            transport.closed.add_done_callback(self._left)
            self.connections.close_when_drained(checkout.core)
        self.grow()

    def _left(self, _: object) -> None:
        self.leaving -= 1
        self.grow()

    def ended(self, checkout: Checkout) -> None:
        """The connection was lost or retired."""
        if checkout.is_over:
            return
        checkout.is_over = True
        if checkout in self.idle:
            self.idle.remove(checkout)
            if checkout.timer is not None:
                checkout.timer.cancel()
            self._discard(checkout)
        self.connections.ended(checkout.core, "a lent connection to")

    # ---- more connections

    def grow(self) -> None:
        """Open connections for the waiters, as far as the limit allows."""
        room = self.limit - self.in_use
        if self.connections.is_closed or room <= 0:  # before all waiters are looked at
            return
        wanted = sum(not waiter.future.done() for waiter in self.waiters) - self.opening
        for _ in range(min(wanted, room)):
            task = self.connections.run(self._open())
            self._opening.add(task)
            task.add_done_callback(self._opened)

    def _opened(self, task: asyncio.Task[None]) -> None:
        """The task has made no connection: it failed, no waiter was left, or it was cancelled."""
        if task in self._opening:
            self._opening.discard(task)
            self.loop.call_soon(self.grow)

    async def _open(self) -> None:
        while self._first_waiter() is not None:
            try:
                core = await self.connections.open()
            except Exception as error:  # also that of on_connect
                self._report(error)
                continue
            me = asyncio.current_task()
            assert me is not None  # it has a task of its own
            self._opening.discard(me)
            checkout = Checkout(self, core)
            core.session.supervise(checkout)
            self._offer(checkout)
            return

    def _first_waiter(self) -> Waiter | None:
        return next((waiter for waiter in self.waiters if not waiter.future.done()), None)

    def _report(self, cause: Exception) -> None:
        """An attempt has failed: the waiters go on waiting, or with when_down="fail" the first of them fails."""
        waiter = self._first_waiter()
        if self.connections.settings.when_down == "fail" and waiter is not None:
            error = ConnectionClosed(f"no connection for {waiter.verb}: {cause}", Outcome.NOT_SENT)
            error.__cause__ = cause
            waiter.future.set_exception(error)

    def _exhausted(self, what: str) -> PoolExhausted:
        now = self.clock.now()
        holders = sorted(self.out, key=lambda checkout: checkout.since)
        names = [checkout.holder(now) for checkout in holders[:MAX_NAMED_HOLDERS]]
        names += ["..."] * (len(holders) > MAX_NAMED_HOLDERS)
        error = PoolExhausted(
            f"{what}: {len(self.out)} of {self.limit} are lent, {self.opening} are being opened, "
            f"{len(self.waiters)} wait; held by: {'; '.join(names) or 'no task'}",
            Outcome.NOT_SENT,
        )
        error.__cause__ = None if self.out else self.connections.last_failure
        return error

    def close(self, error: PgWireError) -> None:
        """Give out no more connections: the waiters fail with `error`."""
        for waiter in self.waiters:
            if not waiter.future.done():
                waiter.future.set_exception(error.with_outcome(Outcome.NOT_SENT))
        for checkout in self.idle:
            if checkout.timer is not None:
                checkout.timer.cancel()
        self.idle.clear()


class PoolLease(Lease):
    """A lease on a connection that is acquired when it begins, and released clean when it ends.

    There are no other requests on the connection, so its window opens at once.
    """

    def __init__(self, lending: Lending, name: str, has_state: bool = False) -> None:
        super().__init__(lending.clock, None, name, has_state)
        self._lending = lending
        self._checkout: Checkout | None = None

    async def enter(self, timeout: AcquireTimeout, deadline: float = 0.0) -> None:
        """Acquire a connection. PoolExhausted after `timeout` seconds, RequestTimeout at `deadline`."""
        latest = self.deadline(self._lending.connections.settings.acquire_timeout if timeout is ... else timeout)
        while True:
            checkout = self._checkout = await self._lending.acquire(self.name, latest, deadline)
            checkout.task = asyncio.current_task()
            self._core = checkout.core
            try:
                await self._open(deadline)
                return
            except BaseException as error:
                self._let_go(checkout)
                if not isinstance(error, PgWireError) or not checkout.core.is_broken:
                    raise

    async def leave(self) -> None:
        """Release the connection. If only a reset is left to do, only the next holder of this connection waits for it.

        Another lease does that, so that this one can begin again.
        """
        checkout = self._checkout
        if self._window is None or checkout is None:
            return
        session = self.core.session
        if session.failure is not None or (self._clean is None and not self.needs_reset):
            await super().leave()
            return
        is_idle = self.is_idle and session.transaction_status is TransactionStatus.IDLE
        successor = PoolLease(self._lending, self.name)
        successor._checkout, self._checkout = checkout, None
        self.hand_to(successor)
        successor.reset_at_end()
        if is_idle:
            checkout.task = None
            successor.abandon(Lease.leave(successor))
        else:
            await Lease.leave(successor)

    def _was_reset(self) -> None:
        """Only on_connect has to run again, which it does once this lease is released."""

    def _release(self) -> None:
        checkout = self._checkout
        is_reset = self.core.session.failure is None and self.needs_reset
        super()._release()
        if checkout is not None:
            self._let_go(checkout, is_reset)

    def _let_go(self, checkout: Checkout, is_reset: bool = False) -> None:
        self._checkout = self._core = None
        if is_reset:
            self._lending.release_to_set_up(checkout)
        else:
            self._lending.release(checkout)
