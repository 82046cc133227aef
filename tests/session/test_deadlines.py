"""Deadlines: which requests are overdue, what their errors say, and when a request is the only one in flight."""

from __future__ import annotations

from pg_wired.errors import Outcome, RequestTimeout
from pg_wired.protocol import messages as m
from pg_wired.session.request import Window, simple_query_request, sync_request
from pg_wired.testing import error
from tests.session.conversation import READY, Client, Sink, known, outcomes, result

SIMPLE = [*result(), READY]


# ---- the sole request


def test_a_request_is_sole_only_while_no_other_is_unanswered() -> None:
    client = Client(max_in_flight=2)
    first_sink = client.simple("a")
    assert client.sole is first_sink
    second = client.simple("b")
    assert client.sole is None
    client.simple("c")
    client.feed(*SIMPLE)
    assert client.sole is None
    client.feed(*SIMPLE)
    assert client.sole is client.sinks[2] and second.result == [[]]


# ---- deadlines


def test_expiring_fails_overdue_requests_and_returns_the_next_deadline() -> None:
    client = Client(max_in_flight=2)
    sinks = [client.simple(f"select {n}", deadline=float(n)) for n in range(5)]
    client.take()
    sinks.append(client.simple("late", deadline=9.0))
    assert client.expire(0.5) == 1.0
    assert outcomes(*sinks) == [None] * 6
    sinks[4].cancelled = True
    assert client.expire(3.0) == 9.0
    assert outcomes(*sinks) == [None, Outcome.UNKNOWN, Outcome.NOT_SENT, Outcome.NOT_SENT, None, None]
    texts = [str(sink.error) for sink in sinks[1:4] if isinstance(sink.error, RequestTimeout)]
    late = "the request's deadline has passed, behind"
    assert texts == [f"{late} 1 unanswered request", f"{late} 2 unanswered requests", f"{late} 3 unanswered requests"]
    assert [request.sql for request in client.session.pending] == ["late"]
    client.feed(*SIMPLE * 2)
    assert sinks[0].result == [[]] and sinks[1].result is None
    assert client.expire(9.0) == 0.0
    assert client.expire(10.0) == 0.0


def test_an_encoded_request_is_sent_even_after_its_deadline() -> None:
    client = Client()
    sink = client.simple("insert", deadline=1.0)
    client.expire(2.0)
    assert outcomes(sink) == [Outcome.UNKNOWN] and str(sink.error) == "the request's deadline has passed"
    assert client.sent() == [m.Query("insert")]


def test_a_timeout_counts_a_transaction_as_one_request_and_a_sync_as_none() -> None:
    client = Client(max_in_flight=6)
    client.transaction("set local a = 1", "select 2")
    client.session.submit(sync_request(None))
    gone, waits = client.transaction("set local a = 1", "select 2"), client.transaction("", "select 2")
    gone.cancelled = True
    late = client.simple("select 3", deadline=1.0)
    client.expire(1.0)
    assert not waits.is_answered
    assert str(late.error) == "the request's deadline has passed, behind 2 unanswered requests"


def test_a_timeout_names_the_open_window_only_for_requests_outside_it() -> None:
    client = Client()
    window = Window(Sink(), "exclusive()", 5.0, has_state=True)
    client.session.submit(window)
    outside, first, second = client.simple("outside", deadline=5.0), Sink(), Sink()
    for sink in (first, second):
        client.session.submit_inside(window, simple_query_request(sink, "inside", 5.0))
    assert client.expire(6.0) == 0.0
    ends = [str(sink.error).removeprefix("the request's deadline has passed") for sink in (outside, first, second)]
    assert ends == [": exclusive() has the connection", "", ", behind 1 unanswered request"]


def test_a_repair_that_passes_its_deadline_is_rejected_and_not_sent() -> None:
    client = Client()
    known(client, "select 1")
    sink = client.query("select 1", deadline=1.0)
    client.take()
    client.session.hold()
    client.feed(error("26000"), READY)
    client.expire(1.0)
    client.session.release()
    assert outcomes(sink) == [Outcome.REJECTED] and client.sent() == []


def test_a_transaction_that_is_alone_is_represented_by_its_query() -> None:
    client = Client()
    sink = client.transaction("set local a = 1", "select 2")
    assert client.sole is sink
    client.simple("select 3")
    assert client.sole is None


def test_without_requests_none_is_alone() -> None:
    assert Client().sole is None
