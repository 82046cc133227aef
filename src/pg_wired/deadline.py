"""What a deadline may be: seconds, or None for none. Knows no clock."""

from __future__ import annotations

import math

from .error import ConfigError


def seconds(timeout: float | None) -> float | None:
    """`timeout` as it is; None where it never ends. TypeError or ConfigError for what is no number of seconds."""
    if timeout is None:
        return None
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)):
        raise TypeError(f"timeout is {type(timeout).__name__}: pass seconds, or None for none")
    if not timeout >= 0:
        raise ConfigError(f"timeout is {timeout}: pass seconds from 0, or None for none")
    return None if math.isinf(timeout) else timeout
