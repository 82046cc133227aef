"""Classes of annotated values that are set once. `dataclasses` would do, but its import and its code generation cost
more than the rest of most modules here (measured: 5 ms of a budget of 15 for the whole library)."""

from __future__ import annotations

from enum import Enum
from typing import Any, ClassVar, dataclass_transform


@dataclass_transform(frozen_default=True)
class Frozen:
    """Equal and hashed by class and values, but for names with an underscore; `hidden` ones are not shown in a repr."""

    hidden: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, *args: Any, **named: Any) -> None:
        names = [name for name, kind in type(self).__annotations__.items() if not kind.startswith("ClassVar")]
        given = dict(zip(names, args, strict=False)) | named
        if len(args) + len(named) != len(names) or given.keys() != set(names):
            raise TypeError(f"{type(self).__name__} takes {', '.join(names)}")
        self.__dict__.update({name: given[name] for name in names})

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{type(self).__name__} is frozen: make another one instead of setting {name!r}")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"{type(self).__name__} is frozen: {name!r} stays")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Frozen) and type(other) is type(self) and other._values() == self._values()

    def __hash__(self) -> int:
        return hash((type(self), *self._values().values()))

    def __repr__(self) -> str:
        shown = (f"{name}={self._shown(name, value)}" for name, value in self._values().items())
        return f"{type(self).__name__}({', '.join(shown)})"

    def _values(self) -> dict[str, object]:
        return {name: value for name, value in self.__dict__.items() if not name.startswith("_")}

    def _shown(self, name: str, value: object) -> str:
        if name in self.hidden and value is not None:
            return "'***'"
        return str(value) if isinstance(value, Enum) else repr(value)
