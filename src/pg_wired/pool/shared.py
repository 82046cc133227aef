"""The shared connections of a pool, each in a slot that is filled again when its connection is lost."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum, auto

from ..client.core import Core
from ..errors import ConnectionClosed, Outcome, PgWireError, PoolExhausted, RequestTimeout
from ..loop.clock import seconds
from ..session.request import Request
from ..session.session import Session, choose
from .connections import LOG, Connections
from .wait_queue import WaitQueue

# Time until a slot tries again after its task was cancelled by a program that cancels every task.
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
    """One shared connection: the supervisor of its session."""

    def __init__(self, slot: Slot, core: Core) -> None:
        self.core = core
        self._slot = slot

    def ended(self) -> None:
        """It takes no more requests."""
        self._slot.ended(self)

    def unsent(self, request: Request) -> bool:
        """Give a request of which nothing was sent to another connection, or to the wait queue."""
        return self._slot.shared.move(request)


class Slot:
    """A place for one shared connection. `first` is done after the first attempt, with its error or None."""

    def __init__(self, shared: SharedConns) -> None:
        self.shared = shared
        self.state = SlotState.CONNECTING
        self.conn: SharedConn | None = None
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
                core = await self.shared.connections.open(lambda: self._happens(SlotEvent.BEGINS))
            except Exception as error:  # also that of on_connect
                self._happens(SlotEvent.FAILED)
                self._report(error)
            else:
                self._take(core)
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

    def _take(self, core: Core) -> None:
        if self.state is SlotState.CLOSED:  # on_connect did not let itself be cancelled
            core.abort()
            return
        old = self.conn
        self._happens(SlotEvent.CONNECTED)
        self.conn = SharedConn(self, core)
        core.session.supervise(self.conn)
        self.shared.add(core)
        if old is not None:
            self.shared.remove(old.core)
            self.shared.connections.close_when_drained(old.core)
        lifetime = self.shared.connections.lifetime()
        if lifetime != float("inf"):
            self._timer = self.shared.loop.call_later(lifetime, self._expire)
        self._report(None)

    def _expire(self) -> None:
        self._happens(SlotEvent.EXPIRED)
        self._fill()

    def ended(self, conn: SharedConn) -> None:
        """The connection takes no more requests: remove it at once, and make another one."""
        if conn is not self.conn:
            return
        self.conn = None
        self._happens(SlotEvent.LOST)
        self._stop_timer()
        self.shared.remove(conn.core)
        self.shared.connections.ended(conn.core, "a shared connection to")
        self.shared.connections.close_when_drained(conn.core)
        self._fill()

    def close(self) -> Core | None:
        """Make no further connection. Returns the one there was, which takes no more requests of the pool."""
        self._happens(SlotEvent.CLOSED)
        self._stop_timer()
        if self._task is not None:
            self._task.cancel()
        self._report(None)
        conn, self.conn = self.conn, None
        if conn is None:
            return None
        self.shared.remove(conn.core)
        return conn.core

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()


class SharedConns:
    """Gives each request to the connection with the least to do. While none is up, requests wait or fail."""

    def __init__(self, connections: Connections) -> None:
        self.connections = connections
        self.clock = connections.clock
        self.loop = connections.loop
        self.deadline = connections.clock.deadline
        self.moved = 0
        self.cores: list[Core] = []
        self.sessions: list[Session] = []  # of the cores, for `choose`
        self.slots: list[Slot] = []
        settings = connections.settings
        self.waiting = WaitQueue(self.clock, settings.max_waiting, settings.acquire_timeout, self._nothing_came_up)

    def submit(self, request: Request) -> None:
        """Submit a request to the connection with the least to do."""
        if not self.sessions:
            self._wait(request)
            return
        request.allow_move()
        self.cores[choose(self.sessions)].submit(request)

    @contextmanager
    def in_one_write(self) -> Iterator[Callable[[Request], None]]:
        """Requests that are submitted inside, by the function that this gives, go to one connection, together."""
        if not self.sessions:
            yield self._wait
            return
        # None of them may move: the requests of a batch would run out of order.
        with self.cores[choose(self.sessions)].in_one_write() as submit:
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
        """Give a request of a lost connection, of which nothing was sent, to another one, or let it wait for one."""
        if self.connections.is_closed or (not self.sessions and self.connections.settings.when_down == "fail"):
            return False
        try:
            if self.sessions:
                self.cores[choose(self.sessions)].submit(request)
            elif not self.waiting.add(request):
                return False
        except PgWireError:
            return False
        self.moved += 1
        return True

    def down(self) -> PgWireError:
        """The error where no connection is up."""
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
        """Fill the first slot, or raise the error of its attempt; then the others, until one fails.

        All within `timeout` seconds: RequestTimeout if not even the first connection is up then.
        """
        limit = seconds(timeout)
        latest = None if limit is None else self.clock.now() + limit
        self.slots.append(first := Slot(self))
        await asyncio.wait([first.first], timeout=limit)
        if not first.first.done():
            raise self.connections.late(timeout)
        if (error := first.first.result()) is not None:
            raise error
        self.resize(self.connections.settings.size)
        for slot in self.slots:  # each attempt waits for the one before
            await asyncio.wait([slot.first], timeout=None if latest is None else latest - self.clock.now())
            if not slot.first.done() or slot.first.result() is not None:
                return  # the others go on in the background; connections that are up need not wait for them

    def resize(self, size: int) -> None:
        """Have `size` slots from now on. The connections of surplus slots finish what they have."""
        self.slots += [Slot(self) for _ in range(size - len(self.slots))]
        surplus = len(self.slots) - size
        going = sorted(self.slots, key=lambda slot: slot.conn is not None)[: max(0, surplus)]  # empty slots first
        for slot in going:
            self.slots.remove(slot)
            core = slot.close()
            if core is not None:
                self.connections.close_when_drained(core)

    def add(self, core: Core) -> None:
        """A connection is up: waiting requests may use it."""
        LOG.info("connected to %s (pid %s)", core.address, core.pid)
        self.cores.append(core)
        self.sessions.append(core.session)
        self.waiting.drain(self.submit, lambda: bool(self.sessions))

    def remove(self, core: Core) -> None:
        """A connection gets no more requests."""
        if core in self.cores:
            i = self.cores.index(core)
            del self.cores[i], self.sessions[i]

    def close(self) -> None:
        """Take no more requests and make no more connections. Submitted requests are still answered."""
        for slot in self.slots:
            slot.close()
        self.waiting.fail(self.connections.closed())
