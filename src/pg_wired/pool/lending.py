"""Lending: connections for one borrower at a time, opened on demand, kept warm, waited for in order."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any

from ..client.async_conn import AsyncConn
from ..errors import ConnectionClosed, Outcome, PgWireError, PoolExhausted, RequestTimeout
from ..loop.clock import Clock, sooner
from ..session.request import Request
from .connections import LOG, Connections

# How many holders an error names.
MAX_NAMED_HOLDERS = 10


class Checkout:
    """One connection to be lent, and who has it; its session's supervisor."""

    def __init__(self, lending: Lending, conn: AsyncConn) -> None:
        self.conn = conn
        self.expires = conn._core.born + lending.connections.lifetime()
        self.timer: asyncio.TimerHandle | None = None
        self.verb = ""
        self.since = 0.0
        self.task: asyncio.Task[Any] | None = None
        self.on_end: Callable[[], None] | None = None
        self.is_over = False  # its end is known
        self.is_set_up = True
        self._lending = lending

    def ended(self) -> None:
        """It takes no more requests. Whoever has it gives it back all the same."""
        self._lending.ended(self)
        if self.on_end is not None:
            self.on_end()

    def unsent(self, request: Request) -> bool:
        """What is submitted here belongs here."""
        return False

    def holder(self, now: float) -> str:
        """Who has it, and for how long."""
        who = f"task {self.task.get_name()!r}" if self.task is not None else "nobody any more"
        return f"{who} in {self.verb} for {now - self.since:.1f} s"


class Waiter:
    """Somebody who waits for a connection."""

    def __init__(self, loop: asyncio.AbstractEventLoop, verb: str) -> None:
        self.future: asyncio.Future[Checkout] = loop.create_future()
        self.since = loop.time()
        self.verb = verb


class Lending(Clock):
    """At most `max_exclusive` connections: idle, lent, being made, or on their way out."""

    def __init__(self, connections: Connections) -> None:
        super().__init__(connections.loop)
        self.connections = connections
        self.limit = connections.settings.max_exclusive
        self.idle: list[Checkout] = []
        self.out: set[Checkout] = set()  # lent, or being made clean
        self._openers: set[asyncio.Task[None]] = set()
        self.leaving = 0  # closing, and not closed yet
        self.waiters: deque[Waiter] = deque()
        self._longest_wait = 0.0

    @property
    def opening(self) -> int:
        """Those that are being made."""
        return len(self._openers)

    @property
    def in_use(self) -> int:
        """All that count towards the limit."""
        return len(self.idle) + len(self.out) + self.opening + self.leaving

    @property
    def longest_wait(self) -> float:
        """Seconds that anybody has waited so far, those who still do included."""
        now = self.loop.time()
        return max(self._longest_wait, *(now - waiter.since for waiter in self.waiters), 0.0)

    # ---- out

    async def acquire(self, verb: str, latest: float, deadline: float) -> Checkout:
        """A connection for the current task, in order. PoolExhausted at `latest`, RequestTimeout at `deadline`."""
        self.connections.owner.check()
        if self.connections.is_closed:
            raise self.connections.closed()
        if self.idle and not self.waiters:
            return self._lend(self.idle.pop(), verb)
        end = sooner(latest, deadline)
        self._check_wait(verb, end, deadline)
        waiter = Waiter(self.loop, verb)
        timer = self.loop.call_at(end, self._give_up, waiter, end == deadline) if end else None
        self.waiters.append(waiter)
        self.grow()
        try:
            return await waiter.future
        except BaseException:
            if waiter.future.done() and not waiter.future.cancelled() and waiter.future.exception() is None:
                self.release(waiter.future.result())  # it was handed over in the tick of the cancelling
            elif waiter in self.waiters:
                self.waiters.remove(waiter)
            raise
        finally:
            if timer is not None:
                timer.cancel()
            self._longest_wait = max(self._longest_wait, self.loop.time() - waiter.since)

    def _check_wait(self, verb: str, end: float, deadline: float) -> None:
        """Refuse at once what would wait for nothing, for too long a queue, or not at all."""
        if not self.limit:
            raise PoolExhausted(f"{verb} needs a connection of its own, and max_exclusive is 0", Outcome.NOT_SENT)
        to_come = self.limit - len(self.out) - self.leaving  # a connection that is opened for somebody is no queue
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
            seconds = self.loop.time() - waiter.since
            waiter.future.set_exception(self._exhausted(f"no connection for {waiter.verb} within {seconds:.1f} s"))

    def _lend(self, lent: Checkout, verb: str) -> Checkout:
        if lent.timer is not None:
            lent.timer.cancel()
        lent.verb, lent.since = verb, self.loop.time()
        self.out.add(lent)
        return lent

    # ---- and back

    def release(self, lent: Checkout) -> None:
        """Whoever had it is done, and left it clean, or broken."""
        self.out.discard(lent)
        lent.task, lent.on_end = None, None
        self._offer(lent)

    def set_up_again(self, lent: Checkout) -> None:
        """The same, but what on_connect had set was reset."""
        if self.connections.settings.on_connect is None or lent.conn.is_broken or self.connections.is_closed:
            self.release(lent)
        else:
            lent.is_set_up = False
            self.connections.run(self._set_up(lent)).add_done_callback(lambda _: self._abandoned(lent))

    async def _set_up(self, lent: Checkout) -> None:
        try:
            await self.connections.set_up(lent.conn)
        except Exception as error:  # on_connect's own, too
            LOG.warning("on_connect failed behind a reset: %s", error)
            lent.conn.abort()
        except BaseException:
            lent.conn.abort()
            raise
        finally:
            lent.is_set_up = True
            self.release(lent)

    def _abandoned(self, lent: Checkout) -> None:
        """The task may have been cancelled before its first step."""
        if not lent.is_set_up:
            lent.is_set_up = True
            lent.conn.abort()
            self.release(lent)

    def _offer(self, lent: Checkout) -> None:
        """To the first who waits, or to the idle ones."""
        if lent.conn.is_broken or self.connections.is_closed or lent.expires <= self.loop.time():
            self._discard(lent)
            return
        while self.waiters:
            waiter = self.waiters.popleft()
            if not waiter.future.done():
                self.out.add(lent)
                lent.verb, lent.since = waiter.verb, self.loop.time()
                waiter.future.set_result(lent)
                return
        self.idle.append(lent)
        longest = self.connections.settings.max_idle
        end = min(lent.expires, float("inf") if longest is None else self.loop.time() + longest)
        if end != float("inf"):
            lent.timer = self.loop.call_at(end, self._retire, lent)

    def _retire(self, lent: Checkout) -> None:
        """It was idle for too long, or is too old."""
        self.idle.remove(lent)
        self._discard(lent)

    def _discard(self, lent: Checkout) -> None:
        lent.is_over = True
        transport = lent.conn._transport
        if not transport.is_closed:
            self.leaving += 1
            transport.closed.add_done_callback(self._left)
            self.connections.see_off(lent.conn)
        self.grow()

    def _left(self, _: object) -> None:
        self.leaving -= 1
        self.grow()

    def ended(self, lent: Checkout) -> None:
        """The connection was lost or retired."""
        if lent.is_over:
            return
        lent.is_over = True
        if lent in self.idle:
            self.idle.remove(lent)
            if lent.timer is not None:
                lent.timer.cancel()
            self._discard(lent)
        self.connections.ended(lent.conn, "a lent connection to")

    # ---- more of them

    def grow(self) -> None:
        """Open connections for those who wait, as far as the limit allows."""
        room = self.limit - self.in_use
        if self.connections.is_closed or room <= 0:  # before all who wait are looked at
            return
        wanted = sum(not waiter.future.done() for waiter in self.waiters) - self.opening
        for _ in range(min(wanted, room)):
            task = self.connections.run(self._open())
            self._openers.add(task)
            task.add_done_callback(self._opened)

    def _opened(self, task: asyncio.Task[None]) -> None:
        """It has made none: it failed, nobody waited any more, or it was cancelled, perhaps before its first step."""
        if task in self._openers:
            self._openers.discard(task)
            self.loop.call_soon(self.grow)

    async def _open(self) -> None:
        while self._first_waiter() is not None:
            try:
                conn = await self.connections.open()
            except Exception as error:  # on_connect's own, too
                self._report(error)
                continue
            me = asyncio.current_task()
            assert me is not None  # it has a task of its own
            self._openers.discard(me)
            lent = Checkout(self, conn)
            conn._session.supervise(lent)
            self._offer(lent)
            return

    def _first_waiter(self) -> Waiter | None:
        return next((waiter for waiter in self.waiters if not waiter.future.done()), None)

    def _report(self, cause: Exception) -> None:
        """An attempt has failed: who waits goes on waiting, or is told at once."""
        waiter = self._first_waiter()
        if self.connections.settings.when_down == "fail" and waiter is not None:
            error = ConnectionClosed(f"no connection for {waiter.verb}: {cause}", Outcome.NOT_SENT)
            error.__cause__ = cause
            waiter.future.set_exception(error)

    def _exhausted(self, what: str) -> PoolExhausted:
        now = self.loop.time()
        holders = sorted(self.out, key=lambda lent: lent.since)
        names = [lent.holder(now) for lent in holders[:MAX_NAMED_HOLDERS]] + ["..."] * (
            len(holders) > MAX_NAMED_HOLDERS
        )
        error = PoolExhausted(
            f"{what}: {len(self.out)} of {self.limit} are lent, {self.opening} are being opened, "
            f"{len(self.waiters)} wait; held by: {'; '.join(names) or 'nobody'}",
            Outcome.NOT_SENT,
        )
        error.__cause__ = None if self.out else self.connections.last_failure
        return error

    def close(self, error: PgWireError) -> None:
        """Nobody gets another one."""
        for waiter in self.waiters:
            if not waiter.future.done():
                waiter.future.set_exception(error.with_outcome(Outcome.NOT_SENT))
        for lent in self.idle:
            if lent.timer is not None:
                lent.timer.cancel()
        self.idle.clear()
