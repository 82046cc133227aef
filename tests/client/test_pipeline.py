"""pipeline(): sync groups that the caller chooses, against a real server.

The scenarios of PostgreSQL's own libpq_pipeline, and the tests that cover each:

- cancel: test_cancelling_on_the_server_aborts_only_one_group; the ways to send a CancelRequest are in test_cancel.py
- disallowed_in_pipeline: test_requests_disallowed_in_pipeline_are_refused; every other kind of window in test_lease.py
- multi_pipelines: test_multi_pipelines_are_answered_in_order
- nosync: test_nosync_results_arrive_without_any_sync, with Flush, by WireConn
- pipeline_abort: test_pipeline_abort_fails_only_the_group_of_the_error, test_two_statements_in_one_item_are_rejected,
  test_an_error_partway_through_the_rows_aborts_the_group
- pipeline_idle: test_pipeline_idle_answers_each_flush (by WireConn),
  test_a_warning_in_the_middle_does_not_disturb_the_results
- pipelined_insert: test_pipelined_insert_of_10000_rows_is_committed
- prepared: test_prepared_statements_can_be_described_by_items,
  test_prepared_statements_and_portals_can_be_described_and_closed_by_name (by WireConn)
- protocol_version: not about pipelines; what a server may negotiate is in test_login_libpq.py
- simple_pipeline: test_simple_pipeline_returns_its_result_at_sync
- singlerow: test_singlerow_rows_arrive_one_by_one (by WireConn; all rows of an item arrive together, and stream() is
  a separate window)
- transaction: test_a_transaction_may_span_groups
- uniqviol: test_uniqviol_fails_only_the_groups_that_repeat_a_key
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from pg_wired import AsyncConn, Outcome, PgError, Rows, UsageError, WireConn
from pg_wired.client.pipeline import PipelineItem
from pg_wired.protocol import messages as m
from rig.checks import answers, ends_clean, outcome_of
from rig.postgres import Server
from tests.outcomes import ABORTED, column, ends, until_asleep

pytestmark = pytest.mark.both_loops

REJECTED = Outcome.REJECTED
INSERT = "insert into piped values ($1)"
INT4 = (23,)
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


@pytest.fixture
async def wire(postgres: Server) -> AsyncIterator[WireConn]:
    async with await WireConn.connect(postgres.dsn) as wire:
        yield wire


# ---- libpq_pipeline


@pytest.mark.smoke
@ends_clean()
async def test_simple_pipeline_returns_its_result_at_sync(conn: AsyncConn) -> None:
    async with conn.pipeline() as pipeline:
        item = pipeline.query("select $1", ("1",), INT4)
        synced = pipeline.sync()
        assert not item._as_future().done()
        assert list(await item) == [(b"1",)]
        assert list(await synced) == []
    assert list(await item) == [(b"1",)]  # a second await works too
    await answers(conn)


@ends_clean()
async def test_a_long_pipeline_is_sent_before_all_of_it_is_queued(conn: AsyncConn) -> None:
    async with conn.pipeline() as pipeline:
        before = conn._core.transport.writes
        items = [pipeline.query("select $1::text", (str(n),)) for n in range(3)]
        assert conn._core.transport.writes == before  # a short pipeline is sent in one write
        items += [pipeline.query("select $1::text", (str(n),)) for n in range(3, 50)]
        assert before + 3 < conn._core.transport.writes < before + 10
    assert [list(await item) for item in items] == [[(b"%d" % n,)] for n in range(50)]


@ends_clean()
async def test_multi_pipelines_are_answered_in_order(conn: AsyncConn) -> None:
    order: list[object] = []
    async with conn.pipeline() as pipeline:
        items: list[PipelineItem[Rows]] = []
        replies: list[asyncio.Future[Rows]] = []
        for number in "123":
            items.append(pipeline.query("select $1", (number,), INT4))
            replies += [items[-1]._as_future(), pipeline.sync()]
        for reply in replies:
            reply.add_done_callback(order.append)
    assert [list(await item) for item in items] == [[(b"1",)], [(b"2",)], [(b"3",)]]
    assert order == replies


@ends_clean()
async def test_requests_disallowed_in_pipeline_are_refused(conn: AsyncConn) -> None:
    async with conn.pipeline() as pipeline:
        for outside in (conn.exec_query, conn.simple_query, conn.describe):
            with pytest.raises(UsageError, match=r"inside pipeline\(\)"):
                outside("select 1")
        with pytest.raises(UsageError, match=r"inside pipeline\(\)"):
            await conn.pipeline().__aenter__()
        item = pipeline.query("select 1")
    assert list(await item) == [(b"1",)]
    with pytest.raises(UsageError):
        pipeline.query("select 1")
    with pytest.raises(UsageError):
        pipeline.sync()
    with pytest.raises(UsageError):
        conn.pipeline().query("select 1")
    assert conn.in_flight == 0
    await answers(conn)


@ends_clean()
async def test_nosync_results_arrive_without_any_sync(wire: WireConn) -> None:
    """All results arrive before any Sync is sent."""
    sql = "select repeat('xyzxz', 12)"
    for _ in range(10):
        await wire.send(m.Parse("", sql), m.Bind(), m.Execute())
    await wire.send(m.Flush())
    for _ in range(10):
        await expect(wire, m.ParseComplete, m.BindComplete)
        assert await wire.recv_msg() == m.DataRow((b"xyzxz" * 12,))
        await expect(wire, m.CommandComplete)
    assert not wire.has_pending_data
    await wire.send(m.Sync())
    await expect(wire, m.ReadyForQuery)


async def expect(wire: WireConn, *kinds: type[m.Message]) -> None:
    for kind in kinds:
        assert isinstance(message := await wire.recv_msg(), kind), message


@ends_clean()
async def test_pipeline_abort_fails_only_the_group_of_the_error(conn: AsyncConn, admin: AsyncConn) -> None:
    async with conn.pipeline() as pipeline:
        first = pipeline.query(INSERT, ("1",), INT4)
        failing = pipeline.query("select no_such_function($1)", ("1",), INT4)
        skipped = pipeline.query(INSERT, ("2",), INT4)
        synced = pipeline.sync()
        other = pipeline.query(INSERT, ("3",), INT4)
        pipeline.sync()
        assert await ends(failing, first, skipped, other) == [
            ("42883", REJECTED), ABORTED, ABORTED, "INSERT 0 1",
        ]  # fmt: skip
        assert list(await synced) == []  # it only says that everything was answered
        for item, words in ((first, "rolled back"), (skipped, "skipped")):
            error = await outcome_of(item)
            assert words in str(error) and isinstance(error.__cause__, PgError) and error.__cause__.code == "42883"
    assert await column(admin, PIPED) == [3]


@ends_clean()
async def test_two_statements_in_one_item_are_rejected(conn: AsyncConn) -> None:
    async with conn.pipeline() as pipeline:
        assert await ends(pipeline.query("select 1; select 2")) == [("42601", REJECTED)]
        assert await ends(pipeline.query("select 1")) == ["SELECT 1"]


@ends_clean()
async def test_an_error_partway_through_the_rows_aborts_the_group(conn: AsyncConn, wire: WireConn) -> None:
    sql = "select 1.0/g from generate_series(3, -1, -1) g"
    async with conn.pipeline() as pipeline:
        item, beside = pipeline.query(sql), pipeline.query("select 1")
        assert await ends(item, beside) == [("22012", REJECTED), ABORTED]
        assert await ends(pipeline.query("select 1")) == ["SELECT 1"]
    await wire.send(m.Parse("", sql), m.Bind(), m.Execute(), m.Sync())
    await expect(wire, m.ParseComplete, m.BindComplete, m.DataRow, m.DataRow, m.DataRow)
    await expect(wire, m.ErrorResponse, m.ReadyForQuery)


@ends_clean()
async def test_pipeline_idle_answers_each_flush(wire: WireConn) -> None:
    """One query at a time, each requested with Flush; a warning comes before the rows it belongs to."""
    for number in b"1", b"2":
        await wire.send(m.Parse("", f"select {number.decode()}"), m.Bind(), m.Execute(), m.Flush())
        await expect(wire, m.ParseComplete, m.BindComplete)
        assert await wire.recv_msg() == m.DataRow((number,))
        await expect(wire, m.CommandComplete)
    await wire.send(m.Parse("", "select pg_advisory_unlock(1, 1)"), m.Bind(), m.Execute(), m.Flush())
    await expect(wire, m.ParseComplete, m.BindComplete, m.NoticeResponse, m.DataRow, m.CommandComplete)
    await wire.send(m.Sync())
    await expect(wire, m.ReadyForQuery)


@ends_clean()
async def test_a_warning_in_the_middle_does_not_disturb_the_results(conn: AsyncConn) -> None:
    said: list[str] = []
    conn.set_notice_handler(lambda notice: said.append(notice.severity))
    async with conn.pipeline() as pipeline:
        items = [pipeline.query("select pg_catalog.pg_advisory_unlock(1,1)") for _ in range(3)]
    assert [list(await item) for item in items] == [[(b"f",)]] * 3 and said == ["WARNING"] * 3


@ends_clean(60)
async def test_pipelined_insert_of_10000_rows_is_committed(conn: AsyncConn, admin: AsyncConn) -> None:
    """A transaction in one group: 10,000 inserts, written while their answers are read."""
    count = 10_000
    async with conn.pipeline() as pipeline:
        heads = [pipeline.query(sql) for sql in ("begin", "drop table piped", "create table piped(a int, b int8)")]
        insert = "insert into piped values ($1, $2)"
        items = [pipeline.query(insert, (str(n), str(1 << 62)), (23, 20)) for n in range(count)]
        heads.append(pipeline.query("commit"))
    assert [(await head).command_tag for head in heads] == ["BEGIN", "DROP TABLE", "CREATE TABLE", "COMMIT"]
    assert {(await item).command_tag for item in items} == {"INSERT 0 1"}
    assert await column(admin, PIPED) == list(range(count))
    await answers(conn)


@ends_clean()
async def test_prepared_statements_can_be_described_by_items(conn: AsyncConn) -> None:
    async with conn.pipeline() as pipeline:
        sql = "select $1, '42', $1::numeric, interval '1 sec'"
        described = pipeline.describe(sql, INT4)
        described_as = await described
        assert described_as.param_oids == INT4
        assert [field.type_oid for field in described_as.fields] == [23, 25, 1700, 1186]
        assert (await pipeline.describe("begin")).fields == ()
        first, between = pipeline.query("select 1"), pipeline.describe("select $1::int8")
        assert [list(await pipeline.query("select 2")), list(await first)] == [[(b"2",)], [(b"1",)]]
        assert (await between).param_oids == (20,)
        bad, beside = pipeline.describe("selec"), pipeline.describe("select 1")
        assert await ends(bad, beside) == [("42601", REJECTED), ABORTED]


@ends_clean()
async def test_prepared_statements_and_portals_can_be_described_and_closed_by_name(wire: WireConn) -> None:
    await wire.send(m.Parse("select_one", "select $1, 42", INT4), m.Describe("S", "select_one"), m.Sync())
    await expect(wire, m.ParseComplete, m.ParameterDescription, m.RowDescription, m.ReadyForQuery)
    await wire.send(m.Close("S", "select_one"), m.Close("S", "not there"), m.Sync(), m.Describe("S", "select_one"))
    await wire.send(m.Sync())
    await expect(wire, m.CloseComplete, m.CloseComplete, m.ReadyForQuery, m.ErrorResponse, m.ReadyForQuery)
    await wire.send(m.Query("begin; declare cursor_one cursor for select 1"))
    await wire.drain_until_ready()
    await wire.send(m.Describe("P", "cursor_one"), m.Close("P", "cursor_one"), m.Sync(), m.Describe("P", "cursor_one"))
    await wire.send(m.Sync())
    await expect(wire, m.RowDescription, m.CloseComplete, m.ReadyForQuery, m.ErrorResponse, m.ReadyForQuery)


@ends_clean()
async def test_singlerow_rows_arrive_one_by_one(wire: WireConn) -> None:
    for n in range(3):
        bind = m.Bind(params=(str(44 + n).encode(),))
        await wire.send(m.Parse("", "select generate_series(42, $1)", INT4), bind, m.Execute())
    await wire.send(m.Sync())
    for n in range(3):
        await expect(wire, m.ParseComplete, m.BindComplete)
        for value in range(42, 45 + n):
            assert await wire.recv_msg() == m.DataRow((b"%d" % value,))
        await expect(wire, m.CommandComplete)
    await expect(wire, m.ReadyForQuery)


@ends_clean()
async def test_a_transaction_may_span_groups(conn: AsyncConn, admin: AsyncConn) -> None:
    """An error fails the transaction, the ROLLBACK in its group is skipped, and one in a later group ends it."""
    async with conn.pipeline() as pipeline:
        group = [pipeline.query(sql) for sql in ("begin", "select 0/0", "rollback", "insert into piped values (1)")]
        pipeline.sync()
        failed = pipeline.query("insert into piped values (2)")
        pipeline.sync()
        after = [pipeline.query("rollback"), pipeline.query("insert into piped values (3)")]
        pipeline.sync()
        await pipeline.sync()
        assert await ends(*group) == [ABORTED, ("22012", REJECTED), ABORTED, ABORTED]
        assert await ends(failed, *after) == [("25P02", REJECTED), "ROLLBACK", "INSERT 0 1"]
    assert await column(admin, PIPED) == [3]
    await answers(conn)


@ends_clean()
async def test_uniqviol_fails_only_the_groups_that_repeat_a_key(conn: AsyncConn, admin: AsyncConn) -> None:
    """Every tenth insert repeats a key; each insert is a separate group."""
    await conn.simple_query("alter table piped add b int unique")
    async with conn.pipeline() as pipeline:
        items = []
        for n in range(500):
            items.append(pipeline.query("insert into piped values ($1, $2)", (str(n), str(n - (n % 10 == 9)))))
            pipeline.sync()
    for n, end in enumerate(await ends(*items)):
        assert end == ("INSERT 0 1" if n % 10 != 9 else ("23505", REJECTED)), n
    assert await column(admin, PIPED) == [n for n in range(500) if n % 10 != 9]


@ends_clean()
async def test_cancelling_on_the_server_aborts_only_one_group(conn: AsyncConn, admin: AsyncConn) -> None:
    async with conn.pipeline() as pipeline:
        items = [pipeline.query(INSERT, ("1",)), pipeline.query("select pg_sleep(60)"), pipeline.query(INSERT, ("2",))]
        pipeline.sync()
        behind = pipeline.query(INSERT, ("3",))
        pipeline.sync()
        await until_asleep(admin, conn.backend_pid)
        await conn.cancel_token().cancel()
        assert await ends(*items, behind) == [ABORTED, ("57014", REJECTED), ABORTED, "INSERT 0 1"]
    assert await column(admin, PIPED) == [3]
