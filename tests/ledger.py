"""A ledger's other half: what the callers know of each number they wrote, to be compared with what is there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from pg_wired import Outcome


class Book:
    """What the callers know of each number. A cancelled or an unknown one may be there or not."""

    def __init__(self) -> None:
        self.there: set[int] = set()
        self.absent: set[int] = set()
        self.ends: Counter[str] = Counter()

    def note(self, number: int, end: Any) -> None:
        outcome = getattr(end, "outcome", None)
        self.ends[f"{type(end).__name__} {outcome and outcome.name}"] += 1
        if not isinstance(end, BaseException):
            self.there.add(number)
        elif outcome in (Outcome.NOT_SENT, Outcome.REJECTED):
            self.absent.add(number)

    def check(self, found: Iterable[int]) -> None:
        """Everything that was acknowledged is there, and nothing that was refused or never sent."""
        found = set(found)
        assert not self.there - found, f"acknowledged, and not there: {sorted(self.there - found)[:20]}"
        assert not self.absent & found, f"refused or never sent, and there: {sorted(self.absent & found)[:20]}"

    def check_once(self, found: Iterable[int]) -> None:
        """As `check`, and nothing is there twice."""
        counted = Counter(found)
        twice = [number for number, times in counted.items() if times > 1]
        assert not twice, f"written twice: {twice[:20]}"
        self.check(counted)
