"""Data classes whose secrets do not show: in no repr, and so in no log and no traceback that prints one."""

from __future__ import annotations

from dataclasses import fields
from enum import Enum
from typing import Any, ClassVar


class HidesSecrets:
    """For a data class made with `repr=False`: its repr shows '***' for a value of a field that is `hidden`."""

    hidden: ClassVar[frozenset[str]]

    def __repr__(self) -> str:
        data: Any = self
        shown = (f"{each.name}={self._shown(each.name)}" for each in fields(data) if each.repr)
        return f"{type(self).__name__}({', '.join(shown)})"

    def _shown(self, name: str) -> str:
        value = getattr(self, name)
        if name in self.hidden and value is not None:
            return "'***'"
        return str(value) if isinstance(value, Enum) else repr(value)
