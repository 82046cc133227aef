"""ExclusiveConn: a connection for one owner alone, for transactions and session state; left as it was found."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from .error import PgWireError, UsageError
from .link import Link
from .portal import Portal, bound
from .protocol import answers
from .protocol.types import Oid, TransactionStatus, Value
from .queries import Queries
from .turn import Turn

# Command tags behind which the session is as it was, once there is no transaction. What they cannot show (set_config,
# advisory locks) the owner has to say: mark_state_mutated().
HARMLESS = frozenset(
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
    ]
) | {"START TRANSACTION", "SET CONSTRAINTS", "LOCK TABLE", ""}
# DISCARD ALL in its parts (chapter "DISCARD"), but for what we keep: statements of our cache, and the connection's
# channels.
RESET = (
    "CLOSE ALL; SET SESSION AUTHORIZATION DEFAULT; RESET ALL; SELECT pg_advisory_unlock_all(); "
    "DISCARD PLANS; DISCARD TEMP; DISCARD SEQUENCES"
)


class ExclusiveConn(Queries):
    """What `AsyncConn.exclusive()` opens. Behind it a transaction is rolled back, and changed state reset."""

    def __init__(self, link: Link, acquire_timeout: float | None, channels: Callable[[], Iterable[str]]) -> None:
        self._window = Turn(link, "exclusive()", has_state=True)
        super().__init__(link, self._window.submit, lambda name, _: InnerTurn(self._window, name))
        self._acquire_timeout = acquire_timeout
        self._channels = channels
        self._is_state_mutated = False
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
        return Portal(self._link, self._submit, name, bind)

    @property
    def transaction_status(self) -> TransactionStatus:
        """As of the last ReadyForQuery."""
        return self._link.session.transaction_status

    def mark_state_mutated(self) -> None:
        """Have the session reset behind this, although command tags do not show why."""
        self._is_state_mutated = True

    async def __aenter__(self) -> ExclusiveConn:
        await self._window.enter(self._acquire_timeout)
        self._window.window.parameters = dict(self._link.session.parameters)
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self.transaction_status is not TransactionStatus.IDLE or not self._window.is_idle or self._needs_reset:
            self._window.clean = self._clean
        await self._window.leave()

    @property
    def _needs_reset(self) -> bool:
        window, session = self._window.window, self._link.session
        return self._is_state_mutated or not window.tags <= HARMLESS or session.parameters != window.parameters

    async def _clean(self) -> None:
        if self.transaction_status is not TransactionStatus.IDLE:
            await self.simple_query("ROLLBACK")
        if self._needs_reset:
            await self.simple_query("; ".join([RESET, *self._more()]))
            answers.check_parameters(self._link.session)

    def _more(self) -> list[str]:
        """What only some tags make necessary."""
        tags = self._window.window.tags
        more = []
        if tags & {"LISTEN", "UNLISTEN", "DISCARD ALL"}:
            more += ["UNLISTEN *", *[f"LISTEN {channel}" for channel in self._channels()]]
        if tags & {"PREPARE", "DEALLOCATE"}:
            more.append("DEALLOCATE ALL")
        return more


class InnerTurn(Turn):
    """A verb inside `exclusive()`: nothing to wait for, and nothing to give back but an idle connection."""

    def __init__(self, outer: Turn, name: str) -> None:
        super().__init__(outer.link, name, has_state=True)
        self._outer = outer

    @property
    def is_outermost(self) -> bool:
        return False

    async def enter(self, timeout: float | None, deadline: float = 0.0) -> None:
        if self._outer.inner is not None:
            raise UsageError(f"{self._outer.inner.name} is open inside {self._outer.name}: leave it first")
        self.clean = self._cleaning = None
        self.is_abandoned = False
        self._window = self._outer.window
        self._outer.inner = self

    def _give_back(self) -> None:
        self._window = None
        if self._outer.inner is self:
            self._outer.inner = None
            held, self._outer.held = self._outer.held, []
            for request in held:
                try:
                    self._outer.submit(request)
                except PgWireError as error:
                    request.fail(error)

    def _owner_behind(self) -> object:
        return self.window.owner
