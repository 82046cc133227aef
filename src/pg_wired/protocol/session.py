"""The session: requests in, bytes out, bytes in, answers out. It refuses to know sockets, tasks and clocks.

Requests wait in `pending` as objects until there is room, are then encoded into `out` and wait in `inflight` for their
answers, which come first-in first-out. The oldest one's script says which state the session is in, and THE TABLE says
what a message does there. Whoever owns the socket does what a Receiver says. A caller is reached through its sink
alone: `done`, `set_result`, `set_exception`, which must not call back into the session.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, cast

from ..error import PgError, ProtocolError, UsageError
from . import answers, endings, extended_query, notification_queue, octets, requests, statements, termination
from .receiver import Receiver
from .types import ACTIONS, NEXT_STATES, State, TransactionStatus

if TYPE_CHECKING:
    from .foreign import ForeignTransaction
    from .window import Window

# The receive buffer between messages. 64 KiB to 1 MiB made no difference on bulk scans.
BUFFER_SIZE = 256 * 1024

SYNC_SCRIPT = requests.SYNC_SCRIPT


class Session(Receiver):
    """One connection's conversation after the handshake, shared by many tasks."""

    def __init__(self, parameters: dict[str, str], statement_cache_size: int, max_in_flight: int) -> None:
        super().__init__(BUFFER_SIZE)
        self.parameters = parameters
        self.first_parameters = dict(parameters)
        self.statements = statements.StatementCache(statement_cache_size)
        self.max_in_flight = max_in_flight
        self.encoded = 0
        self.numbers = 0
        self.holds = 0
        self.pending: deque[requests.Request] = deque()
        self.inflight: deque[requests.Request] = deque()
        self.nobody = requests.Request(None, "", 0.0)
        self.nobody.script = bytes([State.IDLE])
        self.head = self.nobody  # the oldest in flight
        self.window: Window | None = None
        self.groups = 0  # sync groups encoded
        self.is_in_group = False  # the last encoded request was an item
        self.group: list[requests.Request] = []  # items that wait for their ReadyForQuery
        self.is_skipping = False  # an item failed: nothing answers those behind it, up to Sync
        self.foreign: ForeignTransaction | None = None
        self.rollback: requests.Request | None = None
        self.actions = ACTIONS
        self.next_states = NEXT_STATES
        self.state = self.head.script[0]
        self.status = 73
        self.notifications = notification_queue.NotificationQueue()
        self.on_notice: Callable[[PgError], None] | None = None
        self.keeper: requests.Keeper | None = None
        self.must_write = False  # a server that refuses to write is the wrong one
        self.slow = -1  # the number of a request that was the oldest for some time
        self.last_words: PgError | None = None
        self.retired = ""
        self.is_terminated = False
        self.is_ours = False

    # ---- requests in

    def submit(self, request: requests.Request) -> None:
        """Encode the request if there is room, else let it wait its turn."""
        if self.failure is not None or self.retired:
            raise termination.refused(self)
        if not self.pending and self.window is None and not request.is_window and self.has_room():
            self.encode(request)
        else:
            self.pending.append(request)
            if request.is_window:
                self.pump()

    def submit_inside(self, window: Window, request: requests.Request) -> None:
        """The same for a request of the window's owner."""
        if self.failure is not None or (self.retired and self.retired == termination.FAREWELL):
            raise termination.refused(self)
        if self.window is not window:
            raise UsageError(f"{window.sql} has ended: use the connection, or open another one")
        request.may_stay_open = window.has_state
        if not window.inside and self.has_room():
            self.encode(request)
        else:
            window.inside.append(request)

    def leave(self, window: Window) -> None:
        """The window is over, all its requests are answered; those outside have their turn."""
        if self.window is window:
            self.window = None
            self.pump()
            if self.retired and self.failure is None:
                self.finish()

    def has_room(self) -> bool:
        """Whether a request may be encoded now."""
        # Items are not counted: before their Sync the server need not answer one.
        return (
            self.holds == 0
            and (len(self.inflight) < self.max_in_flight or self.is_in_group)
            and (len(self.out) < octets.HIGH_WATER or not self.inflight)  # else no answer would ask again
        )

    def pump(self) -> None:
        """Encode what waits, as far as there is room; what nobody waits for any more is dropped."""
        while self.has_room():
            queue = self.pending if self.window is None else self.window.inside
            if not queue:
                return
            request = queue[0]
            if request.sink is not None and request.sink.done() and request.script is not SYNC_SCRIPT:
                queue.popleft()  # but a Sync stays where it is: it parts two groups
                continue
            if request.is_window and self.inflight:
                return
            queue.popleft()
            if request.is_window:
                window = cast("Window", request)
                self.window = window
                window.open()
            else:
                self.encode(request)

    # ---- bytes out

    def encode(self, request: requests.Request) -> None:
        """Append the request to `out`, whole."""
        if request.parts is not None:
            begin = self.encoded
            for part in request.parts:
                self.encode(part)
                part.begin = begin  # they share their fate
            return
        self.numbers += 1
        request.number = self.numbers
        request.begin = self.encoded
        n = len(self.out)
        if request.data is None:
            extended_query.append(self.out, request, self.statements, self.groups, self.is_in_group)
        else:
            if request.is_item and self.statements.closing and not self.is_in_group:
                request.script = extended_query.close_evicted(self.out, self.statements) + request.script
            self.out += request.data
        self.encoded += len(self.out) - n
        self.is_in_group = request.is_item
        if not request.is_item:
            self.groups += 1
        self.inflight.append(request)
        if self.head is self.nobody:
            self.next_head()

    def sent(self, n: int) -> None:
        """What had no room is encoded as room comes: within a sync group no answer need come to ask for it."""
        before = len(self.out)
        Receiver.sent(self, n)
        if len(self.out) < octets.LOW_WATER <= before:
            self.pump()

    def append(self, data: bytes) -> None:
        """Put encoded bytes behind all others."""
        self.out += data
        self.encoded += len(data)

    # ---- bytes in

    def received(self, n: int) -> None:
        """`n` bytes have come into `buffer` behind `tail`: complete what they complete. Then both may be new."""
        if self.failure is not None:
            return
        was_idle = self.head is self.nobody
        try:
            self.keep(self.take(self.tail + n), self.tail + n)
        except ProtocolError as error:
            self.lost(error)
        else:
            self.is_complete = self.head is self.nobody and not was_idle
            self.pump()
            if self.retired and self.failure is None:
                self.finish()

    def take(self, end: int) -> int:
        """Handle the complete messages before `end`; returns where the first incomplete one begins."""
        p = self.buffer
        i = 0
        while end - i >= 5 and self.failure is None:
            cell = self.state * 256 + p[i]
            action = self.actions[cell]
            if action == octets.ROW or action == octets.DATA:
                if action == octets.ROW:
                    at = self.head.take_rows(p, i, end, self.state == octets.EXECUTE)
                else:
                    at = self.head.take_data(p, i, end)
                if at != i:
                    i = at
                    continue
            stop = i + 1 + octets.get_i32(p, i + 1)
            if action == 0 or stop < i + 5 or stop - i > octets.SHORT_LIMIT:
                answers.check(self, i, stop)
            if stop > end:
                break
            if action == octets.TAG:
                self.take_tag(i + 5, stop)
            elif action == octets.READY or action == octets.NEXT:
                if stop - i != 5 + (action == octets.READY):
                    raise answers.misfit(self, i, "has a body of the wrong length")
                if action == octets.READY:
                    self.ready(p[i + 5])
                    i = stop
                    continue
                self.acknowledged()
            elif action == octets.NOTIFICATION:
                self.notifications.arrived(octets.get_bytes(p, i + 5, stop - i - 5))
            else:
                answers.take(self, action, p[i], octets.get_bytes(p, i + 5, stop - i - 5))
            self.advance(self.next_states[cell])
            i = stop
        return i

    def take_tag(self, i: int, stop: int) -> None:
        """CommandComplete: one result is whole."""
        p = self.buffer
        if stop == i or p[stop - 1] != 0:
            raise ProtocolError("CommandComplete without its final NUL")
        if octets.find_nul(p, i, stop - 1) >= 0:
            raise ProtocolError("CommandComplete with bytes behind its NUL")
        tag = octets.get_text(p, i, stop - i - 1, "replace")
        request = self.head
        request.tag = tag
        if self.window is not None:
            is_empty = request.columns == octets.ANY_COUNT and request.body is None and not request.made
            if is_empty or request.columns == octets.NO_ROWS or tag != self.window.last_tag:
                self.window.saw(tag, is_empty or request.columns == octets.NO_ROWS)
        if p[i] in (65, 67, 68, 80, 86):  # what COMMITTING begins with, DISCARD ALL and DEALLOCATE ALL
            answers.special_tag(self, request, tag)
        request.end_result(tag)

    def acknowledged(self) -> None:
        """ParseComplete: the name is taken, whatever happens to the request. BindComplete: no more repairs."""
        request = self.head
        if self.state == octets.BIND:
            request.is_bound = True
        elif self.state == octets.PARSE and request.statement is not None:
            request.statement.is_parsed = True

    def advance(self, target: int) -> None:
        """Enter the state that THE TABLE names."""
        if target < octets.STAY:
            self.state = target
        elif target != octets.STAY:
            request = self.head
            request.step = request.step + 1 if target == octets.STEP else len(request.script) - 1
            if request.is_item and (target == octets.END or request.step == len(request.script)):
                self.end_item(target == octets.END)
                return
            self.state = request.script[request.step]
            if request.taker is not None and self.state == octets.EXECUTE:
                request.taker.header(request.fields)

    def end_item(self, has_failed: bool) -> None:
        """An item is answered, for better or worse; its fate is known at ReadyForQuery."""
        self.group.append(self.inflight.popleft())
        self.is_skipping = has_failed
        self.next_head()

    def next_head(self) -> None:
        """The oldest request in flight has its turn; behind a failed item, the one that ends its group."""
        while self.is_skipping and self.inflight and self.inflight[0].is_item:
            endings.skip(self, self.inflight[0])
            self.group.append(self.inflight.popleft())
        self.head = self.inflight[0] if self.inflight else self.nobody
        if self.is_skipping and self.inflight:
            endings.skip(self, self.head)
            self.head.step = len(self.head.script) - 1
        self.state = self.head.script[self.head.step]

    def ready(self, status: int) -> None:
        """ReadyForQuery: the oldest request is answered; the next one's turn."""
        if status != 73:  # I
            answers.check_status(status)
        request = self.inflight.popleft()
        self.is_skipping = False
        self.next_head()
        self.status = status
        if (
            status != 73
            or request.error is not None
            or self.foreign is not None
            or self.group
            or request.unit is not None
            or request.sink is None
            or request.refusal is not None
        ):
            endings.settle(self, request, status)
        elif not request.sink.done():
            request.sink.set_result(request.answer())

    # ---- deadlines and the end

    def waiting(self) -> list[requests.Request]:
        """All requests that are not answered yet, oldest first."""
        withheld = self.foreign.withheld if self.foreign is not None else []
        inside = self.window.inside if self.window is not None else []
        return [*withheld, *self.group, *self.inflight, *inside, *self.pending]

    def release(self) -> None:
        """Take back one of the `holds`."""
        self.holds -= 1
        self.pump()

    @property
    def transaction_status(self) -> TransactionStatus:
        """ReadyForQuery's last word."""
        return TransactionStatus(chr(self.status))

    def finish(self) -> None:
        """Say Terminate once all is answered; the server closes then. One that has said why closes by itself."""
        is_over = not self.inflight and not self.pending and self.window is None
        if is_over and not self.is_terminated and self.retired != termination.FAREWELL:
            from . import messages

            self.is_terminated = True
            self.append(messages.encode(messages.Terminate()))

    def lost(self, cause: BaseException | None) -> None:
        """The connection has ended: everybody who waits is told, and whether its request may have run."""
        if self.failure is None:
            termination.lose(self, cause)
