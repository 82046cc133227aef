"""`target_session_attrs`: the kind of session asked for, and whether a server's reports or answers show it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import NamedTuple, TypeAlias

Ask: TypeAlias = Callable[[str], Awaitable[str]]


class Trait(NamedTuple):
    """A property of a session: the settings that report it (one of them on suffices), or a query that tells."""

    settings: tuple[str, ...]
    query: str

    async def holds(self, reported: Mapping[str, str], ask: Ask) -> bool:
        """Whether the session has it. Servers before 14, and poolers, do not report it, and are asked."""
        if all(name in reported for name in self.settings):
            return any(reported[name] == "on" for name in self.settings)
        return await ask(self.query) in ("on", "t")


class Demand(NamedTuple):
    """A trait that is wanted or not, and the refusal in libpq's words (fe-connect.c)."""

    trait: Trait
    wanted: bool
    refusal: str


STANDBY = Trait(("in_hot_standby",), "SELECT pg_catalog.pg_is_in_recovery()")
READ_ONLY = Trait(("default_transaction_read_only", "in_hot_standby"), "SHOW transaction_read_only")

_STANDBY = Demand(STANDBY, True, "server is not in hot standby mode")
# For each value of the option, a demand for each pass over the hosts; None accepts any session.
PASSES: dict[str, tuple[Demand | None, ...]] = {
    "any": (None,),
    "read-write": (Demand(READ_ONLY, False, "session is read-only"),),
    "read-only": (Demand(READ_ONLY, True, "session is not read-only"),),
    "primary": (Demand(STANDBY, False, "server is in hot standby mode"),),
    "standby": (_STANDBY,),
    "prefer-standby": (_STANDBY, None),
}


async def refusal(demand: Demand | None, reported: Mapping[str, str], ask: Ask) -> str | None:
    """Why the session does not meet the demand; None where it does."""
    if demand is None or await demand.trait.holds(reported, ask) == demand.wanted:
        return None
    return demand.refusal
