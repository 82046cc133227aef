"""Timeouts in seconds, and Clock, which makes them into deadlines on one loop's clock."""

from __future__ import annotations

import asyncio
import math

from ..errors import ConfigError


def seconds(timeout: float | None) -> float | None:
    """`timeout` as it is; None where it never ends. TypeError or ConfigError for what is no number of seconds."""
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
    """Belongs to `loop`."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop

    def deadline(self, timeout: float | None) -> float:
        """On the loop's clock; 0 for none, and negative where it has passed already."""
        limit = seconds(timeout)
        if limit is None:
            return 0.0
        return self.loop.time() + limit if limit else -1.0
