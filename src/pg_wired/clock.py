"""Clock: timeouts in seconds, made into deadlines on one loop's clock."""

from __future__ import annotations

import asyncio
import math

from .error import ConfigError


class Clock:
    """Belongs to `loop`."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop

    def deadline(self, timeout: float | None) -> float:
        """On the loop's clock; 0 for none, and negative where it has passed already."""
        if timeout is None:
            return 0.0
        if isinstance(timeout, bool) or not isinstance(timeout, (int, float)):
            raise TypeError(f"timeout is {type(timeout).__name__}: pass seconds, or None for none")
        if not timeout >= 0:
            raise ConfigError(f"timeout is {timeout}: pass seconds from 0, or None for none")
        if timeout == 0:
            return -1.0
        return 0.0 if math.isinf(timeout) else self.loop.time() + timeout


def sooner(one: float, other: float) -> float:
    """The earlier of two deadlines, where 0 is none."""
    return min(one or other, other or one)
