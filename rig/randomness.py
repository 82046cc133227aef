"""Randomness that a test chooses, to be handed to the library in a Runtime."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pg_wired.loop.runtime import Runtime, SystemRandomness


class Chosen(SystemRandomness):
    """The system's, but for the numbers and the order of lists that a test gives."""

    def __init__(
        self, number: Callable[[], float] | None = None, shuffle: Callable[[list[Any]], object] | None = None
    ) -> None:
        self._number = number or super().random
        self._shuffle = shuffle or super().shuffle

    def random(self) -> float:
        return self._number()

    def shuffle(self, items: list[Any], /) -> None:
        self._shuffle(items)


def chosen(number: Callable[[], float] | None = None, shuffle: Callable[[list[Any]], object] | None = None) -> Runtime:
    """A Runtime with these numbers, and this order."""
    return Runtime(randomness=Chosen(number, shuffle))
