"""The settings of a pool, checked."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

from ..errors import ConfigError

if TYPE_CHECKING:
    from ..client.async_conn import AsyncConn

WhenDown: TypeAlias = Literal["wait", "fail"]
OnConnect: TypeAlias = "Callable[[AsyncConn], Awaitable[object]]"


class PoolSettings(NamedTuple):
    """Numbers of connections, and times in seconds."""

    size: int
    max_exclusive: int
    acquire_timeout: float | None
    max_waiting: int
    when_down: WhenDown
    max_lifetime: float | None
    max_idle: float | None
    probe_interval: float | None
    on_connect: OnConnect | None

    def checked(self) -> PoolSettings:
        """These settings. ConfigError or TypeError names the one that is wrong."""
        check_count("size", self.size, 1)
        check_count("max_exclusive", self.max_exclusive, 0)
        check_count("max_waiting", self.max_waiting, 0)
        for name in ("acquire_timeout", "max_lifetime", "max_idle", "probe_interval"):
            check_seconds(name, getattr(self, name))
        if self.when_down not in ("wait", "fail"):
            raise ConfigError(f"when_down is {self.when_down!r}: pass 'wait' or 'fail'")
        if self.on_connect is not None and not callable(self.on_connect):
            raise TypeError(f"on_connect is {type(self.on_connect).__name__}: pass a function")
        return self


def check_count(name: str, value: object, least: int) -> None:
    """Raise for a value that is no number of connections or requests."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} is {type(value).__name__}: pass an int")
    if value < least:
        raise ConfigError(f"{name} is {value}: pass a number from {least}")


def check_seconds(name: str, value: object) -> None:
    """Raise for a value that is neither None nor a time above 0."""
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} is {type(value).__name__}: pass seconds, or None for no limit")
    if not 0 < value < math.inf:
        raise ConfigError(f"{name} is {value}: pass seconds above 0, or None for no limit")
