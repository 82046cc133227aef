"""What a window may have left behind, and how the session becomes what it was."""

from __future__ import annotations

from ..protocol.types import TransactionStatus
from .lease import Lease

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
        "SHOW",
    ]
) | {"START TRANSACTION", "SET CONSTRAINTS", "LOCK TABLE", ""}
# DISCARD ALL in its parts (chapter "DISCARD"), but for what we keep: statements of our cache, and the connection's
# channels.
RESET = (
    "CLOSE ALL; SET SESSION AUTHORIZATION DEFAULT; RESET ALL; SELECT pg_advisory_unlock_all(); "
    "DISCARD PLANS; DISCARD TEMP; DISCARD SEQUENCES"
)


def is_due(lease: Lease) -> bool:
    """Whether the session may be another one than before the turn."""
    window, session = lease.window, lease.core.session
    return lease.is_state_mutated or not window.tags <= HARMLESS or session.parameters != window.parameters


async def run(lease: Lease) -> None:
    """ROLLBACK where a transaction is open, and the reset where it is due; inside the turn, at its end."""
    session = lease.core.session
    if session.transaction_status is not TransactionStatus.IDLE:
        await lease.ask("ROLLBACK")
    if is_due(lease):
        await lease.ask("; ".join([RESET, *_more(lease)]))
        session.check_settings()
        lease.was_reset()


def _more(lease: Lease) -> list[str]:
    """What only some tags make necessary."""
    tags = lease.window.tags
    more = []
    if tags & {"LISTEN", "UNLISTEN", "DISCARD ALL"}:
        more += ["UNLISTEN *", *[f"LISTEN {channel}" for channel in lease.core.channels]]
    if tags & {"PREPARE", "DEALLOCATE"}:
        more.append("DEALLOCATE ALL")
    return more
