"""The hosts to connect to, combined from lists of names, addresses and ports. It resolves no names."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import ClassVar

from ..auth.hidden import HidesSecrets
from ..errors import ConfigError
from .option_kinds import between, integer

# libpq has one directory compiled in: on Debian and Red Hat the first of these, by PostgreSQL's own default the second.
# This code is not compiled for one system, so it takes the first directory that exists.
SOCKET_DIRECTORIES = ["/var/run/postgresql", "/tmp"]
LOCALHOST = "localhost"
PORT = 5432


@dataclass(frozen=True, repr=False)
class HostConfig(HidesSecrets):
    """One host to try. `password` comes from the password file; `host` may be "" if `hostaddr` is given."""

    hidden: ClassVar[frozenset[str]] = frozenset({"password"})
    host: str
    hostaddr: str | None
    port: int
    password: str | None

    @property
    def is_unix(self) -> bool:
        """Whether `host` is a directory of Unix sockets; "@" begins an abstract one."""
        return self.hostaddr is None and self.host.startswith(("/", "@"))

    @property
    def socket_path(self) -> str | None:
        """The Unix socket's path as libpq writes it (an abstract one begins with "@"); None for TCP."""
        return f"{self.host}/.s.PGSQL.{self.port}" if self.is_unix else None

    @property
    def address(self) -> str | tuple[str, int]:
        """The address for `socket.connect`: the Unix socket's path (abstract: NUL first, unix(7)), or host and port."""
        path = self.socket_path
        if path is None:
            return self.hostaddr or self.host, self.port
        return "\0" + path[1:] if path.startswith("@") else path

    def with_password(self, lines: Iterable[str], dbname: str, user: str) -> HostConfig:
        """Return a copy with the password that the password file has for this host.

        In the password file, "localhost" also means the default directory of Unix sockets.
        """
        from .passfile import find_password

        # fe-connect.c, passwordFromFile. Only the default directory: in another one, any user's server may listen.
        name = self.host or self.hostaddr or LOCALHOST
        if self.host.startswith("/") and self.host == default_host():
            name = LOCALHOST
        password = find_password(lines, name, str(self.port), dbname, user)
        return replace(self, password=password)


def default_host() -> str:
    """Return the host to use if none is given: the first socket directory that exists, else "localhost"."""
    return next((directory for directory in SOCKET_DIRECTORIES if os.path.isdir(directory)), LOCALHOST)


def ports(text: str) -> tuple[int, ...]:
    """Parse a comma-separated list of ports; an empty item means the default. Raises ValueError for an invalid port."""
    return tuple(between(1, 65535)(integer(port)) if port else PORT for port in text.split(","))


def addresses(text: str) -> str:
    """Return a comma-separated list of numeric addresses unchanged; items may be empty.

    Raises ValueError if an item can only be a name.
    """
    # getaddrinfo(3) reads the addresses when connecting, and knows more forms ("127.1"). A name must not get that far.
    numeric = r"|[0-9][0-9A-Fa-fx.]*|[0-9A-Fa-f.]*:[0-9A-Fa-f:.]*(%.+)?"
    if not all(re.fullmatch(numeric, address) for address in text.split(",")):
        raise ValueError
    return text


def combine(host: str | None, hostaddr: str | None, ports: tuple[int, ...]) -> tuple[HostConfig, ...]:
    """Return the hosts to try, in order.

    Raises ConfigError if the lengths of the lists do not match by libpq's rules (pqConnectOptions2).
    """
    # If addresses are given, they determine the number of hosts, and a name only says what the server is called.
    host, hostaddr = host or "", hostaddr or ""
    names, numbers = host.split(","), hostaddr.split(",")
    count = len(numbers) if hostaddr else len(names)
    if host and len(names) != count:
        raise ConfigError(f"could not match {len(names)} host names to {count} hostaddr values")
    if len(ports) not in (1, count):
        raise ConfigError(f"could not match {len(ports)} port numbers to {count} hosts")
    if not host:
        names *= count
    if not hostaddr:
        numbers *= count
    if len(ports) == 1:
        ports *= count
    return tuple(
        HostConfig(name if name or number else default_host(), number or None, port, None)
        for name, number, port in zip(names, numbers, ports, strict=True)
    )
