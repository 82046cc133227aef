"""The tables of options in docs/connecting.md, generated from the code by `python -m tests.config.option_table`."""

from __future__ import annotations

import sys
from enum import Enum
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "src"))

from pg_wired.config.options import PROTOCOLS, TABLE, UNSUPPORTED, VARIABLES

PAGE = Path(__file__).parents[2] / "docs/connecting.md"
MARKS = "<!-- options: begin -->\n", "<!-- options: end -->\n"


def table() -> str:
    """Both tables, as they stand between the marks."""
    lines = ["| option | variable | default | meaning |", "| --- | --- | --- | --- |"]
    lines += [
        f"| `{name}` | {_code(VARIABLES.get(name))} | {_default(row.default)} | {row.meaning} |"
        for name, row in TABLE.items()
    ]
    lines += ["", "| not supported | variable | taken if | why not |", "| --- | --- | --- | --- |"]
    for name, refused in UNSUPPORTED.items():
        off = "always" if refused.off is None else ", ".join(_code(word) or "empty" for word in refused.off) or "never"
        lines.append(f"| `{name}` | {_code(VARIABLES.get(name))} | {off} | {refused.reason} |")
    return "\n".join([*lines, ""])


def _code(text: str | None) -> str:
    return f"`{text}`" if text else ""


def _default(value: object) -> str:
    words = {version: word for word, version in reversed(PROTOCOLS.items())}
    match value:
        case None:
            return ""
        case Enum():
            return _code(str(value.value))
        case bool():
            return "1" if value else "0"
        case tuple():
            return _code(words.get(value) or ",".join(map(str, value)))
        case str():
            return _code(value)
        case int() | float():
            return f"{value:g}" if value < 1000 else str(value)
    return value.__doc__ or ""  # a default computed from other options is described by its docstring


def parts() -> tuple[str, str, str]:
    """The page in three parts: the text before its tables, the tables, and the text after them."""
    before, _, rest = PAGE.read_text().partition(MARKS[0])
    written, _, after = rest.partition(MARKS[1])
    return before + MARKS[0], written, MARKS[1] + after


if __name__ == "__main__":
    before, _, after = parts()
    PAGE.write_text(before + table() + after)
