"""From a ConnConfig to a connection that is logged in: hosts, addresses, plain or TLS, until one of them works.

Which failure leads to another attempt follows libpq (fe-connect.c, PQconnectPoll); unlike libpq, a host that closes the
connection is passed over, too.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from enum import Enum, auto
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeAlias, TypeVar
from weakref import WeakValueDictionary

from ..config.config import ConnConfig
from ..config.hosts import HostConfig
from ..config.tls import TlsMode
from ..errors import AuthenticationError, ConfigError, IoError, Outcome, PgWireError, RequestTimeout
from ..loop.clock import seconds
from ..loop.runtime import SYSTEM, Runtime
from ..protocol.server_error import PgError
from . import dial, target_session
from .credentials import Credentials
from .security import Security

if TYPE_CHECKING:
    from ..auth.policy import Policy

    class Candidate(Protocol):
        """A connection that may be the result: a WireConn."""

        parameters: dict[str, str]
        is_authenticated: bool

        def abort(self) -> None: ...
        async def close(self, timeout: float) -> None: ...
        async def _ask(self, sql: str) -> str: ...
        async def _log_in(self, policy: Policy, credentials: Credentials) -> None: ...


C = TypeVar("C", bound="Candidate")
Make: TypeAlias = Callable[[ConnConfig, socket.socket, dial.Route], C]

# SQLSTATE cannot_connect_now: starting up, shutting down or in recovery. Another host may be up (as in libpq).
CANNOT_CONNECT_NOW = "57P03"
PLAIN, TLS = False, True
# What is tried in this order; the other modes demand TLS.
ENCRYPTION = {TlsMode.DISABLE: (PLAIN,), TlsMode.ALLOW: (PLAIN, TLS), TlsMode.PREFER: (TLS, PLAIN)}


class Unfit(IoError):
    """The session is not of the kind that `target_session_attrs` asks for, or does not say so."""


class Connector(Generic[C]):
    """Makes connections from one ConnConfig. They share the TLS context, the policy and the salted passwords.

    `make` turns a socket into a connection. Raises ConfigError where options do not go together.
    """

    def __init__(self, config: ConnConfig, make: Make[C], runtime: Runtime = SYSTEM) -> None:
        self.config = config
        self.runtime = runtime
        self._make = make
        self._security = Security(config, runtime)
        self.failures = Failures()  # of the last search
        self._cancels: WeakValueDictionary[dial.Address, dial.CancelSemaphores] = WeakValueDictionary()

    async def connect(self, *, timeout: float | None = None) -> C:
        """One more connection, within `timeout` seconds for all attempts together.

        Raises RequestTimeout at that deadline, ConfigError for a `tls` that cannot be used, else what `Failures.error`
        makes of the errors of the attempts.
        """
        failures = self.failures = Failures()
        limit = asyncio.timeout(seconds(timeout))
        try:
            async with limit:
                await self._security.prepare()
                return await self._search(failures)
        except TimeoutError as error:
            if not limit.expired():
                raise
            raise failures.late(timeout) from error

    async def _search(self, failures: Failures) -> C:
        for demand in target_session.PASSES[self.config.target_session_attrs]:
            for host in self._in_order(self.config.hosts):
                conn = await self._try_host(host, demand, failures)
                if conn is not None:
                    return conn
        raise failures.error()

    def _in_order(self, items: Iterable[Any]) -> list[Any]:
        """The items as they are, or shuffled: the hosts, and the addresses of each (libpq, load_balance_hosts)."""
        ordered = list(items)
        if self.config.load_balance_hosts == "random":
            self.runtime.randomness.shuffle(ordered)
        return ordered

    async def _try_host(self, host: HostConfig, demand: target_session.Demand | None, failures: Failures) -> C | None:
        """A connection to one of the host's addresses; None where another host has to be tried."""
        try:
            async with self._limit(f"looking up {host.hostaddr or host.host!r}"):
                addresses = self._in_order(await dial.addresses(host))
        except (IoError, RequestTimeout) as error:
            failures.add("", error)
            return None
        for address in addresses:
            cancels = self._cancels.setdefault(address, WeakValueDictionary())
            route = dial.Route(self.config, host, address, None, cancels, self.runtime)
            try:
                async with self._limit(route.place):
                    return await self._try_address(route, demand, failures)
            except PgWireError as error:
                failures.add(route.place, error)
                if is_final(error):
                    final = failures.error(error)
                    raise final from final.__cause__
                if isinstance(error, Unfit | PgError):
                    return None
        return None

    @asynccontextmanager
    async def _limit(self, place: str) -> AsyncIterator[None]:
        """Apply `connect_timeout` to one attempt."""
        limit = asyncio.timeout(self.config.connect_timeout)
        try:
            async with limit:
                yield
        except TimeoutError as error:
            if not limit.expired():
                raise
            text = f"{place} failed: timeout expired after {self.config.connect_timeout} s (connect_timeout)"
            raise RequestTimeout(text, Outcome.NOT_SENT) from error

    async def _try_address(self, route: dial.Route, demand: target_session.Demand | None, failures: Failures) -> C:
        """Plain and TLS in the order of `sslmode`, each with a socket of its own. A Unix socket never has TLS."""
        first, *second = ENCRYPTION.get(self.config.sslmode, (TLS,)) if not route.host.is_unix else (PLAIN,)
        attempt = Attempt(self._security, route, self._make)
        try:
            conn = await attempt.run(first, may_fall_back=bool(second))
        except PgWireError as error:
            if not second or not attempt.may_differ_otherwise(error):
                raise
            failures.add(route.place, error)
            conn = await Attempt(self._security, route, self._make).run(second[0], may_fall_back=False)
        return await self._fitting(conn, demand)

    async def _fitting(self, conn: C, demand: target_session.Demand | None) -> C:
        """The connection if it is of the kind that is asked for; else it is closed."""
        try:
            refusal = await target_session.refusal(demand, conn.parameters, conn._ask)
            if refusal is None:
                return conn
            await conn.close(0)  # send Terminate without waiting
        except BaseException as error:
            conn.abort()
            if isinstance(error, PgError):  # the login succeeded, so as in libpq another host may do
                text = f"asking for target_session_attrs={self.config.target_session_attrs} failed: {error}"
                raise Unfit(text, Outcome.NOT_SENT) from error
            if isinstance(error, PgWireError):
                error.outcome = Outcome.NOT_SENT
            raise
        raise Unfit(f"{refusal} (target_session_attrs={self.config.target_session_attrs})", Outcome.NOT_SENT)


# ---- one attempt


class Stage(Enum):
    """How far an attempt has got. What its failure means depends on that."""

    REACHING = auto()
    SECURING = auto()
    LOGGING_IN = auto()
    AUTHENTICATED = auto()  # the server has sent AuthenticationOk


class Attempt(Generic[C]):
    """One address, plain or with TLS, from the first packet to a connection. It is used once."""

    def __init__(self, security: Security, route: dial.Route, make: Make[C]) -> None:
        self._security = security
        self._route = route
        self._make = make
        self._stage = Stage.REACHING
        self._has_fallen_back = False

    def may_differ_otherwise(self, error: PgWireError) -> bool:
        """Whether to try the other one of plain and TLS: if TLS fails, or the server refuses before it authenticates.

        That is libpq's rule.
        """
        if isinstance(error, PgError):
            may_differ = self._stage is Stage.LOGGING_IN and error.code != CANNOT_CONNECT_NOW
            return may_differ and not self._has_fallen_back
        if isinstance(error, ConfigError) and self._security.config.tls is not None:
            return False  # the caller's own words about TLS; libpq has nothing like them
        return self._stage is Stage.SECURING

    async def run(self, encryption: bool, *, may_fall_back: bool) -> C:
        """A connection, plain or with TLS. `may_fall_back`: a server without TLS gets the same socket in clear."""
        return await (self._encrypted(may_fall_back) if encryption is TLS else self._plain())

    async def _plain(self) -> C:
        return await self._log_in(await dial.reach(self._route))

    async def _encrypted(self, may_fall_back: bool) -> C:
        self._stage = Stage.SECURING
        self._route = self._route._replace(tls=await self._security.tls_settings(self._route.host))
        self._stage = Stage.REACHING
        sock = await dial.reach(self._route)
        if await dial.offers_tls(self._route, sock):
            self._stage = Stage.SECURING
            sock = await dial.secure(self._route, sock)
        elif may_fall_back:
            self._has_fallen_back = True
            self._route = self._route._replace(tls=None)
        else:
            sock.close()
            raise dial.no_tls(self._route)
        return await self._log_in(sock)

    async def _log_in(self, sock: socket.socket) -> C:
        self._stage = Stage.LOGGING_IN
        config, route = self._security.config, self._route
        try:
            policy = self._security.policy(sock)
            conn = self._make(config, sock, route)
        except BaseException:
            sock.close()
            raise
        try:
            await conn._log_in(policy, Credentials(config, route.host, self._security.salted, route.runtime))
        except BaseException as error:
            conn.abort()
            if conn.is_authenticated:
                self._stage = Stage.AUTHENTICATED
            if isinstance(error, PgWireError):
                error.outcome = Outcome.NOT_SENT
            raise
        return conn


# ---- what went wrong


def is_final(error: PgWireError) -> bool:
    """Whether no further host is tried: a refusal would be the same there, and a lucky attempt must not hide it.

    As libpq does, "Specifying Multiple Hosts", where the server refuses. Unlike libpq, a host that closes the
    connection is passed over.
    """
    if isinstance(error, PgError):
        return error.code != CANNOT_CONNECT_NOW
    return isinstance(error, AuthenticationError | ConfigError)


class Failures:
    """The errors of all attempts in order, each with the place where it happened."""

    def __init__(self) -> None:
        self._failed: list[tuple[str, PgWireError]] = []

    def add(self, place: str, error: PgWireError) -> None:
        """Note an error; `place` is empty where the text of the error names it."""
        self._failed.append((place, error))

    def lines(self) -> list[str]:
        """One line for each error, as psql prints them."""
        return [
            text if (text := str(error)).startswith(place) else f"{place} failed: {text}"
            for place, error in self._failed
        ]

    def late(self, timeout: float | None) -> RequestTimeout:
        """The error after `timeout` seconds; the attempts that had failed by then are its notes."""
        error = RequestTimeout(f"no connection within {timeout} s", Outcome.NOT_SENT)
        for line in self.lines():
            error.add_note(line)
        return error

    def error(self, last: PgWireError | None = None) -> PgWireError:
        """The error to raise; `last` has ended the search.

        Of several errors it is the first refusal by a server, else `last`. Where there is neither it is a
        RequestTimeout if all of them were, or an IoError, with a line for each attempt. Errors that are not in its text
        are in its notes.
        """
        errors = [error for _, error in self._failed]
        refused = [error for error in errors if isinstance(error, PgError)]
        chosen = next((error for error in refused if is_final(error)), last) or next(iter(refused), None)
        if chosen is None and len(errors) > 1:
            kind = RequestTimeout if all(isinstance(error, RequestTimeout) for error in errors) else IoError
            chosen = kind("\n".join(self.lines()), Outcome.NOT_SENT)
            chosen.__cause__ = errors[-1]
            return chosen
        chosen = chosen or errors[0]
        for line in self.lines():
            if line != str(chosen):
                chosen.add_note(line)
        return chosen
