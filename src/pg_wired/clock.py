"""Clock: timeouts in seconds, made into deadlines on one loop's clock."""

from __future__ import annotations

import asyncio

from .deadline import seconds


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


def sooner(one: float, other: float) -> float:
    """The earlier of two deadlines, where 0 is none."""
    return min(one or other, other or one)
