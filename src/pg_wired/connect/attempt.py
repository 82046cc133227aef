"""One attempt: one address, plain or with TLS, from the first packet to a session. It knows no second one."""

from __future__ import annotations

import socket
from collections.abc import Callable
from enum import Enum, auto
from typing import TYPE_CHECKING, Generic, Protocol, TypeAlias, TypeVar

from ..auth.policy import Policy
from ..config.config import ConnConfig
from ..errors import ConfigError, Outcome, PgWireError
from ..protocol.server_error import PgError
from . import dial
from .credentials import Credentials
from .failures import CANNOT_CONNECT_NOW
from .security import Security

if TYPE_CHECKING:

    class Session(Protocol):
        """What comes of an attempt: a WireConn."""

        parameters: dict[str, str]
        is_authenticated: bool

        def abort(self) -> None: ...
        async def ask(self, sql: str) -> str: ...
        async def close(self, timeout: float) -> None: ...
        async def log_in(self, policy: Policy, credentials: Credentials) -> None: ...


S = TypeVar("S", bound="Session")
Make: TypeAlias = Callable[[ConnConfig, socket.socket, dial.Route], S]


class Stage(Enum):
    """How far an attempt has come: what its failure means depends on that."""

    REACHING = auto()
    SECURING = auto()
    LOGGING_IN = auto()
    KNOWN = auto()  # the server has said AuthenticationOk


class Attempt(Generic[S]):
    """Nothing of it is used for another one. `make` turns a socket into a Session."""

    def __init__(self, terms: Security, route: dial.Route, make: Make[S]) -> None:
        self._terms = terms
        self._route = route
        self._make = make
        self._stage = Stage.REACHING
        self._has_fallen_back = False

    def leads_to_the_other_way(self, error: PgWireError) -> bool:
        """libpq's rule: where TLS does not come about, or the server refuses this way before it has let us in."""
        if isinstance(error, PgError):
            may_differ = self._stage is Stage.LOGGING_IN and error.code != CANNOT_CONNECT_NOW
            return may_differ and not self._has_fallen_back
        if isinstance(error, ConfigError) and self._terms.config.tls is not None:
            return False  # the caller's own words about TLS; libpq has nothing like them
        return self._stage is Stage.SECURING

    async def plain(self) -> S:
        """A session without TLS."""
        return await self._log_in(await dial.reach(self._route))

    async def encrypted(self, *, may_fall_back: bool) -> S:
        """A session with TLS. `may_fall_back`: a server that has none gets the same socket in clear."""
        self._stage = Stage.SECURING
        self._route = self._route._replace(security=await self._terms.security(self._route.host))
        self._stage = Stage.REACHING
        sock = await dial.reach(self._route)
        if await dial.offers_tls(self._route, sock):
            self._stage = Stage.SECURING
            sock = await dial.secure(self._route, sock)
        elif may_fall_back:
            self._has_fallen_back = True
            self._route = self._route._replace(security=None)
        else:
            sock.close()
            raise dial.no_tls(self._route)
        return await self._log_in(sock)

    async def _log_in(self, sock: socket.socket) -> S:
        self._stage = Stage.LOGGING_IN
        config, route = self._terms.config, self._route
        try:
            policy = self._terms.policy(sock)
            session = self._make(config, sock, route)
        except BaseException:
            sock.close()
            raise
        try:
            await session.log_in(policy, Credentials(config, route.host, self._terms.salted))
        except BaseException as error:
            session.abort()
            if session.is_authenticated:
                self._stage = Stage.KNOWN
            if isinstance(error, PgWireError):
                error.outcome = Outcome.NOT_SENT
            raise
        return session
