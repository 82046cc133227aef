"""A turn on a lent connection: borrowed when it begins, given back clean when it ends."""

from __future__ import annotations

import asyncio
from functools import partial

from ..client import reset
from ..client.lease import AcquireTimeout, Lease
from ..errors import PgWireError
from ..protocol.types import TransactionStatus
from .lending import Checkout, Lending


class PoolLease(Lease):
    """Nobody else is on the connection, so its window opens at once."""

    def __init__(self, lending: Lending, name: str, has_state: bool = False) -> None:
        super().__init__(lending, name, has_state)
        self._lending = lending
        self._lent: Checkout | None = None

    async def enter(self, timeout: AcquireTimeout, deadline: float = 0.0) -> None:
        """Borrow a connection. PoolExhausted after `timeout` seconds, RequestTimeout at `deadline`."""
        latest = self.deadline(self._lending.connections.settings.acquire_timeout if timeout is ... else timeout)
        while True:
            lent = self._lent = await self._lending.acquire(self.name, latest, deadline)
            lent.task = asyncio.current_task()
            self._core = lent.conn._core
            try:
                await self._open(deadline)
                return
            except BaseException as error:
                self._let_go(lent)
                if not isinstance(error, PgWireError) or not lent.conn.is_broken:
                    raise

    async def leave(self) -> None:
        """Give it back. Where only a reset is left to do, nobody waits for that but the next borrower of this one."""
        lent = self._lent
        if self._window is None or lent is None:
            return
        session = self.core.session
        if session.failure is None and (self.clean is not None or reset.is_due(self)):
            behind = PoolLease(self._lending, self.name)
            behind._lent, behind._core, behind._window = lent, self._core, self._window
            behind.is_state_mutated = self.is_state_mutated
            behind.clean = partial(reset.run, behind)
            is_idle = self.is_idle and session.transaction_status is TransactionStatus.IDLE
            behind.inner, behind.held, behind.cancels = self.inner, self.held, self.cancels
            if behind.inner is not None:
                behind.inner.move_to(behind)
            self.inner, self.held = None, []
            self._lent = self._core = self._window = None
            if is_idle:
                lent.task = None
                behind.abandon(Lease.leave(behind))
            else:
                await Lease.leave(behind)
        else:
            await super().leave()

    def was_reset(self) -> None:
        """Only on_connect has to run again, which it does once this is given back."""

    def _give_back(self) -> None:
        lent = self._lent
        is_reset = self.core.session.failure is None and reset.is_due(self)
        super()._give_back()
        if lent is not None:
            self._let_go(lent, is_reset)

    def _let_go(self, lent: Checkout, is_reset: bool = False) -> None:
        self._lent = self._core = None
        if is_reset:
            self._lending.set_up_again(lent)
        else:
            self._lending.release(lent)
