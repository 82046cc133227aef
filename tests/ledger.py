"""A record of what the callers know about each number they wrote, to compare with the numbers in the table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from pg_wired import Outcome


class Book:
    """What the callers know about each number. One that was cancelled, or is UNKNOWN, may be there or not."""

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
        """Assert that every acknowledged number was found, and no number that was refused or never sent."""
        found = set(found)
        assert not self.there - found, f"acknowledged, and not there: {sorted(self.there - found)[:20]}"
        assert not self.absent & found, f"refused or never sent, and there: {sorted(self.absent & found)[:20]}"

    def check_once(self, found: Iterable[int]) -> None:
        """As `check`; also assert that no number was found twice."""
        counted = Counter(found)
        twice = [number for number, times in counted.items() if times > 1]
        assert not twice, f"written twice: {twice[:20]}"
        self.check(counted)
