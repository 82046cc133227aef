"""Timeouts, and the clock that makes them into deadlines."""

from __future__ import annotations

import asyncio
import math

from ..errors import ConfigError


def seconds(timeout: float | None) -> float | None:
    """Check a timeout in seconds and return it; None for one that never ends.

    Raises TypeError or ConfigError for a value that is no number of seconds.
    """
    if timeout is None:
        return None
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)):
        raise TypeError(f"timeout is {type(timeout).__name__}: pass seconds, or None for none")
    if not timeout >= 0:
        raise ConfigError(f"timeout is {timeout}: pass seconds from 0, or None for none")
    return None if math.isinf(timeout) else timeout


def sooner(one: float, other: float) -> float:
    """The earlier of two deadlines, where 0 is none."""
    return min(one or other, other or one)


class Clock:
    """The clock of an event loop. `now` returns its time in seconds; timers of the same loop go by it."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.now = loop.time

    def deadline(self, timeout: float | None) -> float:
        """`timeout` seconds from now; 0 for none, and negative for a timeout of 0, which has passed already."""
        limit = seconds(timeout)
        if limit is None:
            return 0.0
        return self.now() + limit if limit else -1.0
