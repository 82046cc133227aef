"""A turn: a window on a shared connection, from the waiting for it to its clean end. It knows no verbs."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from types import EllipsisType
from typing import TypeAlias

from ..errors import Outcome, PgWireError, RequestTimeout, UsageError
from ..loop.clock import Clock, sooner
from ..protocol.rows import Rows
from ..protocol.types import TransactionStatus
from ..session.request import Request, Window, failing_item, simple_query_request, sync_request
from ..session.session import Reason
from .core import Core
from .watchdog import CANCEL_GRACE_SECONDS, MAX_CANCEL_PAUSE_SECONDS, WATCH_INTERVAL_SECONDS

# Seconds that a verb waits for its turn; None for ever, and ... as long as its owner says.
AcquireTimeout: TypeAlias = "float | EllipsisType | None"
ACQUIRE_TIMEOUT_SECONDS = 30.0


class Lease:
    """One owner's time on a connection. `clean` runs before others have their turn, whatever became of the owner."""

    def __init__(self, clock: Clock, name: str, has_state: bool = False) -> None:
        self._core = clock if isinstance(clock, Core) else None  # else it is known with the turn
        self.deadline = clock.deadline
        self.name = name
        self.clean: Callable[[], Awaitable[None]] | None = None
        self.loop = clock.loop
        self.is_state_mutated = False  # its owner says so
        self._has_state = has_state
        self._window: Window | None = None
        self._cleaning: asyncio.Task[None] | None = None
        self.is_abandoned = False
        self.inner: Lease | None = None
        self.held: list[tuple[Request, asyncio.TimerHandle | None]] = []  # behind an inner one, abandoned
        self.cancels: set[object] = set()  # cancel requests of its owner's that are under way

    @property
    def core(self) -> Core:
        if self._core is None:
            raise self._closed()
        return self._core

    def holds(self, window: Window) -> bool:
        """Whether its owner has this window, and has not begun to leave it."""
        return self._window is window and not self.is_left

    @property
    def is_left(self) -> bool:
        """Whether its owner has gone, though it may not be clean yet."""
        return self.is_abandoned or self._cleaning is not None

    @property
    def window(self) -> Window:
        if self._window is None:
            raise self._closed()
        return self._window

    def _closed(self) -> UsageError:
        return UsageError(f"{self.name} is not open: use it inside its `async with` block")

    @contextmanager
    def in_one_write(self) -> Iterator[Callable[[Request], None]]:
        """As the connection has it, for requests of this turn."""
        with self.core.in_one_write():
            yield self.submit

    def check_open(self) -> None:
        """UsageError before the turn, and behind it."""
        assert self.window

    async def enter(self, timeout: AcquireTimeout, deadline: float = 0.0) -> None:
        """Wait for the turn, in order among all requests. RequestTimeout after `timeout` seconds or at `deadline`."""
        patience = self.deadline(ACQUIRE_TIMEOUT_SECONDS if timeout is ... else timeout)
        await self._open(sooner(patience, deadline))

    async def _open(self, latest: float) -> None:
        core = self.core
        self.clean = self._cleaning = None
        self.is_abandoned = False
        self.cancels = set()
        opened: asyncio.Future[Window] = core.loop.create_future()
        window = Window(opened, self.name, latest, self._has_state)
        core.submit(window)
        try:
            self._window = await opened
        except BaseException:
            if opened.done() and not opened.cancelled() and opened.exception() is None:
                core.session.leave(window)
            core.session.pump()  # it was in the way of others
            core.transport.flush()
            raise
        window.entered(asyncio.current_task(), core.session.parameters)

    def submit(self, request: Request) -> None:
        """Submit a request of this turn. UsageError while a verb inside it has the connection."""
        if self.inner is not None:
            if not self.inner.is_left:
                raise UsageError(f"{self.inner.name} is open inside {self.name}: leave it first")
            self._hold(request)
            return
        if request.parts is not None:
            self._check_transaction()
        if self._core is None or self._window is None:
            raise self._closed()
        self._core.submit_inside(self._window, request)

    def _hold(self, request: Request) -> None:
        """Keep it until the inner one has ended, but not beyond its deadline."""
        late = RequestTimeout("the request's deadline has passed", Outcome.NOT_SENT)
        timer = self.loop.call_at(request.deadline, request.fail, late) if request.deadline else None
        self.held.append((request, timer))

    def _check_transaction(self) -> None:
        """A unit's BEGIN inside of a transaction would be but a warning, and its COMMIT would end that one."""
        session = self.core.session
        is_units_own = session.head.unit is not None  # another one is under way, and ends its own
        if session.transaction_status is not TransactionStatus.IDLE and not is_units_own:
            raise UsageError("a transaction is open here already: run the setup and the query in it")
        asked = (*session.inflight, *self.window.inside)
        if any(request.is_awaited and not request.is_description for request in asked):
            raise UsageError("what was asked before may open a transaction: await that, then use exec_transaction()")

    def was_reset(self) -> None:
        """What on_connect had set is gone as well: the pool makes another connection in the place of this one."""
        if self.core.is_set_up:
            self.core.session.retire(Reason.SETTINGS_RESET, f"its settings were reset behind {self.name}")

    async def ask(self, sql: str) -> None:
        """Run statements of ours inside."""
        reply: asyncio.Future[list[Rows]] = self.core.loop.create_future()
        self.submit(simple_query_request(reply, sql, 0.0))
        await reply

    @property
    def is_outermost(self) -> bool:
        """Whether the connection is shared again behind it."""
        return True

    @property
    def is_idle(self) -> bool:
        """Whether nothing of this turn is unanswered."""
        return not self.core.session.inflight and not self.window.inside and not self.core.session.group

    def _owner_behind(self) -> object:
        return None

    def abandon(self, leaving: Coroutine[object, object, None]) -> None:
        """The owner has gone without a word: others go on waiting, and he may queue behind them, until it is clean."""
        if self._window is not None and self.core.session.window is self._window and self.core.transport.is_open():
            self._window.owner_left(self._owner_behind())
            self.is_abandoned = True
            task = self.core.loop.create_task(leaving)
            self.core.tasks.add(task)
            task.add_done_callback(self.core.tasks.discard)
            task.add_done_callback(self._cleaned)
        else:
            leaving.close()
            if self._window is not None:
                self._give_back()

    def _cleaned(self, task: asyncio.Task[None]) -> None:
        """A task that was cancelled before its first step has cleaned nothing."""
        if task.cancelled() and self._window is not None:
            self.core.abort()
            self._give_back()

    def move_to(self, outer: Lease) -> None:
        """Another turn has the connection that this one is inside of."""

    async def over(self) -> None:
        """Until it has given back what it had; its owner, if he is still there, has left it open."""

    async def leave_behind(self, reply: asyncio.Future[Rows]) -> None:
        """Leave; but whose deadline has passed does not wait for the cleaning."""
        if not reply.cancelled() and reply.done() and isinstance(reply.exception(), RequestTimeout):
            self.abandon(self.leave())
        else:
            await self.leave()

    async def leave(self) -> None:
        """Give the turn back, clean. Being cancelled meanwhile does not stop that."""
        if self._window is None:
            return
        self._window.owner_left(self._owner_behind())  # who is cancelled now may go on outside
        is_clean = self.is_idle and self.clean is None and self.inner is None and not self.cancels
        if self.core.session.failure is not None or is_clean:
            self._give_back()
            return
        if self._cleaning is None:
            self._cleaning = self.core.loop.create_task(self._end())
            self._cleaning.add_done_callback(self._cleaned)
        await asyncio.shield(self._cleaning)

    async def _end(self) -> None:
        try:
            async with asyncio.timeout(2 * CANCEL_GRACE_SECONDS):
                while self.cancels:  # one that came late would hit whoever is next; they may be another loop's
                    if self.core.may_be_hit(self.cancels):
                        self.core.session.closed_by_client()
                        self.core.abort()
                        return
                    await asyncio.sleep(WATCH_INTERVAL_SECONDS / 2)
                if self.inner is not None:
                    await self.inner.over()
                if not self.is_idle:
                    await self._stop()
                if self.clean is not None:
                    await self.clean()
        except (PgWireError, TimeoutError):
            self.core.abort()  # in a state that nobody knows
        except BaseException:
            self.core.abort()
            raise
        finally:
            self._give_back()

    def _give_back(self) -> None:
        self.core.transport.resume()
        window, self._window = self.window, None
        self.core.session.leave(window)
        self.core.transport.flush()

    async def _stop(self) -> None:
        """End what runs: nobody waits for it any more. The server is asked to, and its answers are thrown away."""
        session, window = self.core.session, self.window
        session.abandon_inside(window, self.name)
        done: asyncio.Future[object] = self.core.loop.create_future()
        if session.is_in_group:  # which its owner never ended: it must not be committed
            self.submit(failing_item())
            self.submit(sync_request(None))
        await self.core.cancel_running()
        self.core.transport.resume()  # not before: the rest would come at full speed
        self.submit(sync_request(done))
        pause = WATCH_INTERVAL_SECONDS
        await asyncio.wait([done], timeout=pause)
        while not done.done():  # a CancelRequest that came before the query had begun was lost
            await self.core.cancel_running()
            pause = min(2 * pause, MAX_CANCEL_PAUSE_SECONDS)
            await asyncio.wait([done], timeout=pause)
        await done
