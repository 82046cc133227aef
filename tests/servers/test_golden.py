"""The answers of real servers, message by message, as the scripted server has to give them; on each server found."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from pg_wired import ConnectionClosed, WireConn
from pg_wired.protocol import messages as m
from rig.checks import ends_clean
from rig.postgres import SOURCES, Postgres

SYNC, EXECUTE, COPY_DONE = m.Sync(), m.Execute(), m.CopyDone()
SCHEMA = """
create table plain(a int);
create table unique_later(a int constraint once unique deferrable initially deferred);
create table shaped as select 1 as a;
create table copied(a int);
"""


@pytest.fixture(scope="module", params=[name for name, locate in SOURCES.items() if locate()])
def server(request: pytest.FixtureRequest) -> Iterator[Postgres]:
    with Postgres.launch(source=request.param) as server:
        yield server


def said(message: m.BackendMessage) -> str:
    """A message as it is written in the conversations below."""
    letter = chr(message.tag or 0)
    match message:
        case m.CommandComplete(tag):
            return f"C({tag})"
        case m.ReadyForQuery(status):
            return f"Z({status})"
        case m.ErrorResponse(fields):
            known = dict(fields)
            return f"E({'FATAL ' if known['V'] == 'FATAL' else ''}{known['C']})"
        case m.NoticeResponse(fields):
            return f"N({dict(fields)['C']})"
        case m.NotificationResponse(_, channel):
            return f"A({channel})"
        case _:
            return letter


async def hear(wire: WireConn, count: int) -> str:
    """Receive `count` messages, or fewer and EOF. ParameterStatus is left out: servers report different settings."""
    heard: list[str] = []
    while len(heard) < count:
        try:
            message = await wire.recv_msg()
        except ConnectionClosed:
            return " ".join([*heard, "EOF"])
        if not isinstance(message, m.ParameterStatus):
            heard.append(said(message))
    return " ".join(heard)


def parse(sql: str, name: str = "") -> m.Parse:
    return m.Parse(name, sql)


def run(sql: str) -> list[m.Message]:
    """Parse, Bind and Execute, without Sync."""
    return [parse(sql), m.Bind(), EXECUTE]


def bind(name: str) -> m.Bind:
    return m.Bind("", name)


def query(sql: str) -> list[m.Message]:
    return [m.Query(sql)]


Conversation = list[tuple[list[m.Message], str]]
CONVERSATIONS: dict[str, Conversation] = {
    "a deferred violation comes behind the tag": [
        (query("insert into unique_later values (1)"), "C(INSERT 0 1) Z(I)"),
        ([*run("insert into unique_later values (1), (2)"), SYNC], "1 2 C(INSERT 0 2) E(23505) Z(I)"),
    ],
    "a commit of what has failed is a rollback": [
        (query("begin"), "C(BEGIN) Z(T)"),
        (query("nonsense"), "E(42601) Z(E)"),
        (query("commit"), "C(ROLLBACK) Z(I)"),
    ],
    "a deferred violation at commit": [
        (query("insert into unique_later values (7); begin"), "C(INSERT 0 1) C(BEGIN) Z(T)"),
        (query("insert into unique_later values (7)"), "C(INSERT 0 1) Z(T)"),
        (query("commit"), "E(23505) Z(I)"),
    ],
    "behind a failed Parse nothing is parsed": [
        ([parse("select nonsense", "s1"), bind("s1"), EXECUTE, parse("select 1", "s2"), SYNC], "E(42703) Z(I)"),
        ([bind("s2"), SYNC], "E(26000) Z(I)"),
    ],
    "a parsed statement stays, whatever comes behind it": [
        ([parse("select 1", "s3"), parse("select 1/0", "s4"), bind("s4"), EXECUTE, SYNC], "1 1 E(22012) Z(I)"),
        ([bind("s3"), EXECUTE, SYNC], "2 D C(SELECT 1) Z(I)"),
    ],
    "a name that exists, and one that does not": [
        ([parse("select 1", "twice"), SYNC], "1 Z(I)"),
        ([parse("select 2", "twice"), SYNC], "E(42P05) Z(I)"),
        ([m.Close("S", "never"), SYNC], "3 Z(I)"),
    ],
    "in a failed transaction one can close, but not parse": [
        (query("begin; select 1/0"), "C(BEGIN) E(22012) Z(E)"),
        ([m.Close("S", "any"), SYNC], "3 Z(E)"),
        ([parse("select 1"), SYNC], "E(25P02) Z(E)"),
        ([parse("rollback"), SYNC], "1 Z(E)"),
        (query("rollback"), "C(ROLLBACK) Z(I)"),
    ],
    "discard all forgets statements": [
        ([parse("select 1", "old"), SYNC], "1 Z(I)"),
        (query("discard all"), "C(DISCARD ALL) Z(I)"),
        ([bind("old"), SYNC], "E(26000) Z(I)"),
    ],
    "a column more": [
        ([parse("select * from shaped", "shape"), bind("shape"), EXECUTE, SYNC], "1 2 D C(SELECT 1) Z(I)"),
        (query("alter table shaped add b int"), "C(ALTER TABLE) Z(I)"),
        ([bind("shape"), EXECUTE, SYNC], "E(0A000) Z(I)"),
        (query("begin"), "C(BEGIN) Z(T)"),
        ([bind("shape"), EXECUTE, SYNC], "E(0A000) Z(E)"),
    ],
    "nothing, and too much": [
        ([*run(""), SYNC], "1 2 I Z(I)"),
        (query(""), "I Z(I)"),
        ([parse("select 1; select 2"), SYNC], "E(42601) Z(I)"),
    ],
    "a portal that is suspended": [
        (query("begin"), "C(BEGIN) Z(T)"),
        ([parse("select generate_series(1, 5)"), m.Bind("p"), m.Execute("p", 2), SYNC], "1 2 D D s Z(T)"),
        ([m.Execute("p", 2), SYNC], "D D s Z(T)"),
        ([m.Execute("p", 2), SYNC], "D C(SELECT 1) Z(T)"),
        (query("rollback"), "C(ROLLBACK) Z(I)"),
        ([parse("select generate_series(1, 5)"), m.Bind("p"), m.Execute("p", 2), SYNC], "1 2 D D s Z(I)"),
        ([m.Execute("p", 2), SYNC], "E(34000) Z(I)"),
    ],
    "one sync group is one transaction": [
        ([*run("insert into plain values (1)"), *run("select 1/0"), SYNC], "1 2 C(INSERT 0 1) 1 E(22012) Z(I)"),
        (query("select * from plain"), "T C(SELECT 0) Z(I)"),
    ],
    "a statement that takes too long": [
        (query("set statement_timeout = '500ms'"), "C(SET) Z(I)"),
        ([*run("select 1"), *run("select pg_sleep(5)"), *run("select 3"), SYNC], "1 2 D C(SELECT 1) 1 2 E(57014) Z(I)"),
    ],
    "a COPY by the extended protocol swallows its Sync": [
        ([*run("copy copied from stdin"), SYNC], "1 2 G"),
        ([m.CopyFail("no"), SYNC], "E(57014) Z(I)"),
    ],
    "a COPY with something behind it": [
        ([*run("copy copied from stdin"), SYNC, *run("select 1"), SYNC], "1 2 G E(08P01) E(FATAL 08P01) EOF"),
    ],
    "a simple COPY with something behind it": [
        (query("copy copied from stdin") + query("select 1"), "G E(08P01) E(FATAL 08P01) EOF"),
    ],
    "stray messages of a COPY": [
        ([m.CopyData(b"x"), COPY_DONE, m.CopyFail("no"), m.Query("select 1")], "T D C(SELECT 1) Z(I)"),
    ],
    "a COPY into nothing": [
        (
            [m.Query("copy missing from stdin"), m.CopyData(b"1\n"), COPY_DONE, m.Query("select 1")],
            "E(42P01) Z(I) T D C(SELECT 1) Z(I)",
        ),
    ],
    "a bad row ends a COPY once": [
        (query("copy copied from stdin"), "G"),
        ([m.CopyData(b"1\n"), m.CopyData(b"bad\n"), *[m.CopyData(b"2\n")] * 100, COPY_DONE], "E(22P02) Z(I)"),
    ],
    "two COPYs in one query": [
        (query("copy copied from stdin; copy copied from stdin"), "G"),
        ([m.CopyData(b"1\n"), COPY_DONE], "C(COPY 1) G"),
        ([COPY_DONE], "C(COPY 0) Z(I)"),
    ],
    "Sync and Flush inside a simple COPY": [
        (query("copy copied from stdin"), "G"),
        ([SYNC, m.Flush(), COPY_DONE], "C(COPY 0) Z(I)"),
        (query("select 1"), "T D C(SELECT 1) Z(I)"),
    ],
    "notifications of one transaction": [
        (query("listen x; listen y"), "C(LISTEN) C(LISTEN) Z(I)"),
        (
            query("begin; notify x; notify x; notify y; commit"),
            "C(BEGIN) C(NOTIFY) C(NOTIFY) C(NOTIFY) C(COMMIT) A(x) A(y) Z(I)",
        ),
        (query("notify x"), "C(NOTIFY) A(x) Z(I)"),
    ],
    "rules that add results": [
        (
            query(
                "create table ruled(a int); create rule one as on insert to ruled do also select 1;"
                "create rule two as on insert to ruled do also select 2, 3"
            ),
            "C(CREATE TABLE) C(CREATE RULE) C(CREATE RULE) Z(I)",
        ),
        (query("insert into ruled values (1)"), "T D T D C(INSERT 0 1) Z(I)"),
        ([*run("insert into ruled values (1)"), SYNC], "1 2 C(INSERT 0 1) Z(I)"),
    ],
    "a text with NUL, and one that is not UTF-8": [
        ([parse("select $1::text"), m.Bind(params=(b"a\0b",)), EXECUTE, SYNC], "1 E(22021) Z(I)"),
        ([parse("select $1::text"), m.Bind(params=(b"\xff",)), EXECUTE, SYNC], "1 E(22021) Z(I)"),
    ],
    "a commit before an error in the same query": [
        (
            query("begin; insert into plain values (1); commit; select 1/0"),
            "C(BEGIN) C(INSERT 0 1) C(COMMIT) E(22012) Z(I)",
        ),
        (query("select * from plain"), "T D C(SELECT 1) Z(I)"),
    ],
    "what no server knows": [([m.GSSResponse(b"x")], "E(FATAL 08P01) EOF")],
}


@pytest.mark.parametrize("conversation", CONVERSATIONS.values(), ids=CONVERSATIONS)
@ends_clean()
async def test_the_server_answers_as_in_the_recorded_conversation(server: Postgres, conversation: Conversation) -> None:
    wire = await WireConn.connect(server.dsn)
    await wire.send(m.Query("drop schema public cascade; create schema public;" + SCHEMA))
    await wire.drain_until_ready()
    for sent, answer in conversation:
        await wire.send(*sent)  # type: ignore[arg-type]
        assert await hear(wire, len(re.sub(r"\(.*?\)", "", answer).split())) == answer
        assert not wire.has_pending_data
    await wire.close()
