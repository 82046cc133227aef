"""The hosts of a connection: lists of names, addresses and ports, put together. It resolves no name."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from typing import ClassVar

from ..errors import ConfigError
from ..frozen import Frozen
from .option_kinds import between, integer

# libpq has one directory compiled in: Debian's and Red Hat's is the first, PostgreSQL's own default the second. This
# code is not compiled for one of them, so the first that exists is taken.
SOCKET_DIRECTORIES = ["/var/run/postgresql", "/tmp"]
LOCALHOST = "localhost"
PORT = 5432


class HostConfig(Frozen):
    """One host to try. `password` is the password file's for this host; `host` may be "" where `hostaddr` is given."""

    hidden: ClassVar = frozenset({"password"})
    host: str
    hostaddr: str | None
    port: int
    password: str | None

    @property
    def is_unix(self) -> bool:
        """Whether `host` is a Unix socket's directory, or with "@" an abstract one."""
        return self.hostaddr is None and self.host.startswith(("/", "@"))

    @property
    def socket_path(self) -> str | None:
        """The Unix socket's path as libpq writes it (an abstract one begins with "@"); None for TCP."""
        return f"{self.host}/.s.PGSQL.{self.port}" if self.is_unix else None

    @property
    def address(self) -> str | tuple[str, int]:
        """What `socket.connect` takes: the socket's path (abstract: NUL first, unix(7)), or host and port for TCP."""
        path = self.socket_path
        if path is None:
            return self.hostaddr or self.host, self.port
        return "\0" + path[1:] if path.startswith("@") else path

    def with_password(self, lines: Iterable[str], dbname: str, user: str) -> HostConfig:
        """The same with the password that the password file has for it. "localhost" there means our default too."""
        from .passfile import find_password

        # fe-connect.c, passwordFromFile. Our own directory alone: in another, anybody's server may listen.
        name = self.host or self.hostaddr or LOCALHOST
        if self.host.startswith("/") and self.host == default_host():
            name = LOCALHOST
        password = find_password(lines, name, str(self.port), dbname, user)
        return HostConfig(self.host, self.hostaddr, self.port, password)


def default_host() -> str:
    """Where a server is looked for when nobody says where."""
    return next((directory for directory in SOCKET_DIRECTORIES if os.path.isdir(directory)), LOCALHOST)


def ports(text: str) -> tuple[int, ...]:
    """A list of ports; an empty one is the default. ValueError for what is none."""
    return tuple(between(1, 65535)(integer(port)) if port else PORT for port in text.split(","))


def addresses(text: str) -> str:
    """A list of numeric addresses, some perhaps empty, as it is. ValueError where one is surely a name."""
    # getaddrinfo(3) reads them when it connects, and knows more forms ("127.1"); a name must not get that far.
    numeric = r"|[0-9][0-9A-Fa-fx.]*|[0-9A-Fa-f.]*:[0-9A-Fa-f:.]*(%.+)?"
    if not all(re.fullmatch(numeric, address) for address in text.split(",")):
        raise ValueError
    return text


def combine(host: str | None, hostaddr: str | None, ports: tuple[int, ...]) -> tuple[HostConfig, ...]:
    """The hosts to try, in order. ConfigError where the lists do not fit, by libpq's rules (pqConnectOptions2)."""
    # With addresses, those are counted, and a name only says what the server is called.
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
