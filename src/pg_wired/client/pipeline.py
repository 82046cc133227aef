"""PgPipeline: requests one behind the other, in sync groups of the caller's choosing, as in libpq's pipeline mode."""

from __future__ import annotations

import asyncio
from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from ..connect.wire_conn import WireConn
from ..errors import ConnectionClosed, IoError, ProtocolError, RequestTimeout, TransactionError
from ..protocol.records import StatementDescription
from ..protocol.rows import Rows
from ..protocol.types import Oid, TransactionStatus, Value
from ..session.request import Request, described_item, query_request, simple_query_request, sync_request
from .core import Core
from .lease import AcquireTimeout, Lease

T = TypeVar("T")

# What ends many items for one reason.
SHARED = (ConnectionClosed, IoError, ProtocolError, RequestTimeout)


class ItemReply:
    """What comes of one item: the sink of its request. A future is made only for who waits already, and for an error.

    Most items are awaited when the whole group is answered, and never need one.
    """

    def __init__(self, pipeline: PgPipeline) -> None:
        self._pipeline = pipeline
        self._group = pipeline.groups
        self._reply: asyncio.Future[Any] | None = None
        self._result: Any = None
        self._has_result = False

    @property
    def reply(self) -> asyncio.Future[Any]:
        """The same as a future."""
        return self._future()

    def _future(self) -> asyncio.Future[Any]:
        if self._reply is None:
            self._reply = self._pipeline.loop.create_future()
            if self._has_result:
                self._reply.set_result(self._result)
        return self._reply

    def done(self) -> bool:
        return self._has_result or (self._reply is not None and self._reply.done())

    def set_result(self, result: Any) -> None:
        if self._reply is not None:
            self._reply.set_result(result)
        self._has_result = True
        self._result = result

    def set_exception(self, exception: BaseException) -> None:
        """Of those that the connection or the deadline has failed, one that nobody looks at is enough for the log."""
        self._future().set_exception(exception)
        if isinstance(exception, SHARED):
            if self._pipeline.has_told:
                self.exception()
            self._pipeline.has_told = True

    def exception(self) -> BaseException | None:
        return self._future().exception()

    def __await__(self) -> Generator[object, None, Any]:
        if not self._has_result:
            if self._group == self._pipeline.groups and not self.done():
                self._pipeline.sync()
            yield from self._future()
        return self._result if self._reply is None else self._reply.result()


class PipelineItem(ItemReply, Generic[T]):
    """One request of a pipeline; awaiting it syncs first, if that has not been done."""

    __slots__ = ()

    if TYPE_CHECKING:

        def __await__(self) -> Generator[object, None, T]: ...


class PgPipeline:
    """`async with conn.pipeline() as pipeline`: queue with `query`, `simple_query`, `describe`; `sync` ends a group.

    A sync group is an implicit transaction: after an error its other items fail as PipelineAborted, and nothing of it
    remains. Results come when the group has ended. What was queued and never synced is synced at the end of the block.
    `PgPipeline(wire)` borrows a WireConn for the time of the block.
    """

    def __init__(self, owner: Lease | WireConn, acquire_timeout: AcquireTimeout = ...) -> None:
        self._wire = owner if isinstance(owner, WireConn) else None
        # Names in a cache of its own would meet those of the next one.
        self._lease = (
            owner
            if isinstance(owner, Lease)
            else Lease(Core(owner, statement_cache_size=0), "pipeline()", has_state=True)
        )
        self._acquire_timeout = acquire_timeout
        self.loop = self._lease.loop
        self._last: asyncio.Future[Rows] | None = None
        self._queued = 0
        self.groups = 0
        self.has_told = False  # an item has failed for a reason that others share

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
        """Queue one extended query; arguments as `exec_query` has them."""
        item: PipelineItem[Rows] = PipelineItem(self)
        deadline = 0.0 if timeout is None else self._lease.deadline(timeout)
        self._queue(query_request(item, sql, params, param_oids, param_formats, result_formats, deadline))
        return item

    def describe(self, sql: str, param_oids: Sequence[Oid] = ()) -> PipelineItem[StatementDescription]:
        """Queue the description of a statement."""
        item: PipelineItem[StatementDescription] = PipelineItem(self)
        self._queue(described_item(item, sql, param_oids))
        return item

    def simple_query(self, sql: str) -> PipelineItem[list[Rows]]:
        """Queue a simple Query: a sync group of its own, so what is queued before it is synced."""
        if self._queued:
            self.sync()
        item: PipelineItem[list[Rows]] = PipelineItem(self)
        # Alone in flight, it is cancelled once nobody waits; the watch hears of that from a future.
        self._lease.submit(simple_query_request(item.reply, sql, 0.0))
        self.groups += 1
        return item

    def sync(self) -> asyncio.Future[Rows]:
        """End the group; done when the server has answered all of it, whatever the answers are."""
        reply: asyncio.Future[Rows] = self.loop.create_future()
        reply.add_done_callback(_seen)  # the items say what went wrong
        self._lease.submit(sync_request(reply))
        self._last = reply
        self._queued = 0
        self.groups += 1
        return reply

    def _queue(self, request: Request) -> None:
        request.become_item()
        self._lease.submit(request)
        self._queued += 1

    async def __aenter__(self) -> PgPipeline:
        await self._lease.enter(self._acquire_timeout)
        return self

    async def __aexit__(self, kind: object, *exc: object) -> None:
        try:
            if kind is None:
                await self._finish()
        finally:
            if self._lease.is_outermost:
                self._core.session.check_settings()
                self._lease.clean = None if self._is_clean else self._clean
            await self._lease.leave()
            if self._wire is not None:
                self._core.watchdog.stop()
                session = self._core.session
                self._wire.take_back(bytes(session.buffer[: session.tail]))

    async def _finish(self) -> None:
        if self._queued or not self._lease.is_idle:
            await self.sync()
        if self._lease.is_outermost and self._core.session.transaction_status is not TransactionStatus.IDLE:
            raise TransactionError("the pipeline left a transaction open: it is rolled back; end it with COMMIT")

    @property
    def _is_clean(self) -> bool:
        return self._lease.is_idle and self._core.session.transaction_status is TransactionStatus.IDLE

    async def _clean(self) -> None:
        if self._core.session.transaction_status is not TransactionStatus.IDLE:
            await self._lease.ask("ROLLBACK")
        self._core.session.check_settings()


def _seen(reply: asyncio.Future[T]) -> None:
    if not reply.cancelled():
        reply.exception()
