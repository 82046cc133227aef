"""exec_transaction: all of it takes effect or nothing, and no other request runs between BEGIN and COMMIT."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from pg_wired import AsyncConn, ConnectionClosed, Outcome, PgError, Rows, TransactionError, UsageError
from pg_wired.protocol import messages as m
from pg_wired.session.transaction import GUARD
from pg_wired.testing import FakePG, Peer
from rig.checks import answers, cache_in_step, ends_clean, outcome_of, repeatable
from rig.postgres import Postgres
from tests.outcomes import column, settings
from tests.transaction_tables import INSERT, TABLES, done, usable

pytestmark = pytest.mark.both_loops

REJECTED, UNKNOWN = Outcome.REJECTED, Outcome.UNKNOWN


@pytest.fixture(scope="module")
def server(pytestconfig: pytest.Config) -> Iterator[Postgres]:
    with Postgres.launch(source=pytestconfig.getoption("--postgres"), max_prepared_transactions=3) as server:
        yield server


@pytest.fixture
async def conn(server: Postgres) -> AsyncIterator[AsyncConn]:
    async with await AsyncConn.connect(server.dsn) as conn:
        await conn.simple_query(TABLES)
        yield conn


@pytest.fixture
async def admin(server: Postgres) -> AsyncIterator[AsyncConn]:
    async with await AsyncConn.connect(server.dsn) as conn:
        yield conn


# ---- what it does


@pytest.mark.smoke
@ends_clean()
async def test_setup_and_query_run_in_one_transaction(conn: AsyncConn, admin: AsyncConn) -> None:
    setup = "set local statement_timeout = '5s'; select set_config('my.claims', 'alice', true)"
    sql = "insert into done values ($1) returning a, current_setting('statement_timeout'), current_setting('my.claims')"
    rows = await conn.exec_transaction(setup, sql, ("1",))
    assert list(rows) == [(b"1", b"5s", b"alice")] and rows.command_tag == "INSERT 0 1"
    assert rows.fields[0].name == "a"
    after = "select current_setting('statement_timeout'), coalesce(current_setting('my.claims', true), '')"
    assert list(await conn.exec_query(after)) == [(b"0", b"")]
    assert await done(admin) == [1]
    await cache_in_step(conn)


@ends_clean()
async def test_values_and_formats_work_as_in_a_query(conn: AsyncConn) -> None:
    rows = await conn.exec_transaction(
        "", "select $1, $2", (b"\0\0\0\5", None), (23, 25), param_formats=[1, 0], result_formats=[1, 0]
    )
    assert list(rows) == [(b"\0\0\0\5", None)] and [field.format for field in rows.fields] == [1, 0]
    assert list(await conn.exec_transaction("  -- nothing", "values (1), (2)")) == [(b"1",), (b"2",)]
    assert list(await conn.exec_transaction("", "")) == []
    await usable(conn)


@pytest.mark.parametrize("wrong", [(1, "select 1"), ("", 1), ("a\0b", "select 1"), ("", "select '\0'")])
@ends_clean()
async def test_invalid_arguments_are_refused_by_the_call(conn: AsyncConn, wrong: tuple[Any, Any]) -> None:
    with pytest.raises((TypeError, ValueError)):
        conn.exec_transaction(*wrong)
    assert conn.in_flight == 0
    await usable(conn)


@ends_clean()
async def test_the_query_runs_with_the_role_set_by_the_setup(conn: AsyncConn, admin: AsyncConn) -> None:
    await admin.simple_query("drop role if exists alice; create role alice; grant insert on done to alice")
    insert = conn.exec_transaction("set local role alice", "insert into done values (1)")
    reading = conn.exec_transaction("set local role alice", "select a from done")
    await insert
    assert getattr(await outcome_of(reading), "code", None) == "42501"
    rows = await conn.exec_query("select current_user = session_user")
    assert list(rows) == [(b"t",)] and await done(admin) == [1]
    await admin.simple_query("drop owned by alice; drop role alice")


@ends_clean()
async def test_notices_of_setup_and_query_arrive_and_no_others(conn: AsyncConn) -> None:
    said: list[str] = []
    conn.set_notice_handler(lambda notice: said.append(notice.message))
    await conn.exec_transaction("", "select 1")
    await conn.simple_query("create function pg_temp.say(text) returns int language plpgsql as "
                            "$$ begin raise notice '%', $1; return 1; end $$")  # fmt: skip
    await conn.exec_transaction("select pg_temp.say('setup')", "select pg_temp.say('query')")
    await answers(conn)
    assert said == ["setup", "query"]


# ---- it fails closed


# The setup, the SQLSTATE it fails with (empty: it ended the transaction itself), the outcome, the rows that remain.
FAILING: list[tuple[str, str, Outcome, list[int]]] = [
    ("set local role nobody_of_that_name", "22023", REJECTED, []),
    ("selec", "42601", REJECTED, []),
    ("insert into setups values (1); select 1/0", "22012", REJECTED, []),
    ("select 1/0; insert into setups values (1)", "22012", REJECTED, []),
    ("set local pg_wired.setup = ''", "", REJECTED, []),
    ("insert into setups values (1); reset all", "", REJECTED, []),
    ("insert into setups values (1); commit", "", UNKNOWN, [1]),
    ("insert into setups values (1); end", "", UNKNOWN, [1]),
    ("insert into setups values (1); commit; begin", "", UNKNOWN, [1]),
    ("insert into setups values (1); commit; begin; insert into setups values (2)", "", UNKNOWN, [1]),
    ("insert into setups values (1); commit and chain", "", UNKNOWN, [1]),
    ("insert into setups values (1); commit; select 1/0", "22012", UNKNOWN, [1]),
    ("insert into setups values (1); rollback and chain", "", REJECTED, []),
    ("insert into setups values (1); rollback; begin", "", REJECTED, []),
    # after these, COMMIT finds no transaction and cannot report that something was rolled back
    ("insert into setups values (1); rollback", "", UNKNOWN, []),
    ("rollback; insert into setups values (1)", "", UNKNOWN, [1]),
    ("abort", "", UNKNOWN, []),
    ("prepare transaction 'its own'", "", UNKNOWN, []),
]


@pytest.mark.parametrize(("setup", "code", "outcome", "remains"), FAILING, ids=[case[0] for case in FAILING])
@ends_clean()
async def test_the_query_does_not_run_if_its_setup_fails_or_ends_the_transaction(
    conn: AsyncConn, admin: AsyncConn, setup: str, code: str, outcome: Outcome, remains: list[int]
) -> None:
    before = conn.exec_query("select 'before'")
    failing = conn.exec_transaction(setup, INSERT, ("1",))
    behind = conn.exec_query("select 'behind'")
    another = conn.exec_transaction("", INSERT, ("2",))
    failure = await outcome_of(failing)
    assert isinstance(failure, PgError if code else TransactionError), failure
    assert failure.outcome is outcome
    assert getattr(failure, "code", "") == code and (code or isinstance(failure.__cause__, PgError))
    assert [list(await before), list(await behind)] == [[(b"before",)], [(b"behind",)]]
    await another
    if setup.startswith("prepare"):
        await conn.exec_query("rollback prepared 'its own'")
    assert await done(admin) == [2]
    assert await column(admin, "select a from setups") == remains
    await usable(conn)
    await cache_in_step(conn)


@ends_clean()
async def test_a_failing_query_rolls_back_its_setup(conn: AsyncConn, admin: AsyncConn) -> None:
    for sql, code in (("select 1/0", "22012"), ("selec", "42601"), ("select 'x'::int", "22P02")):
        failure = await outcome_of(conn.exec_transaction("insert into setups values (1)", sql))
        assert isinstance(failure, PgError) and (failure.code, failure.outcome) == (code, REJECTED)
        assert failure.sql == sql
    assert await column(admin, "select a from setups") == []
    await usable(conn)


@ends_clean()
async def test_a_constraint_that_fails_at_commit_rejects_the_transaction(conn: AsyncConn, admin: AsyncConn) -> None:
    await conn.exec_transaction("", INSERT, ("1",))
    for setup, sql, params in (
        ("", INSERT, ("1",)),
        ("insert into done values (1)", INSERT, ("2",)),
        ("set constraints all immediate", INSERT, ("1",)),
    ):
        failure = await outcome_of(conn.exec_transaction(setup, sql, params))
        assert isinstance(failure, PgError) and (failure.code, failure.outcome) == ("23505", REJECTED)
        assert await done(admin) == [1]
    await usable(conn)


@pytest.mark.parametrize("query", ["begin", "commit", "rollback", "commit and chain", "rollback and chain"])
@ends_clean()
async def test_a_query_that_ends_or_opens_a_transaction_leaves_none_open(
    conn: AsyncConn, admin: AsyncConn, query: str
) -> None:
    """Whatever the query does, no transaction stays open, and no other request runs inside it."""
    own = conn.exec_transaction("insert into setups values (1)", query)
    behind = conn.exec_transaction("", INSERT, ("2",))
    result = await outcome_of(own)
    assert isinstance(result, Rows) or settings(result)[1] in (UNKNOWN, REJECTED)
    await behind
    assert await done(admin) == [2]
    is_committed = query in ("begin", "commit", "commit and chain")
    assert await column(admin, "select a from setups") == [1] * is_committed
    if query == "rollback":
        assert isinstance(result, TransactionError), "the setup is gone, and that was called a success"
    await usable(conn)


@ends_clean()
async def test_copy_to_stdout_in_setup_or_query_leaves_the_connection_usable(conn: AsyncConn) -> None:
    rows = await outcome_of(conn.exec_transaction("copy setups to stdout", "select 1"))
    assert isinstance(rows, UsageError) or list(rows) == [(b"1",)]
    failure = await outcome_of(conn.exec_transaction("", "copy setups to stdout"))
    assert isinstance(failure, UsageError) and "copy_out()" in str(failure) and failure.outcome is UNKNOWN
    await usable(conn)


@pytest.mark.parametrize("parts", [("copy setups from stdin", "select 1"), ("", "copy setups from stdin")])
@ends_clean()
async def test_copy_from_stdin_in_setup_or_query_ends_the_connection(
    server: Postgres, conn: AsyncConn, admin: AsyncConn, parts: tuple[str, str]
) -> None:
    async with await AsyncConn.connect(server.dsn) as shared:
        before = shared.exec_query("select 'before'")
        failing, behind = shared.exec_transaction(*parts), shared.exec_query("select 'behind'")
        assert list(await before) == [(b"before",)]
        for reply in (failing, behind):
            failure = await outcome_of(reply)
            assert isinstance(failure, (UsageError, ConnectionClosed)) and failure.outcome is UNKNOWN
        assert not shared.is_alive
    assert await column(admin, "select a from setups") == []


@ends_clean()
async def test_the_query_runs_after_a_setup_that_deallocates_all_statements(conn: AsyncConn) -> None:
    for _ in range(3):
        [[answer]] = await conn.exec_transaction("deallocate all", "select $1::text", ("x",))
        assert answer == b"x"
    await cache_in_step(conn)


@pytest.mark.parametrize("setup", ["set transaction read only", "set local transaction_read_only = on"])
@ends_clean()
async def test_a_read_only_setup_rejects_a_query_that_writes(conn: AsyncConn, admin: AsyncConn, setup: str) -> None:
    failure = await outcome_of(conn.exec_transaction(setup, INSERT, ("1",)))
    assert isinstance(failure, PgError) and (failure.code, failure.outcome) == ("25006", REJECTED)
    assert await done(admin) == []
    await usable(conn)


@ends_clean()
async def test_the_setup_may_choose_the_isolation_level(conn: AsyncConn) -> None:
    setup = "set transaction isolation level serializable, deferrable, read only"
    assert list(await conn.exec_transaction(setup, "show transaction_isolation")) == [(b"serializable",)]


@ends_clean()
async def test_a_hostile_search_path_does_not_bypass_the_guard(conn: AsyncConn) -> None:
    """The search path puts a schema with its own operators before the server's."""
    await conn.simple_query(
        "create schema tricks; create function tricks.yes(text, text) returns bool language sql as 'select true';"
        "create operator tricks.= (function = tricks.yes, leftarg = text, rightarg = text)"
    )
    setup = "commit; begin; set local search_path = tricks, pg_catalog"
    assert isinstance(await outcome_of(conn.exec_transaction(setup, INSERT, ("1",))), TransactionError)
    await conn.simple_query("drop schema tricks cascade")


# ---- no other request in between


def reply(group: list[m.FrontendMessage]) -> list[m.BackendMessage]:
    """The answer of a server without tables to this group, except for ReadyForQuery."""
    said: list[m.BackendMessage] = []
    tags = iter(["BEGIN"] if isinstance(group[0], m.Query) and group[0].query.startswith("BEGIN") else [])
    for message in group:
        match message:
            case m.Parse():
                said.append(m.ParseComplete())
            case m.Describe("S"):
                said += [m.ParameterDescription((25,)), m.NoData()]
            case m.Describe("P"):
                said.append(m.NoData())
            case m.Bind():
                said.append(m.BindComplete())
            case m.Execute():
                said.append(m.CommandComplete("DONE"))
            case m.Query(query):
                said.append(m.CommandComplete(next(tags, "COMMIT" if query == "COMMIT" else "SET")))
                if query.startswith("BEGIN"):
                    said.append(m.CommandComplete("SET"))
    return said


@ends_clean(60)
async def test_no_other_request_is_sent_between_begin_and_commit() -> None:
    """100 tasks compete; the frames show the order of their requests."""

    async def script(peer: Peer) -> None:
        await peer.startup()
        status = "I"
        while not isinstance(group[-1] if (group := await peer.group()) else None, m.Terminate):
            queries.append([message.query for message in group if isinstance(message, m.Query | m.Parse)])
            binds.append([message.params for message in group if isinstance(message, m.Bind)])
            last = next(iter(queries[-1]), "")
            status = "T" if last.startswith("BEGIN") else "I" if last == "COMMIT" else status
            await peer.send(*reply(group), m.ReadyForQuery(status))
        peer.close()

    queries: list[list[str]] = []
    binds: list[list[tuple[bytes | None, ...]]] = []
    rng = repeatable()

    async def compete(conn: AsyncConn, number: int) -> None:
        for _ in range(3):
            await asyncio.sleep(rng.random() * 0.01)
            match rng.randrange(3):
                case 0:
                    await conn.exec_query("other", (str(number),))
                case 1:
                    await conn.simple_query("other")
                case 2:
                    await conn.exec_transaction(f"setup {number}", "mine", (str(number),))

    async with FakePG(script, deadline=15) as fake:
        conn = await AsyncConn.connect(fake.dsn)
        await asyncio.gather(*[compete(conn, number) for number in range(100)])
        await conn.close()
    begins = [i for i, group in enumerate(queries) if group[:1] and group[0].startswith("BEGIN")]
    assert len(begins) > 50 and len(queries) > 300
    for i in begins:
        begin, setup, query, commit = queries[i : i + 4]
        assert (len(begin), len(setup), commit) == (1, 1, ["COMMIT"])
        number = setup[0].removeprefix("setup ").encode()
        assert set(query) <= {GUARD, "mine"}
        assert binds[i + 2][-1] == (number,)


@ends_clean()
async def test_all_parts_are_sent_in_one_write() -> None:
    async def script(peer: Peer) -> None:
        await peer.startup()
        peer.talk.unread += await peer.read()
        tags = []
        while (message := peer.talk.take()) is not None:
            tags.append(chr(message.tag or 0))
        assert "".join(tags) == "QQPDBEPDBESQ"
        peer.close()

    async with FakePG(script) as fake, await AsyncConn.connect(fake.dsn) as conn:
        failure = await outcome_of(conn.exec_transaction("set x = 1", "select 1"))
        assert isinstance(failure, ConnectionClosed) and failure.outcome is UNKNOWN


@ends_clean(60)
async def test_transactions_of_a_hundred_tasks_do_not_mix(conn: AsyncConn, admin: AsyncConn) -> None:
    """Each task reads what its own setup wrote; an error of one task affects no other."""

    async def one(number: int) -> None:
        for lease in range(5):
            setup = f"set local my.claims = '{number}-{lease}'"
            sql = "select current_setting('my.claims'), 1/(5 - $1::int)"
            other = conn.exec_query("select coalesce(current_setting('my.claims', true), '')")
            reply = conn.exec_transaction(setup, sql, (str(number % 6),))
            result = await outcome_of(reply)
            assert list(await other) == [(b"",)]
            if number % 6 == 5:
                assert isinstance(result, PgError) and (result.code, result.outcome) == ("22012", REJECTED)
            else:
                assert result[0][0] == f"{number}-{lease}".encode()

    await conn.exec_query("set my.claims = ''")
    await asyncio.gather(*[one(number) for number in range(100)])
    await usable(conn)
    await cache_in_step(conn)


@pytest.mark.parametrize("max_in_flight", [1, 2, 5])
@ends_clean()
async def test_transactions_stay_whole_with_a_small_max_in_flight(
    server: Postgres, conn: AsyncConn, max_in_flight: int
) -> None:
    async with await AsyncConn.connect(server.dsn, max_in_flight=max_in_flight) as shared:
        replies = [shared.exec_transaction("set local my.a = 'x'", INSERT, (str(n),)) for n in range(50)]
        others = [shared.exec_query("select current_setting('my.a', true)") for _ in range(50)]
        await asyncio.gather(*replies)
        assert {tuple(rows) for rows in await asyncio.gather(*others)} <= {((None,),), ((b"",),)}
    assert await done(conn) == list(range(50))
