"""From a ConnConfig to a session: hosts, addresses and ways (plain, TLS) one after the other, until one lets us in.

Which failure leads where is libpq's (fe-connect.c, PQconnectPoll), but that a host which breaks off is passed over too.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any, Generic, TypeAlias
from weakref import WeakValueDictionary

from ..config.config import ConnConfig
from ..config.hosts import HostConfig
from ..config.tls import TlsMode
from ..errors import IoError, Outcome, PgWireError, RequestTimeout
from ..loop.clock import seconds
from ..protocol.server_error import PgError
from . import dial, target_session
from .attempt import Attempt, Make, S
from .failures import Failures, is_final
from .security import Security

PLAIN, TLS = False, True
# In this order; the other modes demand TLS.
WAYS = {TlsMode.DISABLE: (PLAIN,), TlsMode.ALLOW: (PLAIN, TLS), TlsMode.PREFER: (TLS, PLAIN)}

Shuffle: TypeAlias = Callable[[list[Any]], None]


class Unfit(IoError):
    """The session is none that `target_session_attrs` asks for, or does not say so."""


class Connector(Generic[S]):
    """Makes connections with one ConnConfig, on the same terms: TLS context, policy, salted passwords.

    `make` turns a socket into a Session; `shuffle` puts a list into random order (load_balance_hosts=random), the
    system's randomness does without it. Raises ConfigError where options do not go together.
    """

    def __init__(self, config: ConnConfig, make: Make[S], *, shuffle: Shuffle | None = None) -> None:
        self.config = config
        self._make = make
        self._shuffle = shuffle
        self._terms = Security(config)
        self.failures = Failures()  # of the last search
        self._cancels: WeakValueDictionary[dial.Address, dial.Rooms] = WeakValueDictionary()

    async def connect(self, *, timeout: float | None = None) -> S:
        """One more connection, after at most `timeout` seconds for all attempts together.

        Raises RequestTimeout at that deadline, ConfigError for a `tls` that cannot be used, else what `Failures.error`
        makes of the attempts' errors.
        """
        failures = self.failures = Failures()
        limit = asyncio.timeout(seconds(timeout))
        try:
            async with limit:
                await self._terms.prepare()
                return await self._search(failures)
        except TimeoutError as error:
            if not limit.expired():
                raise
            raise failures.late(timeout) from error

    async def _search(self, failures: Failures) -> S:
        for demand in target_session.PASSES[self.config.target_session_attrs]:
            for host in self._in_order(self.config.hosts):
                session = await self._try_host(host, demand, failures)
                if session is not None:
                    return session
        raise failures.error()

    def _in_order(self, items: Iterable[Any]) -> list[Any]:
        """As they are, or shuffled: the hosts, and the addresses of each (libpq, load_balance_hosts)."""
        ordered = list(items)
        if self.config.load_balance_hosts == "random":
            if self._shuffle is None:
                from random import SystemRandom  # for this option only

                self._shuffle = SystemRandom().shuffle
            self._shuffle(ordered)
        return ordered

    async def _try_host(self, host: HostConfig, demand: target_session.Demand | None, failures: Failures) -> S | None:
        """A session at one of the host's addresses; None where another host has to be tried."""
        try:
            async with self._limit(f"looking up {host.hostaddr or host.host!r}"):
                addresses = self._in_order(await dial.addresses(host))
        except (IoError, RequestTimeout) as error:
            failures.add("", error)
            return None
        for address in addresses:
            cancels = self._cancels.setdefault(address, WeakValueDictionary())
            route = dial.Route(self.config, host, address, None, cancels)
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
        """`connect_timeout` for one attempt."""
        limit = asyncio.timeout(self.config.connect_timeout)
        try:
            async with limit:
                yield
        except TimeoutError as error:
            if not limit.expired():
                raise
            text = f"{place} failed: timeout expired after {self.config.connect_timeout} s (connect_timeout)"
            raise RequestTimeout(text, Outcome.NOT_SENT) from error

    async def _try_address(self, route: dial.Route, demand: target_session.Demand | None, failures: Failures) -> S:
        """One way after the other, each with a socket of its own. libpq has no TLS on a Unix socket, in any mode."""
        first, *second = WAYS.get(self.config.sslmode, (TLS,)) if not route.host.is_unix else (PLAIN,)
        attempt = Attempt(self._terms, route, self._make)
        try:
            session = await self._run(attempt, first, bool(second))
        except PgWireError as error:
            if not second or not attempt.leads_to_the_other_way(error):
                raise
            failures.add(route.place, error)
            session = await self._run(Attempt(self._terms, route, self._make), second[0], False)
        return await self._fitting(session, demand)

    @staticmethod
    async def _run(attempt: Attempt[S], way: bool, may_fall_back: bool) -> S:
        return await (attempt.encrypted(may_fall_back=may_fall_back) if way is TLS else attempt.plain())

    async def _fitting(self, session: S, demand: target_session.Demand | None) -> S:
        """The session, if it is of the kind that is asked for; else it is closed."""
        try:
            refusal = await target_session.refusal(demand, session.parameters, session.ask)
            if refusal is None:
                return session
            await session.close(0)  # it says Terminate, and does not wait
        except BaseException as error:
            session.abort()
            if isinstance(error, PgError):  # no refusal of us: as libpq, another host may answer
                text = f"asking for target_session_attrs={self.config.target_session_attrs} failed: {error}"
                raise Unfit(text, Outcome.NOT_SENT) from error
            if isinstance(error, PgWireError):
                error.outcome = Outcome.NOT_SENT
            raise
        raise Unfit(f"{refusal} (target_session_attrs={self.config.target_session_attrs})", Outcome.NOT_SENT)
