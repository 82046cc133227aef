"""Deadlines of each attempt and of connecting as a whole, and cancelling it at any await."""

from __future__ import annotations

import asyncio
import itertools
import time
from typing import Any

import pytest

from pg_wired import AsyncConn, AsyncPool, ConfigError, Outcome, RequestTimeout, WireConn
from rig.checks import LATE, Cancelled, ends_clean, open_sockets, outcome_of, until
from rig.hosts import Hosts, hanging_up, server, silent, whatever_comes

pytestmark = pytest.mark.both_loops


@ends_clean()
async def test_connect_timeout_limits_each_attempt() -> None:
    async with Hosts([silent], [server("good")]) as hosts:
        begin = time.monotonic()
        assert await hosts.connect(connect_timeout=2.0) == "good"
        assert time.monotonic() - begin >= 1.999
    async with Hosts([silent], [silent]) as hosts:
        refused = await hosts.connect(connect_timeout=0.1)
        assert type(refused) is RequestTimeout and str(refused).count("connect_timeout") == 2


@ends_clean()
async def test_timeout_limits_all_attempts_together() -> None:
    async with Hosts([hanging_up], [silent], []) as hosts:
        begin = time.monotonic()
        refused = await hosts.connect(timeout=0.1)
        assert 0.099 <= time.monotonic() - begin < 0.1 + LATE
    assert type(refused) is RequestTimeout and str(refused) == "no connection within 0.1 s"
    assert len(refused.__notes__) == 1 and f"port {hosts_port(refused)} failed" in refused.__notes__[0]


@pytest.mark.parametrize("connect", [AsyncConn.connect, AsyncPool.connect])
@ends_clean()
async def test_the_timeout_error_lists_the_attempts_that_had_failed(connect: Any) -> None:
    async with Hosts([hanging_up], [silent]) as hosts:
        refused = await outcome_of(connect(**hosts.options(timeout=1.0)))
        assert type(refused) is RequestTimeout and str(refused) == "no connection within 1.0 s"
        assert len(refused.__notes__) == 1 and f"port {hosts.ports[0]} failed" in refused.__notes__[0]


def hosts_port(refused: BaseException) -> str:
    return refused.__notes__[0].split("port ")[1].split()[0]


@pytest.mark.parametrize(("timeout", "kind"), [("1", TypeError), (True, TypeError), (-1, ConfigError)])
@ends_clean()
async def test_an_invalid_timeout_is_refused(timeout: Any, kind: type[Exception]) -> None:
    with pytest.raises(kind):
        await AsyncConn.connect("host=127.0.0.1 user=tester", timeout=timeout)


@ends_clean()
async def test_a_timeout_of_zero_fails_at_once() -> None:
    refused = await outcome_of(AsyncConn.connect("host=127.0.0.1 user=tester", timeout=0))
    assert type(refused) is RequestTimeout and refused.outcome is Outcome.NOT_SENT


@ends_clean(60)
async def test_a_connect_cancelled_at_any_await_leaves_no_socket() -> None:
    """With several hosts, queries for their kind, and the end of a session that does not fit."""
    scripts = [whatever_comes(script) for script in (server("standby"), hanging_up, server("primary"))]
    for n in itertools.count(1):
        async with Hosts(*scripts) as hosts:
            before = open_sockets()
            attempt = Cancelled(WireConn.connect(**hosts.options(target_session_attrs="primary")), at=n)
            result = await outcome_of(attempt.run())
            if isinstance(result, WireConn):
                await result.close()
            else:
                assert isinstance(result, asyncio.CancelledError), result
            await until(lambda before=before: open_sockets() <= before, "both ends to be closed")  # type: ignore[misc]
        if not attempt.was_cancelled:
            break
    assert n > 5
