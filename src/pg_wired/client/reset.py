"""What a window may have left behind, and how the session becomes what it was."""

from __future__ import annotations

from ..protocol.types import TransactionStatus
from .lease import Turn

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


def is_due(turn: Turn) -> bool:
    """Whether the session may be another one than before the turn."""
    window, session = turn.window, turn.link.session
    return turn.is_state_mutated or not window.tags <= HARMLESS or session.parameters != window.parameters


async def run(turn: Turn) -> None:
    """ROLLBACK where a transaction is open, and the reset where it is due; inside the turn, at its end."""
    session = turn.link.session
    if session.transaction_status is not TransactionStatus.IDLE:
        await turn.ask("ROLLBACK")
    if is_due(turn):
        await turn.ask("; ".join([RESET, *_more(turn)]))
        session.check_settings()
        turn.was_reset()


def _more(turn: Turn) -> list[str]:
    """What only some tags make necessary."""
    tags = turn.window.tags
    more = []
    if tags & {"LISTEN", "UNLISTEN", "DISCARD ALL"}:
        more += ["UNLISTEN *", *[f"LISTEN {channel}" for channel in turn.link.channels]]
    if tags & {"PREPARE", "DEALLOCATE"}:
        more.append("DEALLOCATE ALL")
    return more
