"""ExclusiveConn: a connection for one owner alone, for transactions and session state."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..protocol.types import Oid, TransactionStatus, Value
from .lease import AcquireTimeout, Lease, NestedLease
from .portal import Portal, bound
from .queries import Queries

if TYPE_CHECKING:
    from ..connect.cancel import CancelToken

_log = logging.getLogger("pg_wired")


class ExclusiveConn(Queries):
    """`async with conn.exclusive() as mine`: no other task's request runs on the connection inside the block.

    At the end of the block an open transaction is rolled back, and a changed session is reset. If the block leaves a
    transaction open without an exception, a warning on the logger `pg_wired` says so.
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
        """A query's rows in portions, inside a transaction; the arguments are those of `exec_query`.

        Raises TypeError and ConfigError for arguments that cannot be sent.
        """
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
        return self._lease.core.pid

    def cancel_token(self) -> CancelToken:
        """A token that cancels, from elsewhere, whatever runs in this block; after the block it does nothing.

        Raises UsageError where the server gave no key for it.
        """
        from ..connect.cancel import narrowed

        lease = self._lease
        window, token = lease.window, lease.core.cancel_token()
        return narrowed(token, lambda: lease.has(window), lease.cancels)

    def mark_state_mutated(self) -> None:
        """Have the session reset at the end of the block, although command tags do not show a change."""
        self._lease.mark_state_mutated()

    def mark_broken(self) -> None:
        """Say that the connection must not be used again after the block: a pool closes it."""
        self._lease.core.mark_broken()

    async def __aenter__(self) -> ExclusiveConn:
        await self._lease.enter(self._acquire_timeout)
        return self

    async def __aexit__(self, error: type[BaseException] | None = None, *exc: object) -> None:
        lease, status = self._lease, self.transaction_status
        is_open = status is TransactionStatus.IN_TRANSACTION and lease.is_idle  # else its end may be under way
        if error is None and is_open and lease.core.session.failure is None:
            text = "%s: %s ended inside a transaction, which is rolled back: end it with commit or rollback"
            _log.warning(text, lease.core.address, lease.name, stacklevel=2)  # the line of its `async with`
        if status is not TransactionStatus.IDLE or not lease.is_idle or lease.needs_reset:
            lease.reset_at_end()
        await lease.leave()
