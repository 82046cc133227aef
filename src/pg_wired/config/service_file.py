"""Service files: options by the name of a service (libpq 18, "The Connection Service File").

They are read once, when options are parsed.
"""

from __future__ import annotations

import os
from collections.abc import Container, Mapping

from ..errors import ConfigError
from .option_kinds import BLANK

# What libpq was compiled with, where PGSYSCONFDIR does not say: Debian's directory and PostgreSQL's own.
SYSTEM_DIRECTORIES = ["/etc/postgresql-common", "/usr/local/pgsql/etc"]
_FILE = "pg_service.conf"


def read_service(
    service: str, file: str | None, environ: Mapping[str, str], home: str | None, known: Container[str]
) -> tuple[str, dict[str, str]]:
    """The file that has the section `service`, and its options; `file` alone is looked at where it is given.

    Looks in the home directory's file, then in the system's, as libpq. ConfigError where no file has the section, or a
    line of it is wrong or not of a `known` option.
    """
    # fe-connect.c, parseServiceInfo: a file that is named must be there, the other two may be missing.
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
    """The options of the first section of that name, the first of several winning; None where there is none."""
    try:
        with open(path, encoding="utf-8", errors="surrogateescape", newline="\n") as file:
            lines = file.read().split("\n")
    except OSError as error:
        raise ConfigError(f"service file {path!r} cannot be read: {error.strerror}") from None
    found: dict[str, str] | None = None
    for number, line in enumerate(lines, 1):
        line = line.strip(BLANK)
        if line.startswith("["):
            # The section ends here, and what follows is not even looked at; only its own lines have to be right.
            if found is not None:
                break
            if line.startswith(f"[{service}]"):  # what stands behind it does not matter (parseServiceFile)
                found = {}
        elif line and not line.startswith("#") and found is not None:
            name, value = _pair(line, f"service file {path!r}, line {number}", known)
            found.setdefault(name, value)
    return found


def _pair(line: str, where: str, known: Container[str]) -> tuple[str, str]:
    """One line. Blanks around the "=" belong to what they touch, as in libpq."""
    name, equals, value = line.partition("=")
    if name in ("service", "servicefile"):
        raise ConfigError(f"{where}: a service cannot name another service")
    if line.startswith("ldap"):  # where libpq is built with it, the line is the URL of a directory
        raise ConfigError(f"{where}: looking options up with LDAP is not supported")
    if not equals or name not in known:
        raise ConfigError(f"{where}: expected option=value, without blanks around the =, of an option that is known")
    return name, value
