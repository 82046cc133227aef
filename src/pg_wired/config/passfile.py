"""The password file (libpq 18, "The Password File"): who may read it, and which line is meant.

It is read once, when options are parsed. Passwords are shown in no message.
"""

from __future__ import annotations

import os
import stat
import warnings
from collections.abc import Iterable

# A line's own text is taken whole up to these (fe-connect.c, passwordFromFile).
_LINE_ENDS = "\r\n"


def read_lines(path: str) -> list[str]:
    """The lines of the file. None of it counts, with a warning, where it is no plain file or others may use it.

    A file that is not there, or cannot be read, has none, without a word: libpq's way, as most users have none.
    """
    try:
        # Before it is opened: a pipe would wait for its writer.
        mode = os.stat(path).st_mode
        if not stat.S_ISREG(mode):
            warnings.warn(f"password file {path!r} is not a plain file, and not used", stacklevel=2)
        elif mode & (stat.S_IRWXG | stat.S_IRWXO):
            text = "has group or world access, and is not used; permissions should be u=rw (0600) or less"
            warnings.warn(f"password file {path!r} {text}", stacklevel=2)
        else:
            with open(path, encoding="utf-8", errors="surrogateescape", newline="\n") as file:
                return file.read().split("\n")
    except OSError:
        pass
    return []


def find_password(lines: Iterable[str], host: str, port: str, dbname: str, user: str) -> str | None:
    """The password of the first line that matches all four."""
    for line in lines:
        if line.startswith("#"):
            continue
        rest: str | None = line.rstrip(_LINE_ENDS)
        for token in (host, port, dbname, user):
            rest = _behind(rest, token) if rest else None
        if rest is not None:
            return _unescaped(rest)
    return None


def _behind(text: str, token: str) -> str | None:
    """What follows a field that matches the token, and its ":"; None where it does not match."""
    if text.startswith("*:"):  # alone in its field; elsewhere a star is a star (pwdfMatchesString)
        return text[2:]
    at = 0
    for char in token:
        if text[at : at + 1] == "\\":  # the next one is itself, and no ":" that ends the field
            at += 1
        if text[at : at + 1] != char:
            return None
        at += 1
    return text[at + 1 :] if text[at : at + 1] == ":" else None


def _unescaped(text: str) -> str:
    """The last field, up to a ":" that is not escaped; a "\\" at the very end stands for itself."""
    password = ""
    at = 0
    while at < len(text) and text[at] != ":":
        if text[at] == "\\" and at + 1 < len(text):
            at += 1
        password += text[at]
        at += 1
    return password
