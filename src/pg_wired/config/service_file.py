"""Service files, which hold options under the name of a service (libpq 18, "The Connection Service File").

They are read once, when options are parsed.
"""

from __future__ import annotations

import os
from collections.abc import Container, Mapping

from ..errors import ConfigError
from .option_kinds import BLANK

# Searched if PGSYSCONFDIR is not set. libpq has one directory compiled in: Debian's is the first, PostgreSQL's own
# default the second.
SYSTEM_DIRECTORIES = ["/etc/postgresql-common", "/usr/local/pgsql/etc"]
_FILE = "pg_service.conf"


def read_service(
    service: str, file: str | None, environ: Mapping[str, str], home: str | None, known: Container[str]
) -> tuple[str, dict[str, str]]:
    """Return the path of the file that has the section `service`, and the section's options.

    Looks into `file`, or into the home directory's file if none is named, then into the system's, as libpq does.
    Raises ConfigError if no file has the section, or if a line of it is malformed or sets an option not in `known`.
    """
    # fe-connect.c, parseServiceInfo: a file that is named must exist; the other two may be missing.
    if file is None and home is not None and os.path.exists(own := f"{home}/.{_FILE}"):
        file = own
    if file is not None:
        found = _section(file, service, known)
        if found is not None:
            return file, found
    directories = [environ["PGSYSCONFDIR"]] if "PGSYSCONFDIR" in environ else SYSTEM_DIRECTORIES
    for shared in (f"{directory}/{_FILE}" for directory in directories):
        if os.path.exists(shared) and (found := _section(shared, service, known)) is not None:
            return shared, found
    raise ConfigError(f"definition of service {service!r} not found")


def _section(path: str, service: str, known: Container[str]) -> dict[str, str] | None:
    """Return the options of the first section of that name, or None if there is no such section.

    If an option is given several times, the first one wins. Raises ConfigError for a file that cannot be read.
    """
    try:
        with open(path, encoding="utf-8", errors="surrogateescape", newline="\n") as file:
            lines = file.read().split("\n")
    except OSError as error:
        raise ConfigError(f"service file {path!r} cannot be read: {error.strerror}") from None
    found: dict[str, str] | None = None
    for number, line in enumerate(lines, 1):
        line = line.strip(BLANK)
        if line.startswith("["):
            # The section ends here. Only its own lines are checked.
            if found is not None:
                break
            if line.startswith(f"[{service}]"):  # text after the "]" is ignored (parseServiceFile)
                found = {}
        elif line and not line.startswith("#") and found is not None:
            name, value = _pair(line, f"service file {path!r}, line {number}", known)
            found.setdefault(name, value)
    return found


def _pair(line: str, where: str, known: Container[str]) -> tuple[str, str]:
    """Parse one line. As in libpq, blanks before the "=" belong to the name, and blanks after it to the value."""
    name, equals, value = line.partition("=")
    if name in ("service", "servicefile"):
        raise ConfigError(f"{where}: a service cannot name another service")
    if line.startswith("ldap"):  # for a libpq built with LDAP, the line is the URL of a directory
        raise ConfigError(f"{where}: looking options up with LDAP is not supported")
    if not equals or name not in known:
        raise ConfigError(f"{where}: expected option=value, without blanks around the =, of an option that is known")
    return name, value
