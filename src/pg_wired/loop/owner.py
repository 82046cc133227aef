"""Checks that a connection or a pool is used only by its owner: one event loop in one process. It knows no sockets."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable

from ..errors import UsageError


class _Forks:
    """Counts the forks that led to this process. A child process must not use a connection of its parent."""

    count = 0


def _forked() -> None:
    _Forks.count += 1


os.register_at_fork(after_in_child=_forked)


class Owner:
    """The loop and the process that own an object. It is created in that process.

    `what` names the object in errors.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, what: str) -> None:
        self._loop = loop
        self._what = what
        self._forks = _Forks.count

    def check(self) -> None:
        """Raise UsageError in another thread, in another loop and in a forked child process."""
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
        """Raise UsageError if the loop is running in another thread, where it would not notice the call.

        Unlike `check`, this allows a call without a running loop: it is for methods that end the object.
        """
        if self._is_elsewhere():
            raise UsageError(
                f"the loop of the {self._what} runs in another thread: use its call_soon_threadsafe() for this"
            )

    def run(self, end: Callable[[], object]) -> None:
        """Call `end` in the thread of the loop, because the garbage collector may run a finalizer in any thread."""
        if self._is_elsewhere():
            self._loop.call_soon_threadsafe(end)
        else:
            end()

    def _is_elsewhere(self) -> bool:
        return self.has_loop and self._loop.is_running() and asyncio._get_running_loop() is not self._loop

    @property
    def has_loop(self) -> bool:
        """Whether the loop is not closed and belongs to this process.

        After a fork, the sockets that the loop watches belong to the parent.
        """
        return self._forks == _Forks.count and not self._loop.is_closed()
