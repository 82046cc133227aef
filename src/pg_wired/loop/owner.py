"""Whose a connection or a pool is: one loop's, in one process. Knows no sockets."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable

from ..errors import UsageError


class _Forks:
    """How often this process has been forked off: a connection of the parent is not the child's."""

    count = 0


def _forked() -> None:
    _Forks.count += 1


os.register_at_fork(after_in_child=_forked)


class Owner:
    """Made in the process that owns the thing; `what` names that in errors."""

    def __init__(self, loop: asyncio.AbstractEventLoop, what: str) -> None:
        self._loop = loop
        self._what = what
        self._forks = _Forks.count

    def check(self) -> None:
        """Refuse another thread, another loop and a forked child, before anything is touched."""
        if self._forks != _Forks.count:
            raise UsageError(f"the {self._what} belongs to the process that was forked: connect again in this one")
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            raise UsageError(
                f"no event loop runs in this thread: use the {self._what} on the loop it was made on"
            ) from None
        if loop is not self._loop:
            raise UsageError(f"the {self._what} belongs to another event loop: connect again on this one")

    def check_thread(self) -> None:
        """Refuse another thread while the loop runs in its own, which would not notice: for what ends the thing."""
        if self._is_elsewhere():
            raise UsageError(
                f"the loop of the {self._what} runs in another thread: use its call_soon_threadsafe() for this"
            )

    def run(self, end: Callable[[], object]) -> None:
        """Do it in the loop's own thread: the garbage collector may come in any."""
        if self._is_elsewhere():
            self._loop.call_soon_threadsafe(end)
        else:
            end()

    def _is_elsewhere(self) -> bool:
        return self.has_loop and self._loop.is_running() and asyncio._get_running_loop() is not self._loop

    @property
    def has_loop(self) -> bool:
        """Whether the loop still runs, and runs in this process: what it watches would be the parent's."""
        return self._forks == _Forks.count and not self._loop.is_closed()
