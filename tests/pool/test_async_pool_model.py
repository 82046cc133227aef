"""Random sequences of events on a pool: its gauges add up after each step, and no task waits without a reason."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Coroutine
from typing import Any, TypeVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from pg_wired import AsyncConn, AsyncPool, Outcome, PgWireError, PoolExhausted, Rows
from rig.checks import nothing_left, open_sockets, until
from rig.lively_pg import LivelyPG
from rig.postgres import Server
from rig.randomness import chosen

T = TypeVar("T")

MAX_WAITING = 6


class Borrower:
    """A task that acquires a connection and holds it until `may_leave` is set."""

    def __init__(self, pool: AsyncPool, dirty: bool) -> None:
        self.may_leave = asyncio.Event()
        self.has_it = False
        self.dirty = dirty
        self.task = asyncio.ensure_future(self._work(pool))

    async def _work(self, pool: AsyncPool) -> None:
        async with pool.exclusive() as mine:
            self.has_it = True
            try:
                if self.dirty:
                    await mine.simple_query("begin; set local a.b = '1'")
                await self.may_leave.wait()
            finally:
                self.has_it = False


class PoolModel(RuleBasedStateMachine):
    """The rules and invariants; each subclass brings its server."""

    limit = 2

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.requests: list[asyncio.Future[Rows]] = []
        self.borrowers: list[Borrower] = []
        self.size = 1

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(work)

    async def start(self) -> str:
        raise NotImplementedError

    async def stop(self) -> None:
        raise NotImplementedError

    async def kill(self, index: int) -> None:
        raise NotImplementedError

    @initialize(size=st.integers(1, 3), limit=st.integers(1, 2), seed=st.integers(0, 99))
    def begin(self, size: int, limit: int, seed: int) -> None:
        async def connect() -> AsyncPool:
            self.before = open_sockets()
            dsn = await self.start()
            settings: dict[str, Any] = {"max_exclusive": limit, "max_waiting": MAX_WAITING, "max_in_flight": 3}
            return await AsyncPool.connect(dsn, size=size, _runtime=chosen(random.Random(seed).random), **settings)

        self.size, self.limit = size, limit
        self.pool = self.run(connect())

    @rule(count=st.integers(1, 9))
    def ask(self, count: int) -> None:
        async def submit() -> None:
            self.requests += [self.pool.exec_query("select 1, $1::text", [str(n)]) for n in range(count)]
            for request in self.requests:
                request.add_done_callback(lambda reply: reply.cancelled() or reply.exception())

        self.run(submit())

    @rule(index=st.integers(0, 99))
    def nobody_waits_for_a_request(self, index: int) -> None:
        if self.requests:
            self.requests[index % len(self.requests)].cancel()

    @rule(dirty=st.booleans(), turns=st.integers(0, 3))
    def acquire(self, dirty: bool, turns: int) -> None:
        async def start() -> None:
            self.borrowers.append(Borrower(self.pool, dirty))
            await self.lease(turns)

        self.run(start())

    @precondition(lambda self: self.borrowers)
    @rule(index=st.integers(0, 99), turns=st.integers(0, 3))
    def leave(self, index: int, turns: int) -> None:
        self.borrowers[index % len(self.borrowers)].may_leave.set()
        self.run(self.lease(turns))

    @precondition(lambda self: self.borrowers)
    @rule(index=st.integers(0, 99), turns=st.integers(0, 3), leaves=st.booleans())
    def cancel(self, index: int, turns: int, leaves: bool) -> None:
        """Cancel a borrower, perhaps in the same iteration of the loop in which another one leaves."""

        async def work() -> None:
            if leaves:
                next(iter(self.borrowers)).may_leave.set()
                await self.lease(turns)
            self.borrowers[index % len(self.borrowers)].task.cancel()
            await self.lease(turns)

        self.run(work())

    @rule(index=st.integers(0, 99))
    def lose(self, index: int) -> None:
        self.run(self.kill(index))

    @rule(size=st.integers(1, 3))
    def resize(self, size: int) -> None:
        async def work() -> None:
            self.pool.resize(size)

        self.size = size
        self.run(work())

    @rule(turns=st.integers(1, 20))
    def go_on(self, turns: int) -> None:
        self.run(self.lease(turns))

    @rule()
    def settle(self) -> None:
        """Left alone, the pool recovers: all connections are up, every request has ended, and only borrowers wait."""
        self.run(self.is_whole())

    async def is_whole(self) -> None:
        def is_quiet() -> bool:
            stats = self.pool.stats()
            holding = sum(borrower.has_it for borrower in self.borrowers)
            waiting = sum(not borrower.task.done() for borrower in self.borrowers) - holding
            return (
                stats.alive == self.size
                and all(request.done() for request in self.requests)
                and stats.lent == holding == min(self.limit, holding + waiting)
                and stats.waiting == waiting
                and stats.opening == 0
            )

        await until(is_quiet, "the pool to be whole")
        for request in self.requests:
            assert request.cancelled() or isinstance(request.exception(), PgWireError | None)
        self.requests.clear()
        for borrower in [borrower for borrower in self.borrowers if borrower.task.done()]:
            self.borrowers.remove(borrower)
            error = None if borrower.task.cancelled() else borrower.task.exception()
            assert isinstance(error, PgWireError | None), error
            assert not isinstance(error, PoolExhausted) or error.outcome is Outcome.NOT_SENT

    @staticmethod
    async def lease(turns: int) -> None:
        for _ in range(turns):
            await asyncio.sleep(0)

    @invariant()
    def gauges_add_up(self) -> None:
        if not hasattr(self, "pool"):
            return
        stats, lending = self.pool.stats(), self.pool._lending
        assert stats.size == self.size and 0 <= stats.alive <= self.size
        assert lending.in_use == stats.idle + stats.lent + stats.opening + lending.leaving <= self.limit
        assert min(stats.idle, stats.lent, stats.opening, lending.leaving) >= 0
        assert not (stats.idle and any(not waiter.future.done() for waiter in lending.waiters))
        assert len(lending.waiters) <= MAX_WAITING + self.limit
        assert len(self.pool._connections.conns) >= stats.alive + stats.idle
        assert all(conn.is_alive for conn in self.pool._shared.cores)
        assert stats.lent >= sum(borrower.has_it for borrower in self.borrowers)

    def teardown(self) -> None:
        async def end() -> None:
            try:
                if hasattr(self, "pool"):
                    await self.is_whole()
                    for borrower in self.borrowers:
                        borrower.may_leave.set()
                    await self.pool.close()
                    await asyncio.gather(*[borrower.task for borrower in self.borrowers], return_exceptions=True)
                    stats = self.pool.stats()
                    assert (stats.alive, stats.lent, stats.idle, stats.opening, stats.waiting) == (0,) * 5
            finally:
                await self.stop()
            if hasattr(self, "pool"):
                await nothing_left(self.before)

        try:
            self.run(end())
        finally:
            self.runner.close()


class OnLivelyPG(PoolModel):
    """A server that can also refuse connections and withhold its answers."""

    async def start(self) -> str:
        self.fake = LivelyPG(unix=True)
        await self.fake.__aenter__()
        return self.fake.dsn

    async def stop(self) -> None:
        if hasattr(self, "fake"):
            await self.fake.__aexit__(None, None, None)

    async def kill(self, index: int) -> None:
        if self.fake.sessions:
            self.fake.kill(sorted(self.fake.sessions)[index % len(self.fake.sessions)])

    @rule()
    def all_are_lost(self) -> None:
        async def work() -> None:
            for pid in list(self.fake.sessions):
                self.fake.kill(pid)

        self.run(work())

    @rule(turns=st.integers(0, 30))
    def refuse_for_a_while(self, turns: int) -> None:
        async def work() -> None:
            self.fake.refuses = True
            await self.lease(turns)
            self.fake.refuses = False

        self.run(work())

    @rule(turns=st.integers(0, 10))
    def hold_for_a_while(self, turns: int) -> None:
        async def work() -> None:
            self.fake.may_answer.clear()
            await self.lease(turns)
            self.fake.may_answer.set()

        self.run(work())


TestOnLivelyPG = OnLivelyPG.TestCase
TestOnLivelyPG.settings = settings(max_examples=12, stateful_step_count=30, deadline=None)


def test_the_pool_model_holds_on_a_real_server(postgres: Server) -> None:
    class OnPostgres(PoolModel):
        async def start(self) -> str:
            self.admin = await AsyncConn.connect(postgres.dsn)
            return f"{postgres.dsn} application_name=model"

        async def stop(self) -> None:
            if hasattr(self, "admin"):
                await self.admin.close()

        async def kill(self, index: int) -> None:
            sql = "select pid from pg_stat_activity where application_name = 'model' order by pid"
            pids = [row[0] or b"" for row in await self.admin.exec_query(sql)]
            if pids:
                await self.admin.exec_query("select pg_terminate_backend($1::int4)", [pids[index % len(pids)]])

    few = settings(
        max_examples=4, stateful_step_count=20, deadline=None, suppress_health_check=list(HealthCheck), database=None
    )
    run_state_machine_as_test(OnPostgres, settings=few)
