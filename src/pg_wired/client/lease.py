"""Leases: the time in which one owner has a connection, from waiting for it to leaving it clean. They know no verbs."""

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
from ..session.request import SYNC_SCRIPT, Request, Window, failing_item, simple_query_request, sync_request
from ..session.session import Reason
from .core import Core
from .watchdog import CANCEL_GRACE_SECONDS, MAX_CANCEL_PAUSE_SECONDS, WATCH_INTERVAL_SECONDS

# Seconds that a verb waits for its lease; None for no limit, and ... for the default of the connection or pool.
AcquireTimeout: TypeAlias = "float | EllipsisType | None"
ACQUIRE_TIMEOUT_SECONDS = 30.0

# Command tags after which the session is as it was, once there is no transaction. What tags cannot show (set_config,
# advisory locks) the owner has to say: mark_state_mutated().
HARMLESS_TAGS = frozenset(
    [
        "SELECT",
        "INSERT",
        "UPDATE",
        "DELETE",
        "MERGE",
        "COPY",
        "FETCH",
        "MOVE",
        "BEGIN",
        "COMMIT",
        "ROLLBACK",
        "SAVEPOINT",
        "RELEASE",
        "NOTIFY",
        "SHOW",
    ]
) | {"START TRANSACTION", "SET CONSTRAINTS", "LOCK TABLE", ""}
# The parts of DISCARD ALL (chapter "DISCARD") but for what is kept: the statements of our cache, and the connection's
# channels.
RESET_SQL = (
    "CLOSE ALL; SET SESSION AUTHORIZATION DEFAULT; RESET ALL; SELECT pg_advisory_unlock_all(); "
    "DISCARD PLANS; DISCARD TEMP; DISCARD SEQUENCES"
)


class Lease:
    """One owner's time on a connection. When it ends, the connection is cleaned before other requests run.

    `core` is None where the connection is known only when the lease begins. With `has_state`, requests may leave a
    transaction open, and change the session.
    """

    def __init__(self, clock: Clock, core: Core | None, name: str, has_state: bool = False) -> None:
        self._core = core
        self.loop = clock.loop
        self.deadline = clock.deadline
        self.name = name
        self.is_state_mutated = False  # the owner says so
        self._has_state = has_state
        self._clean: Callable[[], Awaitable[None]] | None = None
        self._window: Window | None = None
        self._cleaning: asyncio.Task[None] | None = None
        self._is_abandoned = False
        self._inner: Lease | None = None
        # Requests that wait for the end of an inner lease whose owner has left.
        self._held: list[tuple[Request, asyncio.TimerHandle | None]] = []
        self.cancels: set[object] = set()  # cancel requests of the owner that are under way

    # ---- state

    @property
    def core(self) -> Core:
        """The connection. UsageError outside the lease."""
        if self._core is None:
            raise self._closed()
        return self._core

    @property
    def window(self) -> Window:
        """The window. UsageError outside the lease."""
        if self._window is None:
            raise self._closed()
        return self._window

    def _closed(self) -> UsageError:
        return UsageError(f"{self.name} is not open: use it inside its `async with` block")

    def check_open(self) -> None:
        """Raise UsageError before and after the lease."""
        assert self.window

    def has(self, window: Window) -> bool:
        """Whether the owner has this window, and has not begun to leave it."""
        return self._window is window and not self.is_left

    @property
    def is_left(self) -> bool:
        """Whether the owner has left, though the connection may not be clean yet."""
        return self._is_abandoned or self._cleaning is not None

    @property
    def is_outermost(self) -> bool:
        """Whether the connection is shared again after this lease."""
        return True

    @property
    def is_idle(self) -> bool:
        """Whether all requests of this lease are answered."""
        return not self.core.session.inflight and not self.window.inside and not self.core.session.group

    @property
    def is_awaited(self) -> bool:
        """Whether a caller waits for a request of this lease that is not a Sync."""
        session = self.core.session
        asked = (*session.group, *session.inflight, *self.window.inside)
        return any(request.is_awaited and request.script != SYNC_SCRIPT for request in asked)

    @property
    def needs_reset(self) -> bool:
        """Whether the session may have changed since the lease began."""
        window, session = self.window, self.core.session
        return self.is_state_mutated or not window.tags <= HARMLESS_TAGS or session.parameters != window.parameters

    def mark_state_mutated(self) -> None:
        """The owner has changed the session in a way that command tags do not show."""
        self.is_state_mutated = True

    # ---- entering

    async def enter(self, timeout: AcquireTimeout, deadline: float = 0.0) -> None:
        """Wait for the connection, in order among all requests.

        Raises RequestTimeout after `timeout` seconds, or at `deadline` (on the loop's clock, 0 for none).
        """
        latest = self.deadline(ACQUIRE_TIMEOUT_SECONDS if timeout is ... else timeout)
        await self._open(sooner(latest, deadline))

    async def _open(self, latest: float) -> None:
        core = self.core
        self._clean = self._cleaning = None
        self._is_abandoned = False
        self.cancels = set()
        opened: asyncio.Future[Window] = core.loop.create_future()
        window = Window(opened, self.name, latest, self._has_state)
        core.submit(window)
        try:
            self._window = await opened
        except BaseException:
            if opened.done() and not opened.cancelled() and opened.exception() is None:
                core.session.leave(window)
            core.session.pump()  # the window was in the way of other requests
            core.transport.flush()
            raise
        window.entered(asyncio.current_task(), core.session.parameters)

    # ---- requests

    @contextmanager
    def in_one_write(self) -> Iterator[Callable[[Request], None]]:
        """Requests of this lease that are submitted inside are written together."""
        with self.core.in_one_write():
            yield self.submit

    def submit(self, request: Request) -> None:
        """Submit a request of this lease. UsageError while a verb inside it has the connection."""
        if self._inner is not None:
            if not self._inner.is_left:
                raise UsageError(f"{self._inner.name} is open inside {self.name}: leave it first")
            self._hold(request)
            return
        if request.parts is not None:
            self._check_transaction()
        if self._core is None or self._window is None:
            raise self._closed()
        self._core.submit_inside(self._window, request)

    def _hold(self, request: Request) -> None:
        """Keep the request until the inner lease has ended, but not beyond its deadline."""
        late = RequestTimeout("the request's deadline has passed", Outcome.NOT_SENT)
        timer = self.loop.call_at(request.deadline, request.fail, late) if request.deadline else None
        self._held.append((request, timer))

    def _submit_held(self) -> None:
        held, self._held = self._held, []
        for request, timer in held:
            if timer is not None:
                timer.cancel()
            try:
                self.submit(request)
            except PgWireError as error:
                request.fail(error)

    def _check_transaction(self) -> None:
        """Refuse exec_transaction inside a transaction: its BEGIN would only warn, and its COMMIT end the other one."""
        session = self.core.session
        is_units_own = session.head.unit is not None  # another exec_transaction is under way, and ends its own
        if session.transaction_status is not TransactionStatus.IDLE and not is_units_own:
            raise UsageError("a transaction is open here already: run the setup and the query in it")
        asked = (*session.inflight, *self.window.inside)
        if any(request.is_awaited and not request.is_description for request in asked):
            raise UsageError("what was asked before may open a transaction: await that, then use exec_transaction()")

    async def ask(self, sql: str) -> None:
        """Run statements of the library."""
        reply: asyncio.Future[list[Rows]] = self.core.loop.create_future()
        self.submit(simple_query_request(reply, sql, 0.0))
        await reply

    # ---- leaving

    def clean_with(self, clean: Callable[[], Awaitable[None]] | None) -> None:
        """Run `clean` at the end, before other requests run and whatever becomes of the owner."""
        self._clean = clean

    def reset_at_end(self) -> None:
        """Roll back an open transaction, and reset a changed session, at the end."""
        self._clean = self._reset

    async def leave(self) -> None:
        """End the lease and leave the connection clean. Cancelling the caller does not stop that.

        However often it is called, the connection is given back once, when it is clean.
        """
        if self._window is None:
            return
        if self._cleaning is None:
            self._window.owner_left(self._outer_owner())  # a task that is cancelled now may go on outside
            is_clean = self.is_idle and self._clean is None and self._inner is None and not self.cancels
            if self.core.session.failure is not None or is_clean:
                self._release()
                return
            self._cleaning = self.core.loop.create_task(self._end())
            self._cleaning.add_done_callback(self._cleaned)
        await asyncio.shield(self._cleaning)

    async def leave_after(self, reply: asyncio.Future[Rows]) -> None:
        """Leave. A caller whose deadline has passed does not wait for the cleaning."""
        if not reply.cancelled() and reply.done() and isinstance(reply.exception(), RequestTimeout):
            self.abandon(self.leave())
        else:
            await self.leave()

    def abandon(self, leaving: Coroutine[object, object, None]) -> None:
        """The owner left without releasing: clean up in the background by `leaving`, while other tasks wait."""
        if self._window is not None and self.core.session.window is self._window and self.core.transport.is_open():
            self._window.owner_left(self._outer_owner())
            self._is_abandoned = True
            task = self.core.loop.create_task(leaving)
            self.core.cleanups.add(task)
            task.add_done_callback(self.core.cleanups.discard)
            task.add_done_callback(self._cleaned)
        else:
            leaving.close()
            if self._window is not None:
                self._release()

    def _cleaned(self, task: asyncio.Task[None]) -> None:
        """A task that was cancelled before its first step has cleaned nothing.

        A task that only waits for the cleaning may be cancelled without harm.
        """
        if task.cancelled() and self._window is not None and self._cleaning in (None, task):
            self.core.give_up()
            self._release()

    async def until_released(self) -> None:
        """Wait until an inner lease is released; if its owner has left it open, end it."""

    def move_to(self, outer: Lease) -> None:
        """Another lease has the connection that this one is inside."""

    def hand_to(self, successor: Lease) -> None:
        """Let `successor` leave in place of this lease, which is closed from now on."""
        successor._core, successor._window = self._core, self._window
        successor.is_state_mutated = self.is_state_mutated
        successor._inner, successor._held, successor.cancels = self._inner, self._held, self.cancels
        if successor._inner is not None:
            successor._inner.move_to(successor)
        self._inner, self._held = None, []
        self._core = self._window = None

    def _outer_owner(self) -> object:
        """The task that has the connection after this lease."""
        return None

    async def _end(self) -> None:
        try:
            async with asyncio.timeout(2 * CANCEL_GRACE_SECONDS):
                while self.cancels:  # a late one would hit the next owner; it may belong to another loop
                    if self.core.may_be_hit(self.cancels):
                        self.core.abort()
                        return
                    await asyncio.sleep(WATCH_INTERVAL_SECONDS / 2)
                if self._inner is not None:
                    await self._inner.until_released()
                if not self.is_idle:
                    await self._stop()
                if self._clean is not None:
                    await self._clean()
        except (PgWireError, TimeoutError):
            self.core.give_up()  # the session is in an unknown state
        except BaseException:
            self.core.give_up()
            raise
        finally:
            self._release()

    def _release(self) -> None:
        """Let other requests run."""
        self.core.transport.resume()
        window, self._window = self.window, None
        self.core.session.leave(window)
        self.core.transport.flush()

    async def _stop(self) -> None:
        """Have the server stop what still runs, and discard its answers: no caller waits for them."""
        session, window = self.core.session, self.window
        session.abandon_inside(window, self.name)
        done: asyncio.Future[object] = self.core.loop.create_future()
        if session.is_in_group:  # the owner never ended the group, so it must not be committed
            self.submit(failing_item())
            self.submit(sync_request(None))
        await self.core.cancel_running()
        self.core.transport.resume()  # not earlier: the rest would arrive at full speed
        self.submit(sync_request(done))
        pause = WATCH_INTERVAL_SECONDS
        await asyncio.wait([done], timeout=pause)
        while not done.done():  # a CancelRequest that arrived before the query had begun was lost
            await self.core.cancel_running()
            pause = min(2 * pause, MAX_CANCEL_PAUSE_SECONDS)
            await asyncio.wait([done], timeout=pause)
        await done

    async def _reset(self) -> None:
        """Roll back an open transaction, and reset the session if it may have changed."""
        session = self.core.session
        if session.transaction_status is not TransactionStatus.IDLE:
            await self.ask("ROLLBACK")
        if self.needs_reset:
            await self.ask("; ".join([RESET_SQL, *self._further_resets()]))
            session.check_settings()
            self._was_reset()

    def _further_resets(self) -> list[str]:
        """Statements that only some tags make necessary."""
        tags = self.window.tags
        more = []
        if tags & {"LISTEN", "UNLISTEN", "DISCARD ALL"}:
            more += ["UNLISTEN *", *[f"LISTEN {channel}" for channel in self.core.channels]]
        if tags & {"PREPARE", "DEALLOCATE"}:
            more.append("DEALLOCATE ALL")
        return more

    def _was_reset(self) -> None:
        """The settings of on_connect are gone, too: the pool makes another connection in place of this one."""
        if self.core.is_set_up:
            self.core.session.retire(Reason.SETTINGS_RESET, f"its settings were reset after {self.name}")


class NestedLease(Lease):
    """The lease of a verb inside `exclusive()`. The connection is there already, and goes back to the outer lease."""

    def __init__(self, outer: Lease, name: str) -> None:
        super().__init__(outer.core.clock, outer.core, name, has_state=True)
        self._outer = outer
        self._released: asyncio.Future[None] = outer.core.loop.create_future()

    @property
    def is_outermost(self) -> bool:
        return False

    async def enter(self, timeout: AcquireTimeout, deadline: float = 0.0) -> None:
        outer = self._outer
        while outer._inner is not None:
            if not outer._inner.is_left:
                raise UsageError(f"{outer._inner.name} is open inside {outer.name}: leave it first")
            await outer._inner.until_released()
        self._clean = self._cleaning = None
        self._is_abandoned = False
        self._window = outer.window
        self._released = self.core.loop.create_future()
        outer._inner = self
        if not self.is_idle:
            try:
                await self._wait_for_earlier(timeout, deadline)
            except BaseException:
                self._release()
                raise

    async def _wait_for_earlier(self, timeout: AcquireTimeout, deadline: float) -> None:
        """Wait for the answers to earlier requests of the block: they must not be stopped together with this verb."""
        reply: asyncio.Future[Rows] = self.core.loop.create_future()
        latest = sooner(self.deadline(ACQUIRE_TIMEOUT_SECONDS if timeout is ... else timeout), deadline)
        self.submit(sync_request(reply, latest))
        try:
            await reply
        except PgWireError as error:
            raise error.with_outcome(Outcome.NOT_SENT) from None

    def move_to(self, outer: Lease) -> None:
        self._outer = outer

    async def until_released(self) -> None:
        if not self._is_abandoned:
            self.abandon(self.leave())
        await asyncio.shield(self._released)

    def _release(self) -> None:
        self.core.transport.resume()
        self._window = None
        if not self._released.done():
            self._released.set_result(None)
        if self._outer._inner is self:
            self._outer._inner = None
            self._outer._submit_held()

    def _outer_owner(self) -> object:
        return self.window.owner
