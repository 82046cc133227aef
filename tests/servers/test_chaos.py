"""One fault a second while two hundred tasks use a pool: no call hangs, no answer is wrong, and the pool recovers."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections.abc import Awaitable, Callable

import pytest

from pg_wired import AsyncPool, PgWireError
from rig.checks import SOAK, ends_clean, repeatable, until
from rig.postgres import Mode, Postgres
from rig.proxy import Direction, Proxy
from tests.pool_load import Crowd, ledger, new_ledger, well

pytestmark = [pytest.mark.servers, pytest.mark.soak, pytest.mark.both_loops]

SECONDS = 300 if SOAK else 5  # on each of the two event loops
TASKS = 200


class Faults:
    """Faults of a server and of the connection to it. After each, both work again."""

    def __init__(self, server: Postgres, proxy: Proxy, pool: AsyncPool, rng: random.Random) -> None:
        self.server = server
        self.proxy = proxy
        self.pool = pool
        self.rng = rng

    async def terminate(self) -> None:
        if pid := self._backend():
            os.kill(pid, signal.SIGTERM)  # what pg_terminate_backend does

    async def kill(self) -> None:
        """Kill a backend: the server ends all its sessions, and recovers."""
        if pid := self._backend():
            os.kill(pid, signal.SIGKILL)

    async def restart(self, mode: Mode) -> None:
        await asyncio.to_thread(self.server.stop, mode)
        await asyncio.to_thread(self.server.start)

    async def restart_fast(self) -> None:
        await self.restart("fast")

    async def restart_immediately(self) -> None:
        await self.restart("immediate")

    async def stall(self) -> None:
        every: list[Proxy | Direction] = [self.proxy, self.proxy.up, self.proxy.down]
        held = self.rng.choice(every)
        held.hold()
        await asyncio.sleep(self.rng.random())
        held.release()

    async def cut(self) -> None:
        self.proxy.cut(self.rng.choice(["fin", "rst"]))

    async def mince(self) -> None:
        way = self.rng.choice([self.proxy.up, self.proxy.down])
        way.segment = self.rng.randrange(1, 50)
        await asyncio.sleep(self.rng.random())
        way.segment = 65536

    @property
    def every(self) -> list[Callable[[], Awaitable[None]]]:
        restarts = [self.restart_fast, self.restart_immediately]
        return [self.terminate, self.kill, *restarts, self.stall, self.cut, self.mince]

    def _backend(self) -> int | None:
        """The backend of one of the pool's connections, or None if none is up."""
        try:
            return self.pool.get().backend_pid
        except PgWireError:
            return None


@pytest.mark.timeout(SECONDS + 180)
@ends_clean(SECONDS + 120)
async def test_faults_under_load_lose_no_acknowledged_write_and_the_pool_recovers(launched: Postgres) -> None:
    rng = repeatable()
    await new_ledger(launched.dsn, is_unique=False)
    async with (
        Proxy(launched.host, launched.port) as proxy,
        await AsyncPool.connect(f"{launched.dsn} {proxy.address}", size=4) as pool,
    ):
        async with Crowd(pool, rng, TASKS, writes=0.3) as crowd:
            await crowd.done(1_000)
            done = await strike(Faults(launched, proxy, pool, random.Random(rng.random())))
            print(f"{done}; well {await well(pool):.3f} s after the last of them")
            await crowd.done(1_000)
        print(crowd.book.ends, pool.stats())
        await adds_up(pool)
    crowd.book.check_once(await ledger(launched.dsn))
    assert len(crowd.book.there) > 100


async def strike(faults: Faults) -> list[str]:
    """Cause one fault a second, each kind once before any repeats; return their names when the last has ended."""
    left: list[Callable[[], Awaitable[None]]] = []
    done: list[str] = []
    end = time.monotonic() + SECONDS
    while True:
        left = left or faults.rng.sample(faults.every, len(faults.every))
        fault = left.pop()
        done.append(fault.__name__)
        pause = asyncio.create_task(asyncio.sleep(1))
        await fault()
        if time.monotonic() > end - 1:
            pause.cancel()
            return done
        await pause


async def adds_up(pool: AsyncPool) -> None:
    """Once no task uses the pool, no gauge counts anything as in progress."""

    def is_quiet() -> bool:
        stats = pool.stats()
        return (stats.in_flight, stats.waiting, stats.lent, stats.alive) == (0, 0, 0, stats.size)

    await until(is_quiet, "the gauges to come to rest", 20)
    stats = pool.stats()
    assert stats.connects >= stats.size and stats.writes <= stats.requests
