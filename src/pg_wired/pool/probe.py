"""Probes: idle connections are asked now and then whether they still answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from contextlib import suppress

from ..client.async_conn import AsyncConn
from ..errors import PgWireError, RequestTimeout
from ..protocol.rows import Rows
from .connections import LOG

# Seconds that an idle server may take for nothing at all.
PROBE_TIMEOUT_SECONDS = 5.0


class Probe:
    """Every `interval` seconds each idle one of `conns` gets an empty query; one that does not answer is ended.

    A probe is a request of its own on each connection: it holds up nobody, and another probe least of all.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, interval: float | None, conns: Callable[[], Iterable[AsyncConn]]
    ) -> None:
        self._loop = loop
        self._interval = interval
        self._conns = conns
        self._timer: asyncio.TimerHandle | None = None
        self.start()

    def start(self) -> None:
        """Look again after the interval."""
        if self._interval is not None:
            self._timer = self._loop.call_later(self._interval, self._look)

    def stop(self) -> None:
        """No more probes."""
        if self._timer is not None:
            self._timer.cancel()

    def _look(self) -> None:
        for conn in list(self._conns()):
            session = conn._session
            is_busy = session.inflight or session.pending or session.holds or session.window is not None
            if conn.is_alive and not is_busy:
                self._ask(conn)
        self.start()

    @staticmethod
    def _ask(conn: AsyncConn) -> None:
        def answered(reply: asyncio.Future[list[Rows]]) -> None:
            error = None if reply.cancelled() else reply.exception()
            if isinstance(error, RequestTimeout):
                LOG.warning(
                    "%s (pid %s) did not answer within %s s", conn.addr, conn.backend_pid, PROBE_TIMEOUT_SECONDS
                )
                conn._core.abort()

        with suppress(PgWireError):  # it ends just now, and says so itself
            conn.simple_query("", timeout=PROBE_TIMEOUT_SECONDS).add_done_callback(answered)
