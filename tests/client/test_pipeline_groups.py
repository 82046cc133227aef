"""pipeline(): the results of a sync group, whatever happens inside it, to it or around it."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from contextlib import nullcontext
from typing import Any

import pytest

from pg_wired import (
    AsyncConn,
    ConnectionClosed,
    Outcome,
    PgError,
    PgPipeline,
    PipelineAborted,
    RequestTimeout,
    TransactionError,
    TransactionStatus,
    UsageError,
    WireConn,
)
from pg_wired.protocol import messages as m
from pg_wired.testing import FakePG, Peer
from rig.checks import SOON, Cancelled, answers, cache_in_step, ends_clean, outcome_of, repeatable, until, until_sql
from rig.postgres import Server
from tests.outcomes import ABORTED, GATE, column, ends, gate, until_asleep

pytestmark = pytest.mark.both_loops

NOT_SENT, REJECTED, UNKNOWN = Outcome.NOT_SENT, Outcome.REJECTED, Outcome.UNKNOWN
INSERT = "insert into piped values ($1)"
PIPED = "select a from piped order by a"


@pytest.fixture
async def conn(postgres: Server) -> AsyncIterator[AsyncConn]:
    async with await AsyncConn.connect(postgres.dsn) as conn:
        await conn.simple_query(
            "drop table if exists piped; create table piped(a int primary key deferrable initially deferred)"
        )
        yield conn


@pytest.fixture
async def admin(postgres: Server) -> AsyncIterator[AsyncConn]:
    async with await AsyncConn.connect(postgres.dsn) as conn:
        yield conn


@ends_clean(60)
async def test_a_group_of_many_megabytes_does_not_deadlock(conn: AsyncConn) -> None:
    """Before the Sync, the server's answers are so small that they stay in its output buffer."""
    for size, count in ((100_000, 100), (1_000, 10_000), (3_000_000, 5)):
        async with conn.pipeline() as pipeline:
            items = [pipeline.query("select length($1)", (b"x" * size,)) for _ in range(count)]
        assert [list(await item) for item in items] == [[(b"%d" % size,)]] * count
    await answers(conn)


@ends_clean()
async def test_awaiting_an_item_and_leaving_the_block_end_the_group(conn: AsyncConn, admin: AsyncConn) -> None:
    async with conn.pipeline() as pipeline:
        first = pipeline.query(INSERT, ("1",))
        assert await ends(first) == ["INSERT 0 1"]
        assert await ends(pipeline.query("select 1/0")) == [("22012", REJECTED)]  # in a separate group
        last = pipeline.query(INSERT, ("2",))
    assert last._as_future().done() and await column(admin, PIPED) == [1, 2]
    async with conn.pipeline():
        pass
    async with conn.pipeline() as pipeline:
        await pipeline.sync()
    await answers(conn)


@ends_clean()
async def test_a_simple_query_is_a_separate_group(conn: AsyncConn, admin: AsyncConn) -> None:
    async with conn.pipeline() as pipeline:
        before = pipeline.query(INSERT, ("1",))
        simple = pipeline.simple_query("insert into piped values (2); select 1/0")
        behind = pipeline.query(INSERT, ("3",))
        assert [list(rows) for rows in await pipeline.simple_query("select 1; select 2")] == [[(b"1",)], [(b"2",)]]
        failure = await outcome_of(simple)
        assert isinstance(failure, PgError) and failure.partial[0].command_tag == "INSERT 0 1"
    assert await ends(before, simple, behind) == ["INSERT 0 1", ("22012", REJECTED), "INSERT 0 1"]
    assert await column(admin, PIPED) == [1, 3]


@ends_clean()
async def test_a_constraint_that_fails_at_sync_rejects_the_whole_group(conn: AsyncConn, admin: AsyncConn) -> None:
    """All command tags had arrived, but none of them means success."""
    await conn.exec_query(INSERT, ("1",))
    async with conn.pipeline() as pipeline:
        for group in ("21", "1"):
            items = [pipeline.query(INSERT, (n,)) for n in group]
            await outcome_of(pipeline.sync())
            for item in items:
                failure = await outcome_of(item)
                cause = failure if isinstance(failure, PgError) else failure.__cause__
                assert isinstance(cause, PgError) and (cause.code, failure.outcome) == ("23505", REJECTED)
    assert await column(admin, PIPED) == [1]


@pytest.mark.parametrize("is_synced", [True, False])
@ends_clean()
async def test_begin_without_commit_is_rolled_back_and_raises_an_error(
    conn: AsyncConn, admin: AsyncConn, is_synced: bool
) -> None:
    with pytest.raises(TransactionError, match="open"):
        async with conn.pipeline() as pipeline:
            pipeline.query("begin")
            pipeline.query(INSERT, ("1",))
            if is_synced:
                await pipeline.sync()
                pipeline.query(INSERT, ("2",))
    await answers(conn)
    assert conn.transaction_status is TransactionStatus.IDLE and await column(admin, PIPED) == []


@ends_clean()
async def test_a_failed_group_with_a_commit_in_the_middle_has_outcome_unknown(
    conn: AsyncConn, admin: AsyncConn
) -> None:
    async with conn.pipeline() as pipeline:
        sqls = ["begin", "insert into piped values (1)", "commit", "insert into piped values (2)", "select 1/0"]
        got = await ends(*[pipeline.query(sql) for sql in sqls])
    assert {end[1] for end in got} == {UNKNOWN}  # some of it remains
    assert await column(admin, PIPED) == [1]


@ends_clean()
async def test_a_setting_that_retires_a_connection_does_so_in_a_pipeline_too(postgres: Server) -> None:
    async with await AsyncConn.connect(postgres.dsn) as shared:
        async with shared.pipeline() as pipeline:
            pipeline.query("set client_encoding = 'latin1'")
        assert not shared.is_alive


@ends_clean()
async def test_copy_in_a_pipeline_is_refused(postgres: Server, conn: AsyncConn, admin: AsyncConn) -> None:
    async with conn.pipeline() as pipeline:
        items = [pipeline.query(sql) for sql in ("insert into piped values (1)", "copy piped to stdout", "select 1")]
        assert await ends(*items) == ["INSERT 0 1", ("UsageError", UNKNOWN), "SELECT 1"]
        for sql in ("copy piped to stdout", "copy piped from stdin"):
            failure = await outcome_of(pipeline.simple_query(sql))
            assert isinstance(failure, UsageError) and "copy_" in str(failure)
    shared = await AsyncConn.connect(postgres.dsn)
    with pytest.raises((ConnectionClosed, UsageError)):
        async with shared.pipeline() as pipeline:
            before = pipeline.query(INSERT, ("2",))
            await before
            lost = [pipeline.query(sql) for sql in ("insert into piped values (3)", "copy piped from stdin", "select")]
            for end in await ends(*lost):
                assert end[0] in ("UsageError", "ConnectionClosed") and end[1] is UNKNOWN
            pipeline.query("select 1")
    await shared.close()
    assert await column(admin, PIPED) == [1, 2]


@ends_clean()
async def test_a_deadline_fails_only_its_item(postgres: Server, conn: AsyncConn, admin: AsyncConn) -> None:
    """The rest of the group continues, because it was sent."""
    async with conn.pipeline() as pipeline:
        never = pipeline.query(INSERT, ("1",), timeout=0)
        async with gate(postgres.dsn):
            slow = pipeline.query(f"select {GATE}", timeout=0.05)
            patient = pipeline.query(INSERT, ("2",))
            pipeline.sync()
            assert await ends(never, slow) == [("RequestTimeout", NOT_SENT), ("RequestTimeout", UNKNOWN)]
        assert await ends(patient) == ["INSERT 0 1"]
    assert await column(admin, PIPED) == [2]


# ---- how much, and in what order


@ends_clean(60)
async def test_two_mebibytes_in_both_directions_do_not_deadlock(conn: AsyncConn) -> None:
    """Neither side can buffer all of it: 40 MiB of parameters, 40 MiB of rows, in one group and in twenty."""
    payloads = [bytes([65 + n]) * (2 << 20) for n in range(20)]
    for is_one_group in (True, False):
        async with conn.pipeline() as pipeline:
            items = []
            for payload in payloads:
                items.append(pipeline.query("select $1::text", (payload,)))
                if not is_one_group:
                    pipeline.sync()
        for item, payload in zip(items, payloads, strict=True):
            assert list(await item) == [(payload,)]
    await answers(conn)


@pytest.mark.parametrize("max_in_flight", [1, 2, 256])
@ends_clean(60)
async def test_groups_of_any_size_keep_their_order_and_fail_separately(postgres: Server, max_in_flight: int) -> None:
    rng = repeatable()
    async with await AsyncConn.connect(postgres.dsn, max_in_flight=max_in_flight, statement_cache_size=5) as conn:
        async with conn.pipeline() as pipeline:
            items: list[tuple[Any, Any]] = []
            for _ in range(300):
                size = rng.choice([0, 1, 2, 10])
                failing = rng.randrange(size) if size and rng.random() < 0.3 else None
                for n in range(size):
                    number = rng.randrange(12)
                    sql = "select 1/0" if n == failing else f"select $1::int, {number}"
                    expected = [(str(n).encode(), b"%d" % number)] if failing is None else (n == failing)
                    items.append((pipeline.query(sql, () if n == failing else (str(n),)), expected))
                pipeline.sync()
        for item, expected in items:
            end = await outcome_of(item)
            if isinstance(expected, bool):
                assert type(end) is (PgError if expected else PipelineAborted) and end.outcome is REJECTED
            else:
                assert list(end) == expected
        await cache_in_step(conn)


# ---- the statement cache


@ends_clean()
async def test_items_after_a_failed_parse_never_report_a_missing_statement(conn: AsyncConn) -> None:
    """Each item gets the answer to its own SQL, never an error about a missing prepared statement."""
    async with conn.pipeline() as pipeline:
        same = [pipeline.query("selec"), pipeline.query("selec"), pipeline.query("select 'first'")]
        pipeline.sync()
        later = [pipeline.query("selec"), pipeline.query("select 'first'")]
        pipeline.sync()
        last = [pipeline.query("select 'first'"), pipeline.query("select 'first'")]
        failed = ("42601", REJECTED)
        assert await ends(*same, *later, *last) == [failed, ABORTED, ABORTED, failed, ABORTED, "SELECT 1", "SELECT 1"]
    await conn.exec_query("select 'first'")
    await cache_in_step(conn)


@ends_clean()
async def test_a_statement_that_was_skipped_is_prepared_later(conn: AsyncConn) -> None:
    async with conn.pipeline() as pipeline:
        await ends(pipeline.query("select 1/0"), pipeline.query("select 'skipped'"))
        items = [pipeline.query("select 'skipped'") for _ in range(3)]
    assert await ends(*items) == ["SELECT 1"] * 3
    await conn.exec_query("select 'skipped'")
    sql = (
        "select count(*) from pg_prepared_statements where statement like '%''skipped''' and statement not like '%pg_%'"
    )
    assert await column(conn, sql) == [1]
    await cache_in_step(conn)


@pytest.mark.parametrize("capacity", [0, 1, 2, 3])
@ends_clean()
async def test_eviction_inside_a_group_does_not_change_the_results(postgres: Server, capacity: int) -> None:
    async with await AsyncConn.connect(postgres.dsn, statement_cache_size=capacity) as conn:
        for lease in range(3):
            async with conn.pipeline() as pipeline:
                items = [(n, pipeline.query(f"select {n}, $1::int", (str(lease),))) for n in [*range(9), *range(9)] * 2]
            for n, item in items:
                assert list(await item) == [(b"%d" % n, b"%d" % lease)]
        await conn.exec_query("select 1")
        await cache_in_step(conn)


@ends_clean()
async def test_a_stale_statement_fails_its_group_once(conn: AsyncConn) -> None:
    """A user's group is not repeated, and the next use of the statement succeeds."""
    async with conn.pipeline() as pipeline:
        await pipeline.query("select * from piped")
        for columns in (2, 3):
            await pipeline.simple_query(f"alter table piped add c{columns} int")
            items = [pipeline.query(INSERT, (str(columns),)), pipeline.query("select * from piped")]
            assert await ends(*items) == [ABORTED, ("0A000", REJECTED)]
            assert len((await pipeline.query("select * from piped")).fields) == columns
    await cache_in_step(conn)


@ends_clean()
async def test_each_group_has_one_sync_and_closes_statements_only_at_its_head() -> None:
    """One write for all items queued in a loop iteration, one Sync per group, Close only at the head of a group."""

    async def script(peer: Peer) -> None:
        await peer.startup()
        while not isinstance((group := await peer.answer_rows([(b"1",)]))[-1], m.Terminate):
            frames.append("".join(chr(message.tag or 0) for message in group))
            if len(frames) == 4:
                break

    frames: list[str] = []
    async with FakePG(script) as fake, await AsyncConn.connect(fake.dsn, statement_cache_size=2) as conn:
        async with conn.pipeline() as pipeline:
            for group in (["1", "2", "3", "3"], ["4", "3"], ["4", "4"]):
                items = [pipeline.query(f"select {n}") for n in group]
                if group != ["4", "4"]:
                    pipeline.sync()
        for item in items:
            assert list(await item) == [(b"1",)]
        await conn.exec_query("select 4")
    assert [frame.count("S") for frame in frames] == [1] * 4, frames
    assert all("C" not in frame.lstrip("C") for frame in frames), frames
    # A Parse after other items may be skipped, so no item relies on it before it is answered.
    assert frames == ["PDBEPDBEPDBEBDES", "CCPDBEPDBES", "PDBEPDBES", "BES"]


# ---- exceptions, cancelling, the end


@ends_clean()
async def test_an_exception_leaves_no_effect_of_the_unfinished_group(conn: AsyncConn, admin: AsyncConn) -> None:
    with pytest.raises(KeyError):
        async with conn.pipeline() as pipeline:
            ended = pipeline.query(INSERT, ("1",))
            await pipeline.sync()
            lost = [pipeline.query(INSERT, (n,)) for n in "23"]
            await asyncio.sleep(0)  # they are sent
            raise KeyError
    assert await ends(ended) == ["INSERT 0 1"]
    for item in lost:
        failure = await outcome_of(item)
        assert isinstance(failure, UsageError) and failure.outcome is not NOT_SENT
    await answers(conn)
    assert await column(admin, PIPED) == [1]


@ends_clean()
async def test_cancelling_inside_stops_the_group_on_the_server(conn: AsyncConn, admin: AsyncConn) -> None:
    async def work() -> None:
        async with conn.pipeline() as pipeline:
            items.append(pipeline.query(INSERT, ("1",)))
            items.append(pipeline.query("select pg_sleep(60)"))
            await pipeline.sync()

    items: list[Any] = []
    task = asyncio.create_task(work())
    await until_asleep(admin, conn.backend_pid)
    task.cancel()
    assert isinstance(await outcome_of(task), asyncio.CancelledError)
    for item in items:
        assert isinstance(await outcome_of(item), (UsageError, asyncio.CancelledError))
    await answers(conn)
    assert await column(admin, PIPED) == []


@ends_clean(60)
async def test_cancelling_at_any_await_never_leaves_half_a_group(conn: AsyncConn, admin: AsyncConn) -> None:
    async def work() -> None:
        async with conn.pipeline() as pipeline:
            pipeline.query(INSERT, (str(at * 10),))
            pipeline.query(INSERT, (str(at * 10 + 1),))
            await pipeline.sync()
            item = pipeline.query(INSERT, (str(at * 10 + 2),))
            pipeline.query(INSERT, (str(at * 10 + 3),))
            await item
            pipeline.query("select 1")

    at, was_cancelled = 0, True
    while was_cancelled:
        at += 1
        cancelled = Cancelled(work(), at)
        await outcome_of(cancelled.run())
        was_cancelled = cancelled.was_cancelled
        await answers(conn)
        written = set(await column(admin, PIPED))
        for n in range(at * 10, at * 10 + 4, 2):
            assert (n in written) == (n + 1 in written), "half a group"
    assert at > 3


@ends_clean()
async def test_a_cancelled_sync_still_separates_two_groups(conn: AsyncConn, admin: AsyncConn) -> None:
    async with conn.pipeline() as pipeline:
        first = [pipeline.query("select $1::text", ("x" * (3 << 20),)) for _ in range(2)]
        pipeline.sync().cancel()
        assert await ends(pipeline.query("select 1/0")) == [("22012", REJECTED)]
    assert await ends(*first) == ["SELECT 1"] * 2


@ends_clean()
async def test_a_cancelled_item_does_not_affect_the_others(conn: AsyncConn, admin: AsyncConn) -> None:
    async with conn.pipeline() as pipeline:
        items = [pipeline.query(INSERT, (str(n),)) for n in range(10)]
        for item in items[::2]:
            item._as_future().cancel()
    assert await ends(*items[1::2]) == ["INSERT 0 1"] * 5
    assert len(await column(admin, PIPED)) in (5, 10)


@ends_clean()
async def test_an_abandoned_simple_query_is_cancelled_on_the_server(conn: AsyncConn, admin: AsyncConn) -> None:
    """It is the only request in flight, so nothing else would stop it before the end of the block."""
    async with conn.pipeline() as pipeline:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await pipeline.simple_query("select pg_sleep(60)")
        await until_sql(admin, f"select state <> 'active' from pg_stat_activity where pid = {conn.backend_pid}")
        assert await ends(pipeline.query(INSERT, ("1",))) == ["INSERT 0 1"]


@ends_clean()
async def test_a_lost_connection_inside_fails_the_unanswered_group_as_unknown(
    postgres: Server, conn: AsyncConn, admin: AsyncConn
) -> None:
    shared = await AsyncConn.connect(postgres.dsn)
    with pytest.raises(ConnectionClosed):
        async with shared.pipeline() as pipeline:
            first = pipeline.query(INSERT, ("1",))
            await pipeline.sync()
            items = [pipeline.query(INSERT, ("2",)), pipeline.query("select pg_sleep(60)")]
            pipeline.sync()
            await until_asleep(admin, shared.backend_pid)
            await admin.exec_query("select pg_terminate_backend($1)", (str(shared.backend_pid),))
            assert await ends(first, *items) == ["INSERT 0 1", *[("ConnectionClosed", UNKNOWN)] * 2]
            pipeline.query("select 1")
    assert not shared.is_alive
    await shared.close()
    assert await column(admin, PIPED) == [1]


@ends_clean()
async def test_a_lost_connection_logs_one_line_for_all_failed_items(
    postgres: Server, conn: AsyncConn, admin: AsyncConn
) -> None:
    loop, settings = asyncio.get_running_loop(), list[Any]()
    shared = await AsyncConn.connect(postgres.dsn)
    with pytest.raises(ConnectionClosed):
        async with shared.pipeline() as pipeline:
            items = [pipeline.query("select pg_sleep(60)") for _ in range(100)]
            pipeline.sync()
            await until_asleep(admin, shared.backend_pid)
            await admin.exec_query("select pg_terminate_backend($1)", (str(shared.backend_pid),))
            pipeline.simple_query("select 1")
            await pipeline.sync()
    loop.set_exception_handler(lambda _, context: settings.append(context["message"]))
    del items, pipeline
    gc.collect()
    loop.set_exception_handler(None)
    assert len(settings) == 1 and "never retrieved" in settings[0]


@ends_clean()
async def test_a_pipeline_can_use_a_wire_conn_and_give_it_back(postgres: Server) -> None:
    async with await WireConn.connect(postgres.dsn) as wire:
        async with PgPipeline(wire) as pipeline:
            items = [pipeline.query("select $1::int", (str(n),)) for n in range(100)]
            assert await ends(pipeline.query("select 1/0")) == [("22012", REJECTED)]
        assert await ends(*items) == [ABORTED] * 100
        async with PgPipeline(wire) as pipeline:
            items = [pipeline.query("select $1::int", (str(n),)) for n in range(100)]
        assert [list(await item) for item in items] == [[(b"%d" % n,)] for n in range(100)]
        await wire.send(m.Query("select 'mine again'"))
        assert await wire.collect_rows() == ([(b"mine again",)], "SELECT 1")


# ---- the deadline of an item


@ends_clean()
@pytest.mark.parametrize("is_nested", [False, True])
async def test_the_block_ends_when_its_last_item_times_out(conn: AsyncConn, is_nested: bool) -> None:
    """The server is asked to stop, so that the connection can be used again."""
    async with asyncio.timeout(SOON), conn.exclusive() if is_nested else nullcontext(conn) as owner:
        async with owner.pipeline() as pipeline:
            slow = pipeline.query("select pg_sleep(60)", timeout=0.1)
        late = await outcome_of(slow)
        assert isinstance(late, RequestTimeout) and late.outcome is UNKNOWN
        assert await owner.exec_query("select 2") == [(b"2",)]


@ends_clean()
async def test_an_item_that_times_out_ends_no_other_group(postgres: Server, conn: AsyncConn, admin: AsyncConn) -> None:
    async def leave() -> None:
        async with conn.pipeline() as pipeline:
            late.append(pipeline.query(f"select {GATE}", timeout=0.05))
            pipeline.sync()
            kept.append(pipeline.query(INSERT, ("1",)))

    late: list[Any] = []
    kept: list[Any] = []
    async with gate(postgres.dsn):
        leaving = asyncio.ensure_future(leave())
        await until(lambda: bool(late) and late[0].done(), "the item to time out")
    await leaving
    assert await ends(*late, *kept) == [("RequestTimeout", UNKNOWN), "INSERT 0 1"]
    assert await column(admin, PIPED) == [1]


@ends_clean()
async def test_the_block_ends_on_a_silent_link_too() -> None:
    async def script(peer: Peer) -> None:
        await peer.startup()
        while await peer.read():
            pass

    async with FakePG(script, hold_cancels=True) as fake:
        conn = await AsyncConn.connect(fake.dsn)
        async with asyncio.timeout(SOON):
            async with conn.pipeline() as pipeline:
                item = pipeline.query("select 1", timeout=0.05)
            assert isinstance(await outcome_of(item), RequestTimeout)
        await fake.cancels.get()
        conn.abort()
        fake.release_cancels()
