"""PgPipeline: requests one after another, in sync groups of the caller's choosing, as in libpq's pipeline mode."""

from __future__ import annotations

import asyncio
from collections.abc import Generator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from ..connect.wire_conn import WireConn, take_back, take_over
from ..errors import ConnectionClosed, IoError, ProtocolError, RequestTimeout, TransactionError
from ..protocol.records import StatementDescription
from ..protocol.rows import Rows
from ..protocol.types import Oid, TransactionStatus, Value
from ..session.request import Request, described_item, query_request, simple_query_request, sync_request
from .core import Core
from .lease import AcquireTimeout, Lease

T = TypeVar("T")

# Errors that end many items for one reason.
SHARED_ERRORS = (ConnectionClosed, IoError, ProtocolError, RequestTimeout)


class ItemReply:
    """The result of one item: the sink of its request.

    A future is made only for a task that waits already, and for an error. Most items are awaited after the whole group
    was answered, and never need one.
    """

    def __init__(self, pipeline: PgPipeline) -> None:
        self._pipeline = pipeline
        self._group = pipeline._groups
        self._reply: asyncio.Future[Any] | None = None
        self._result: Any = None
        self._has_result = False

    def _future(self) -> asyncio.Future[Any]:
        if self._reply is None:
            self._reply = self._pipeline._loop.create_future()
            if self._has_result:
                self._reply.set_result(self._result)
        return self._reply

    def _as_future(self) -> asyncio.Future[Any]:
        """The result as a future."""
        return self._future()

    def done(self) -> bool:
        return self._has_result or (self._reply is not None and self._reply.done())

    def set_result(self, result: Any) -> None:
        if self._reply is not None:
            self._reply.set_result(result)
        self._has_result = True
        self._result = result

    def set_exception(self, exception: BaseException) -> None:
        """Fail. Of several items that one reason has failed, only the first is logged if none of them is awaited."""
        self._future().set_exception(exception)
        if isinstance(exception, SHARED_ERRORS):
            if self._pipeline._has_shared_failure:
                self.exception()
            self._pipeline._has_shared_failure = True
        if isinstance(exception, RequestTimeout):
            self._pipeline._item_timed_out()

    def exception(self) -> BaseException | None:
        return self._future().exception()

    def __await__(self) -> Generator[object, None, Any]:
        if not self._has_result:
            if self._group == self._pipeline._groups and not self.done():
                self._pipeline.sync()
            yield from self._future()
        return self._result if self._reply is None else self._reply.result()


class PipelineItem(ItemReply, Generic[T]):
    """One request of a pipeline. Awaiting it inside the block sends a Sync first, if that was not done.

    Raises PgError where the server refused it, PipelineAborted where an earlier item of its sync group had failed.
    """

    __slots__ = ()

    if TYPE_CHECKING:

        def __await__(self) -> Generator[object, None, T]: ...


class PgPipeline:
    """`async with conn.pipeline() as pipeline`: queue with `query`, `simple_query`, `describe`; `sync` ends a group.

    A sync group is an implicit transaction: after an error its other items fail as PipelineAborted, and nothing of it
    remains. Results are there when the group has ended. Items that were queued and not synced are synced at the end of
    the block. `PgPipeline(wire)` uses a WireConn for the time of the block. Source: libpq, "Pipeline Mode".
    """

    def __init__(self, owner: Lease | WireConn, acquire_timeout: AcquireTimeout = ...) -> None:
        self._wire = owner if isinstance(owner, WireConn) else None
        if isinstance(owner, WireConn):
            # A later pipeline on this connection would know nothing of statements that were cached in this one.
            core = take_over(owner, partial(Core, statement_cache_size=0))
            self._lease = Lease(core.clock, core, "pipeline()", has_state=True)
        elif isinstance(owner, Lease):
            self._lease = owner
        else:
            raise TypeError(
                f"PgPipeline takes a WireConn, not {type(owner).__name__}: or use pipeline() of a connection"
            )
        self._acquire_timeout = acquire_timeout
        self._loop = self._lease.loop
        self._queued = 0
        self._groups = 0
        self._has_shared_failure = False
        self._has_deadline = False
        self._has_timed_out = False
        self._waiter: asyncio.Future[Any] | None = None  # of the end of the block, until an item times out

    def _item_timed_out(self) -> None:
        """The end of the block need not wait for the server any more, if that was the last item with a caller."""
        self._has_timed_out = True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    @property
    def _core(self) -> Core:
        return self._lease.core

    def query(
        self,
        sql: str,
        params: Sequence[Value] = (),
        param_oids: Sequence[Oid] = (),
        *,
        param_formats: int | Sequence[int] = 0,
        result_formats: int | Sequence[int] = 0,
        timeout: float | None = None,
    ) -> PipelineItem[Rows]:
        """Queue one extended query; arguments and errors are those of `exec_query`."""
        item: PipelineItem[Rows] = PipelineItem(self)
        deadline = 0.0
        if timeout is not None:
            deadline = self._lease.deadline(timeout)
            self._has_deadline = True
        self._queue(query_request(item, sql, params, param_oids, param_formats, result_formats, deadline))
        return item

    def describe(self, sql: str, param_oids: Sequence[Oid] = ()) -> PipelineItem[StatementDescription]:
        """Queue the description of a statement: its parameter OIDs and columns."""
        item: PipelineItem[StatementDescription] = PipelineItem(self)
        self._queue(described_item(item, sql, param_oids))
        return item

    def simple_query(self, sql: str) -> PipelineItem[list[Rows]]:
        """Queue a simple Query; a Rows for each statement.

        It is a sync group of its own, so items that were queued before it are synced.
        """
        if self._queued:
            self.sync()
        item: PipelineItem[list[Rows]] = PipelineItem(self)
        # If it is alone in flight and no task waits for it, it is cancelled: the watchdog needs a future for that.
        self._lease.submit(simple_query_request(item._as_future(), sql, 0.0))
        self._groups += 1
        return item

    def sync(self) -> asyncio.Future[Rows]:
        """End the group. The future is done when the server has answered all of it, whatever the answers are."""
        reply: asyncio.Future[Rows] = self._loop.create_future()
        reply.add_done_callback(_retrieve)  # the items say what went wrong
        self._lease.submit(sync_request(reply))
        self._queued = 0
        self._groups += 1
        return reply

    def _queue(self, request: Request) -> None:
        request.become_item()
        self._lease.submit(request)
        self._queued += 1

    async def __aenter__(self) -> PgPipeline:
        await self._lease.enter(self._acquire_timeout)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *exc: object) -> None:
        is_late = kind is not None and issubclass(kind, RequestTimeout)
        try:
            if kind is None:
                is_late = not await self._finish()
        finally:
            if self._lease.is_outermost:
                self._core.session.check_settings()
                self._lease.clean_with(None if self._is_clean else self._clean)
            if is_late and self._wire is None:  # a caller whose deadline has passed does not wait for the cleaning
                self._lease.abandon(self._lease.leave())
            else:
                await self._lease.leave()
            if self._wire is not None:
                self._core.watchdog.stop()
                session = self._core.session
                take_back(self._wire, bytes(session.buffer[: session.tail]))

    async def _finish(self) -> bool:
        """End the last group and wait for all answers. False if the remaining items have timed out before that."""
        if (self._queued or not self._lease.is_idle) and not await self._answered(self.sync()):
            return False
        if self._lease.is_outermost and self._core.session.transaction_status is not TransactionStatus.IDLE:
            raise TransactionError("the pipeline left a transaction open: it is rolled back; end it with COMMIT")
        return True

    async def _answered(self, synced: asyncio.Future[Rows]) -> bool:
        """Wait for the answer to the last Sync while a caller waits for an item. Returns whether it has come."""
        while self._has_deadline and not (synced.done() or (self._has_timed_out and not self._lease.is_awaited)):
            self._waiter = self._loop.create_future()
            await asyncio.wait({synced, self._waiter}, return_when=asyncio.FIRST_COMPLETED)
        if self._has_deadline and not synced.done():
            return False
        await synced
        return True

    @property
    def _is_clean(self) -> bool:
        return self._lease.is_idle and self._core.session.transaction_status is TransactionStatus.IDLE

    async def _clean(self) -> None:
        if self._core.session.transaction_status is not TransactionStatus.IDLE:
            await self._lease.ask("ROLLBACK")
        self._core.session.check_settings()


def _retrieve(reply: asyncio.Future[T]) -> None:
    """Mark the exception of a future as retrieved."""
    if not reply.cancelled():
        reply.exception()
