"""Lanes: the shared connections of a pool, each in a slot that is filled again when it is lost."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum, auto

from ..client.async_conn import AsyncConn
from ..client.core import Core
from ..errors import ConnectionClosed, Outcome, PgWireError, PoolExhausted, RequestTimeout
from ..loop.clock import Clock, seconds
from ..session.request import Request
from ..session.session import Session, choose
from .connections import LOG, Connections
from .wait_queue import WaitQueue

# Seconds after which a slot tries again, whose task was cancelled by somebody who cancels everything.
RETRY_PAUSE_SECONDS = 1.0


class SlotState(Enum):
    """What a slot is doing."""

    CONNECTING = auto()
    BACKING_OFF = auto()
    ALIVE = auto()
    REPLACING = auto()  # alive, and making the connection that is to follow
    CLOSED = auto()


class SlotEvent(Enum):
    """What happens to a slot."""

    BEGINS = auto()  # an attempt to connect
    FAILED = auto()
    CONNECTED = auto()
    LOST = auto()
    EXPIRED = auto()
    CLOSED = auto()


NEXT_STATES = {
    (SlotState.CONNECTING, SlotEvent.BEGINS): SlotState.CONNECTING,
    (SlotState.CONNECTING, SlotEvent.FAILED): SlotState.BACKING_OFF,
    (SlotState.CONNECTING, SlotEvent.CONNECTED): SlotState.ALIVE,
    (SlotState.BACKING_OFF, SlotEvent.BEGINS): SlotState.CONNECTING,
    (SlotState.BACKING_OFF, SlotEvent.FAILED): SlotState.BACKING_OFF,
    (SlotState.ALIVE, SlotEvent.LOST): SlotState.CONNECTING,
    (SlotState.ALIVE, SlotEvent.EXPIRED): SlotState.REPLACING,
    (SlotState.REPLACING, SlotEvent.BEGINS): SlotState.REPLACING,
    (SlotState.REPLACING, SlotEvent.FAILED): SlotState.REPLACING,
    (SlotState.REPLACING, SlotEvent.CONNECTED): SlotState.ALIVE,
    (SlotState.REPLACING, SlotEvent.LOST): SlotState.CONNECTING,
    **{(state, SlotEvent.CLOSED): SlotState.CLOSED for state in SlotState},
}


class SharedConn:
    """One shared connection; its session's supervisor."""

    def __init__(self, slot: Slot, conn: AsyncConn) -> None:
        self.conn = conn
        self._slot = slot

    def ended(self) -> None:
        """It takes no more requests."""
        self._slot.ended(self)

    def unsent(self, request: Request) -> bool:
        """Another lane, or the waiting room, may have it."""
        return self._slot.shared.move(request)


class Slot:
    """A place for one shared connection. `first` is done after the first attempt, with what that failed with."""

    def __init__(self, shared: SharedConns) -> None:
        self.shared = shared
        self.state = SlotState.CONNECTING
        self.lane: SharedConn | None = None
        self.first: asyncio.Future[BaseException | None] = shared.loop.create_future()
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._fill()

    def _happens(self, event: SlotEvent) -> None:
        self.state = NEXT_STATES[self.state, event]

    def _fill(self) -> None:
        if self._task is None and self.state is not SlotState.CLOSED:
            self._task = self.shared.connections.run(self._connect())
            self._task.add_done_callback(self._filled)

    async def _connect(self) -> None:
        while True:
            try:
                conn = await self.shared.connections.open(lambda: self._happens(SlotEvent.BEGINS))
            except Exception as error:  # on_connect's own, too
                self._happens(SlotEvent.FAILED)
                self._report(error)
            else:
                self._take(conn)
                return

    def _report(self, error: BaseException | None) -> None:
        if not self.first.done():
            self.first.set_result(error)

    def _filled(self, task: asyncio.Task[None]) -> None:
        self._task = None
        if self.state in (SlotState.ALIVE, SlotState.CLOSED):
            return
        if task.cancelled():
            self._report(asyncio.CancelledError())
            self._timer = self.shared.loop.call_later(RETRY_PAUSE_SECONDS, self._fill)
        else:  # it was lost before the task had ended
            self._fill()

    def _take(self, conn: AsyncConn) -> None:
        if self.state is SlotState.CLOSED:  # on_connect would not be cancelled
            conn.abort()
            return
        old = self.lane
        self._happens(SlotEvent.CONNECTED)
        self.lane = SharedConn(self, conn)
        conn._session.supervise(self.lane)
        self.shared.add(conn)
        if old is not None:
            self.shared.remove(old.conn)
            self.shared.connections.see_off(old.conn)
        lifetime = self.shared.connections.lifetime()
        if lifetime != float("inf"):
            self._timer = self.shared.loop.call_later(lifetime, self._expire)
        self._report(None)

    def _expire(self) -> None:
        self._happens(SlotEvent.EXPIRED)
        self._fill()

    def ended(self, lane: SharedConn) -> None:
        """Its connection is no longer of use: out of the way at once, and another one made."""
        if lane is not self.lane:
            return
        self.lane = None
        self._happens(SlotEvent.LOST)
        self._stop_timer()
        self.shared.remove(lane.conn)
        self.shared.connections.ended(lane.conn, "a shared connection to")
        self.shared.connections.see_off(lane.conn)
        self._fill()

    def close(self) -> AsyncConn | None:
        """No further connection. Returns the one that there was; it takes no more requests of the pool's."""
        self._happens(SlotEvent.CLOSED)
        self._stop_timer()
        if self._task is not None:
            self._task.cancel()
        self._report(None)
        lane, self.lane = self.lane, None
        if lane is None:
            return None
        self.shared.remove(lane.conn)
        return lane.conn

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()


class SharedConns(Clock):
    """Takes requests to whichever lane has the least to do; while none is up they wait, or fail."""

    def __init__(self, connections: Connections) -> None:
        super().__init__(connections.loop)
        self.connections = connections
        self.moved = 0
        self.sessions: list[Session] = []
        self._cores: list[Core] = []
        self.conns: list[AsyncConn] = []
        self.slots: list[Slot] = []
        settings = connections.settings
        self.waiting = WaitQueue(self, settings.max_waiting, settings.acquire_timeout, self._nothing_came_up)

    def submit(self, request: Request) -> None:
        """Submit it to the lane with the least to do."""
        if not self.sessions:
            self._wait(request)
            return
        request.allow_move()
        self._cores[choose(self.sessions)].submit(request)

    @contextmanager
    def in_one_write(self) -> Iterator[Callable[[Request], None]]:
        """What is submitted inside, by what it gives, goes to one lane, together."""
        if not self.sessions:
            yield self._wait
            return
        # None of them may move: a batch that is torn apart would run out of its order.
        with self._cores[choose(self.sessions)].in_one_write() as submit:
            yield submit

    def _wait(self, request: Request) -> None:
        self.connections.owner.check()
        if self.connections.is_closed:
            raise self.connections.closed()
        if request.deadline < 0:
            request.fail(RequestTimeout("the timeout is 0", Outcome.NOT_SENT))
        elif self.connections.settings.when_down == "fail":
            request.fail(self.down())
        elif not self.waiting.add(request):
            request.fail(self._because(PoolExhausted(f"{len(self.waiting)} requests wait already", Outcome.NOT_SENT)))

    def move(self, request: Request) -> bool:
        """A lane was lost before anything of the request had left: another one has it, or it waits for one."""
        if self.connections.is_closed or (not self.sessions and self.connections.settings.when_down == "fail"):
            return False
        try:
            if self.sessions:
                self._cores[choose(self.sessions)].submit(request)
            elif not self.waiting.add(request):
                return False
        except PgWireError:
            return False
        self.moved += 1
        return True

    def down(self) -> PgWireError:
        """The error for want of any connection."""
        return self._because(ConnectionClosed(f"none of {len(self.slots)} connections is up", Outcome.NOT_SENT))

    def _nothing_came_up(self) -> PgWireError:
        limit = self.connections.settings.acquire_timeout
        text = f"none of {len(self.slots)} connections came up within {limit} s (acquire_timeout)"
        return self._because(PoolExhausted(text, Outcome.NOT_SENT))

    def _because(self, error: PgWireError) -> PgWireError:
        error.__cause__ = self.connections.last_failure
        return error

    # ---- slots

    async def connect(self, timeout: float | None) -> None:
        """Fill the first slot, or raise what that failed with; then the others, until one fails.

        All in `timeout` seconds: RequestTimeout if not even the first is up then.
        """
        limit = seconds(timeout)
        latest = None if limit is None else self.loop.time() + limit
        self.slots.append(first := Slot(self))
        await asyncio.wait([first.first], timeout=limit)
        if not first.first.done():
            raise self.connections.late(timeout)
        if (error := first.first.result()) is not None:
            raise error
        self.resize(self.connections.settings.size)
        for slot in self.slots:  # each attempt waits for the one before
            await asyncio.wait([slot.first], timeout=None if latest is None else latest - self.loop.time())
            if not slot.first.done() or slot.first.result() is not None:
                return  # they go on in the background, and what is up need not wait for them

    def resize(self, size: int) -> None:
        """So many slots from now on; those that go finish what they have."""
        self.slots += [Slot(self) for _ in range(size - len(self.slots))]
        surplus = len(self.slots) - size
        going = sorted(self.slots, key=lambda slot: slot.lane is not None)[: max(0, surplus)]  # idle hands first
        for slot in going:
            self.slots.remove(slot)
            conn = slot.close()
            if conn is not None:
                self.connections.see_off(conn)

    def add(self, conn: AsyncConn) -> None:
        """A connection is up; whoever waits may use it."""
        LOG.info("connected to %s (pid %s)", conn.addr, conn.backend_pid)
        self.conns.append(conn)
        self.sessions.append(conn._session)
        self._cores.append(conn._core)
        self.waiting.drain(self.submit, lambda: bool(self.sessions))

    def remove(self, conn: AsyncConn) -> None:
        """It gets no more requests."""
        if conn in self.conns:
            i = self.conns.index(conn)
            del self.conns[i], self.sessions[i], self._cores[i]

    def close(self) -> None:
        """No more requests, and no more connections. What is submitted is still answered."""
        for slot in self.slots:
            slot.close()
        self.waiting.fail(self.connections.closed())
