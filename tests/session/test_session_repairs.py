"""Statements that the server does not have, or has in another shape: repaired once, unnoticed by other requests."""

from __future__ import annotations

from pg_wired.protocol import messages as m
from pg_wired.testing import describe, error
from tests.session.conversation import (
    PREPARED,
    READY,
    Client,
    described,
    first,
    known,
    later,
    pg_error,
)


def test_an_unnamed_statement_and_a_simple_query_are_not_repaired() -> None:
    client = Client(cache=0)
    sinks = [client.query("select 1"), client.simple("execute x"), client.describe("execute x")]
    client.take()
    client.feed(*PREPARED, error("26000"), READY, error("26000"), READY, error("42P05"), READY)
    assert [pg_error(sink).code for sink in sinks] == ["26000", "26000", "42P05"] and client.sent() == []


def test_nothing_is_repaired_for_a_caller_that_has_gone() -> None:
    client = Client()
    known(client, "select 1")
    sink = client.query("select 1")
    client.take()
    sink.cancelled = True
    client.feed(error("26000"), READY)
    assert client.sent() == [] and not client.session.statements.entries


def test_repairs_keep_their_order_and_go_before_waiting_requests() -> None:
    client = Client(max_in_flight=3)
    known(client, "insert")
    sinks = [client.query("insert", b"%d" % n) for n in range(5)]
    client.take()
    client.session.hold()
    client.feed(*[error("26000"), READY] * 3)
    client.session.release()
    binds = [message for message in client.sent() if isinstance(message, m.Bind)]
    assert [bind.params for bind in binds] == [(b"0",), (b"1",), (b"2",)]
    assert not any(sink.is_answered for sink in sinks)


def test_a_repair_does_not_rely_on_the_parse_of_another_request() -> None:
    client = Client()
    known(client, "select 1")
    sinks = [client.query("select 1"), client.query("select 1")]
    client.take()
    client.feed(*[error("26000"), READY] * 2)
    assert client.tags() == "CPDBES" + "PDBES"
    client.feed(m.CloseComplete(), error("55P03", "lock timeout"), READY, *first((b"1",)))
    assert pg_error(sinks[0]).code == "55P03"
    assert sinks[1].result == [(b"1",)]


def test_a_statement_that_cannot_be_described_is_closed() -> None:
    client = Client()
    sink = client.query("select 1")
    client.take()
    client.feed(m.ParseComplete(), error("XX000"), READY)
    assert pg_error(sink).code == "XX000"
    client.query("select 1")
    assert client.tags() == "CPDBES"


def test_a_statement_that_fails_after_its_description_stays_cached() -> None:
    client = Client()
    sinks = [client.query("select 1")]
    client.take()
    client.feed(*PREPARED[:2], describe(["a"], ()), error("22P02"), READY)
    sinks.append(client.query("select 1"))
    assert client.tags() == "BES"
    client.feed(*later((b"1",)))
    assert pg_error(sinks[0]).code == "22P02" and sinks[1].result == [(b"1",)]


def test_a_repair_leaves_a_newer_statement_of_the_same_name_alone() -> None:
    client = Client(cache=1)
    sinks = [client.query(sql) for sql in ("select 1", "select 2", "select 1")]
    client.take()
    client.feed(error("42P05"), READY)
    assert client.tags() == "PDBES"  # by then the name belongs to the third, whose Parse is in progress
    client.feed(m.CloseComplete(), *first((b"2",)), m.CloseComplete(), *first((b"3",)), *first((b"1",)))
    assert [sink.result for sink in sinks] == [[(b"1",)], [(b"2",)], [(b"3",)]]


def test_a_repair_closes_its_name_first_even_without_a_cache_entry() -> None:
    client = Client()
    known(client, "select 1")
    sinks = [client.simple("discard all"), client.query("select 1")]
    client.take()
    client.feed(m.CommandComplete("DISCARD ALL"), READY, error("26000"), READY)
    assert client.tags() == "CPDBES"  # by then another client of the same backend may have prepared it
    client.feed(m.CloseComplete(), *first((b"1",)))
    assert sinks[1].result == [(b"1",)]


def test_a_thousand_first_uses_are_parsed_once() -> None:
    client = Client(max_in_flight=1000)
    sinks = [client.query("select 1", b"%d" % n) for n in range(1000)]
    assert client.tags() == "PDBES" + "BDES" * 999
    client.feed(*first((b"0",)), *[message for n in range(1, 1000) for message in described((b"%d" % n,))])
    assert [sink.result[0] for sink in sinks] == [(b"%d" % n,) for n in range(1000)]
