"""ExclusiveConn: a connection for one owner alone, for transactions and session state; left as it was found."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from ..errors import Outcome, PgWireError, UsageError
from ..loop.clock import sooner
from ..protocol.rows import Rows
from ..protocol.types import Oid, TransactionStatus, Value
from ..session.request import sync_request
from . import reset
from .lease import ACQUIRE_TIMEOUT_SECONDS, AcquireTimeout, Lease
from .portal import Portal, bound
from .queries import Queries

if TYPE_CHECKING:
    from ..connect.cancel import CancelToken

_log = logging.getLogger("pg_wired")


class ExclusiveConn(Queries):
    """What `exclusive()` opens. Behind it a transaction is rolled back, and changed state reset.

    Where no exception says why, a warning of the logger `pg_wired` tells of the transaction.
    """

    def __init__(self, lease: Lease, acquire_timeout: AcquireTimeout) -> None:
        super().__init__(lease, lambda name, _: NestedLease(lease, name))
        self._lease = lease
        self._acquire_timeout = acquire_timeout
        self._portals = 0

    def portal(
        self,
        sql: str,
        params: Sequence[Value] = (),
        param_oids: Sequence[Oid] = (),
        *,
        param_formats: int | Sequence[int] = 0,
        result_formats: int | Sequence[int] = 0,
    ) -> Portal:
        """A query's rows in portions, inside a transaction; arguments as `exec_query` has them."""
        self._portals += 1
        name = f"pg_wired_{self._portals}"
        bind = bound(name, sql, params, param_oids, param_formats, result_formats)
        return Portal(self._lease.core, self._submit, name, bind)

    @property
    def transaction_status(self) -> TransactionStatus:
        """As of the last ReadyForQuery."""
        return self._lease.core.session.transaction_status

    @property
    def backend_pid(self) -> int | None:
        """The server process of this session; None where the server named none."""
        return self._lease.core.wire.pid

    def cancel_token(self) -> CancelToken:
        """What cancels, from elsewhere, whatever runs in this block at that moment; behind it, it does nothing."""
        lease = self._lease
        window, token = lease.window, lease.core.wire.cancel_token()
        return token.bound_to(lambda: lease.holds(window), lease.cancels)

    def mark_state_mutated(self) -> None:
        """Have the session reset behind this, although command tags do not show why."""
        self._lease.is_state_mutated = True

    def mark_broken(self) -> None:
        """Say that the connection must not be used again behind this: a pool closes it."""
        self._lease.core.mark_broken()

    async def __aenter__(self) -> ExclusiveConn:
        await self._lease.enter(self._acquire_timeout)
        return self

    async def __aexit__(self, error: type[BaseException] | None = None, *exc: object) -> None:
        lease, status = self._lease, self.transaction_status
        is_open = status is TransactionStatus.IN_TRANSACTION and lease.is_idle  # else its end may be under way
        if error is None and is_open and lease.core.session.failure is None:
            text = "%s: %s ended inside a transaction, which is rolled back: end it with commit or rollback"
            _log.warning(text, lease.core.wire.address, lease.name, stacklevel=2)  # the line of its `async with`
        if status is not TransactionStatus.IDLE or not lease.is_idle or reset.is_due(lease):
            lease.clean = partial(reset.run, lease)
        await lease.leave()


class NestedLease(Lease):
    """A verb inside `exclusive()`: nothing to wait for, and nothing to give back but an idle connection."""

    def __init__(self, outer: Lease, name: str) -> None:
        super().__init__(outer.core, name, has_state=True)
        self._outer = outer
        self._over: asyncio.Future[None] = outer.core.loop.create_future()

    @property
    def is_outermost(self) -> bool:
        return False

    async def enter(self, timeout: AcquireTimeout, deadline: float = 0.0) -> None:
        while self._outer.inner is not None:
            if not self._outer.inner.is_left:
                raise UsageError(f"{self._outer.inner.name} is open inside {self._outer.name}: leave it first")
            await self._outer.inner.over()
        self.clean = self._cleaning = None
        self.is_abandoned = False
        self._window = self._outer.window
        self._over = self.core.loop.create_future()
        self._outer.inner = self
        if not self.is_idle:
            try:
                await self._own_time(timeout, deadline)
            except BaseException:
                self._give_back()
                raise

    async def _own_time(self, timeout: AcquireTimeout, deadline: float) -> None:
        """Until all is answered that was asked in the block before: it must not be stopped with what is asked here."""
        reply: asyncio.Future[Rows] = self.core.loop.create_future()
        latest = sooner(self.deadline(ACQUIRE_TIMEOUT_SECONDS if timeout is ... else timeout), deadline)
        self.submit(sync_request(reply, latest))
        try:
            await reply
        except PgWireError as error:
            raise error.with_outcome(Outcome.NOT_SENT) from None

    def move_to(self, outer: Lease) -> None:
        self._outer = outer

    async def over(self) -> None:
        if not self.is_abandoned:
            self.abandon(self.leave())
        await asyncio.shield(self._over)

    def _give_back(self) -> None:
        self.core.transport.resume()
        self._window = None
        if not self._over.done():
            self._over.set_result(None)
        if self._outer.inner is self:
            self._outer.inner = None
            held, self._outer.held = self._outer.held, []
            for request, timer in held:
                if timer is not None:
                    timer.cancel()
                try:
                    self._outer.submit(request)
                except PgWireError as error:
                    request.fail(error)

    def _owner_behind(self) -> object:
        return self.window.owner
