"""When to try to connect again. It waits for nothing, and has no clock and no randomness of its own."""

from __future__ import annotations

from collections.abc import Callable

# The first retry comes within this time, and each bound is twice the one before.
FIRST_DELAY_SECONDS = 0.05
# The last bound leaves room for a failed attempt and a good one within the two seconds in which a pool has to be whole
# again.
MAX_DELAY_SECONDS = 1.0
# A connection that lived for less may be one of a server that accepts every login and drops every connection.
SETTLED_SECONDS = 1.0


class Backoff:
    """Exponential, with full jitter: `random` gives numbers from 0 to 1. One for all connections of a pool."""

    def __init__(self, random: Callable[[], float]) -> None:
        self._random = random
        self._failures = 0
        self._brief = 0  # how often connections were made and lost at once
        self._has_connected = False
        self._not_before = 0.0

    def delay(self, now: float) -> float:
        """Seconds to wait before the next attempt."""
        return max(0.0, self._not_before - now)

    def failed(self, now: float) -> None:
        """An attempt has failed."""
        self._failures += 1
        self._put_off(now)

    def succeeded(self) -> None:
        """An attempt has succeeded: the next one may follow at once."""
        self._failures = 0
        self._has_connected = True
        self._not_before = 0.0

    def ended(self, now: float, age: float) -> None:
        """A connection was lost, `age` seconds old."""
        if age >= SETTLED_SECONDS:
            self._brief = 0
        elif self._has_connected:  # several that end together count once
            self._has_connected = False
            self._brief += 1
            if self._brief > 1:
                self._put_off(now)

    def _put_off(self, now: float) -> None:
        n = self._failures + self._brief - 1
        self._not_before = now + self._random() * min(MAX_DELAY_SECONDS, FIRST_DELAY_SECONDS * 2 ** min(n, 10))
