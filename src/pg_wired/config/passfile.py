"""The password file (libpq 18, "The Password File"): checks its permissions and finds the matching line.

The file is read once, when options are parsed. No message shows a password.
"""

from __future__ import annotations

import os
import stat
import warnings
from collections.abc import Iterable

# Only these characters are removed from the end of a line (fe-connect.c, passwordFromFile).
_LINE_ENDS = "\r\n"


def read_lines(path: str) -> list[str]:
    """Return the lines of the file.

    If it is not a plain file, or group or others have access to it, warn and return no lines. If it does not exist or
    cannot be read, return no lines without a warning, as libpq does: most users have no such file.
    """
    try:
        # Checked before opening: opening a pipe would wait for a writer.
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
    """Return the password of the first line that matches host, port, database and user; None if no line does."""
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
    """Return the text after the first field and its ":" if the field matches the token; None otherwise."""
    if text.startswith("*:"):  # a wildcard only if it is the whole field (pwdfMatchesString)
        return text[2:]
    at = 0
    for char in token:
        if text[at : at + 1] == "\\":  # it escapes the next character, so that a ":" does not end the field
            at += 1
        if text[at : at + 1] != char:
            return None
        at += 1
    return text[at + 1 :] if text[at : at + 1] == ":" else None


def _unescaped(text: str) -> str:
    """Return the last field without escapes, up to a ":" that is not escaped. A "\\" at the end stands for itself."""
    password = ""
    at = 0
    while at < len(text) and text[at] != ":":
        if text[at] == "\\" and at + 1 < len(text):
            at += 1
        password += text[at]
        at += 1
    return password
