"""How a session ends: retired or lost, with or without last words; and which requests move to a supervisor."""

from __future__ import annotations

import pytest

from pg_wired.errors import ConnectionClosed, IoError, Outcome, ProtocolError
from pg_wired.protocol import messages as m
from pg_wired.protocol.server_error import PgError
from pg_wired.session.request import Request
from pg_wired.session.session import Reason
from pg_wired.testing import error
from tests.session.conversation import READY, Client, first, known, later, outcomes, pg_error, result

SIMPLE = [*result(), READY]


def test_a_retired_session_answers_encoded_requests_and_then_terminates() -> None:
    client = Client(max_in_flight=1)
    sinks = [client.simple("a"), client.simple("b")]
    client.session.retire(Reason.REPLACED, "it is old")
    assert outcomes(*sinks) == [None, Outcome.NOT_SENT]
    client.session.finish()
    assert client.sent() == [m.Query("a")]
    with pytest.raises(ConnectionClosed, match="takes no more requests: it is old; connect again") as caught:
        client.simple("c")
    assert caught.value.outcome is Outcome.NOT_SENT
    client.feed(*SIMPLE)
    client.session.finish()
    assert client.sent() == [m.Terminate()]
    assert sinks[0].result == [[]]
    client.session.lost(None)
    assert str(client.session.failure) == "the connection was closed: it is old"


def test_a_draining_session_also_answers_waiting_requests() -> None:
    client = Client(max_in_flight=1)
    sinks = [client.simple("a"), client.simple("b")]
    client.session.drain(Reason.CLOSED)
    client.feed(*SIMPLE)
    assert client.sent() == [m.Query("a"), m.Query("b")]
    client.feed(*SIMPLE)
    assert client.sent() == [m.Terminate()] and [sink.result for sink in sinks] == [[[]]] * 2


@pytest.mark.parametrize(
    ("cause", "kind", "text"),
    [
        (None, ConnectionClosed, "the connection was closed: the server sent no reason"),
        (ConnectionResetError(104, "reset"), IoError, "the connection failed: [Errno 104] reset"),
        (RuntimeError("a bug"), ConnectionClosed, "the connection was closed: a bug"),
        (ProtocolError("nonsense"), ProtocolError, "nonsense"),
    ],
)
def test_a_lost_connection_fails_each_request_with_its_outcome(
    cause: BaseException | None, kind: type[Exception], text: str
) -> None:
    client = Client(max_in_flight=3)
    answered, sent, cut, unsent = (client.simple(name) for name in ("a", "b", "c", "d"))
    client.take(7 + 7 + 1)
    client.feed(*SIMPLE)
    session = client.session
    session.lost(cause)
    session.lost(OSError("later"))
    assert type(session.failure) is kind and str(session.failure) == text
    assert answered.result == [[]]
    assert outcomes(sent, cut, unsent) == [Outcome.UNKNOWN, Outcome.UNKNOWN, Outcome.NOT_SENT]
    for sink in (sent, cut, unsent):
        assert type(sink.error) is kind and str(sink.error) == text
        assert sink.error is not None and sink.error.__cause__ is session.failure.__cause__
    assert (bytes(session.out), session.waiting()) == (b"", [])
    client.feed(*SIMPLE)
    session.received(5)
    with pytest.raises(kind) as caught:
        client.simple("e")
    assert getattr(caught.value, "outcome", None) is Outcome.NOT_SENT


def test_a_request_lost_between_its_error_and_ready_has_an_unknown_outcome() -> None:
    client = Client()
    sink = client.simple("insert")
    client.take()
    client.feed(error("23505"))
    client.session.lost(None)
    assert isinstance(sink.error, ConnectionClosed) and outcomes(sink) == [Outcome.UNKNOWN]


def test_nothing_is_sent_to_a_server_after_its_last_words() -> None:
    """The server closes a moment later; a request sent in between would be lost with an unknown outcome."""
    client = Client()
    sink = client.query("select 1")
    client.feed(*first((b"1",)), error("57P01", "shutting down", "FATAL"))
    assert sink.result is not None
    client.tags()
    with pytest.raises(ConnectionClosed, match="shutting down") as caught:
        client.query("select 1")
    assert caught.value.outcome is Outcome.NOT_SENT
    assert client.tags() == ""
    client.session.lost(None)
    assert str(client.session.failure) == "the server closed the connection: shutting down"


def test_a_window_refuses_requests_after_the_last_words_and_keeps_the_cause() -> None:
    """Nothing is sent when the window ends, and the last words remain the cause even if the client closes."""
    client = Client()
    window = client.inside = client.window()
    client.feed(error("57P05", "too idle", "FATAL"))
    with pytest.raises(ConnectionClosed, match="too idle") as caught:
        client.simple("commit")
    assert caught.value.outcome is Outcome.NOT_SENT
    client.session.leave(window)
    client.session.finish()
    client.session.closed_by_client()
    client.session.lost(None)
    assert str(client.session.failure) == "the server closed the connection: too idle"
    assert client.tags() == ""


def test_the_last_words_are_the_cause_of_a_lost_connection() -> None:
    client = Client()
    sink = client.simple("select")
    client.take()
    client.feed(error("57P01", "shutting down", "FATAL"))
    client.session.lost(ConnectionResetError(104, "reset"))
    assert isinstance(sink.error, ConnectionClosed) and "shutting down" in str(sink.error)
    assert isinstance(sink.error.__cause__, PgError)


# ---- a supervisor


class Supervisor:
    """Takes the unsent requests that it is offered, or declines them."""

    def __init__(self, wants: bool = True) -> None:
        self.wants = wants
        self.ends = 0
        self.moved: list[Request] = []

    def ended(self) -> None:
        self.ends += 1

    def unsent(self, request: Request) -> bool:
        assert self.ends  # the end is reported first
        if self.wants:
            self.moved.append(request)
        return self.wants


def kept(client: Client, wants: bool = True) -> Supervisor:
    supervisor = Supervisor(wants)
    client.session.supervise(supervisor)
    return supervisor


def may_move(client: Client) -> None:
    for request in client.session.waiting():
        request.allow_move()


@pytest.mark.parametrize("sent", [0, 1, 2, 3])
def test_unsent_requests_move_to_the_supervisor(sent: int) -> None:
    client = Client(max_in_flight=3)
    supervisor = kept(client)
    client.sinks[:] = [client.query(f"select {n}") for n in range(5)]
    may_move(client)
    if sent:
        client.session.handed = client.session.inflight[sent - 1].start + 1
    client.session.lost(None)
    assert outcomes(*client.sinks[:sent]) == [Outcome.UNKNOWN] * sent
    assert [request.sink for request in supervisor.moved] == client.sinks[sent:]
    other = Client()
    for request in supervisor.moved:
        assert not request.may_move
        other.session.submit(request)
    for _ in supervisor.moved:
        other.feed(*first((b"1",)))
    assert [list(sink.result) for sink in client.sinks[sent:]] == [[(b"1",)]] * (5 - sent)


def test_requests_that_the_supervisor_declines_fail_as_not_sent() -> None:
    client = Client()
    supervisor = kept(client, wants=False)
    sink, still = client.query("select 1"), client.query("select 2")
    client.session.waiting()[0].may_move = True
    client.session.lost(None)
    assert outcomes(sink, still) == [Outcome.NOT_SENT] * 2 and not supervisor.moved


def test_a_cancelled_request_does_not_move_to_the_supervisor() -> None:
    client = Client()
    supervisor = kept(client)
    client.query("select 1").cancelled = True
    may_move(client)
    client.session.lost(None)
    assert not supervisor.moved and supervisor.ends == 1


def test_a_transaction_moves_to_the_supervisor_as_a_whole() -> None:
    client = Client()
    supervisor = kept(client)
    client.query("select 1")
    client.session.statements.close("an old one")  # the Close is sent with the next encoded request
    sinks = [client.sinks[0], client.transaction("set local a = 1", "select 2")]
    unit = client.session.inflight[1].unit
    assert unit is not None and unit.whole.parts is not None
    unit.whole.may_move = True
    plain = [part.script for part in unit.whole.parts]
    client.session.handed = 1
    client.session.lost(None)
    assert outcomes(*sinks) == [Outcome.UNKNOWN, None] and supervisor.moved == [unit.whole]
    other = Client()
    other.session.submit(unit.whole)
    assert other.tags() == "QQPDBEPDBESQ"
    assert [part.script for part in unit.whole.parts] == [*plain[:2], plain[2][1:], *plain[3:]]


def test_a_retired_session_hands_its_waiting_requests_to_the_supervisor() -> None:
    client = Client(max_in_flight=1)
    supervisor = kept(client)
    sinks = [client.query("select 1"), client.query("select 2")]
    may_move(client)
    client.session.retire(Reason.REPLACED, "for a test")
    assert [request.sink for request in supervisor.moved] == sinks[1:] and supervisor.ends == 1
    client.feed(*first((b"1",)))
    assert list(sinks[0].result) == [(b"1",)]
    client.session.lost(None)
    assert supervisor.ends == 2


def test_a_lost_connection_fails_the_requests_inside_an_open_window() -> None:
    client = Client(max_in_flight=1)
    window = client.inside = client.window()
    first, second = client.query("select 1"), client.query("select 2")
    client.take()
    client.session.lost(None)
    assert not window.inside
    assert outcomes(first, second) == [Outcome.UNKNOWN, Outcome.NOT_SENT]


# ---- a server that refuses to write


@pytest.mark.parametrize(
    ("must_write", "code", "reported", "retires"),
    [
        (True, "25006", [], True),
        (True, "25006", ["on"], True),
        (True, "25006", ["off"], False),  # a caller asked for a read-only transaction
        (True, "25001", [], False),
        (False, "25006", [], False),
    ],
)
def test_a_server_that_refuses_writes_retires_a_session_that_needs_them(
    must_write: bool, code: str, reported: list[str], retires: bool
) -> None:
    client = Client(max_in_flight=1)
    if must_write:
        client.session.require_writes()
    client.session.parameters.update(in_hot_standby="off")
    sinks = [client.simple("insert"), client.simple("insert")]
    reports = [m.ParameterStatus("default_transaction_read_only", value) for value in reported]
    client.feed(error(code), *reports, READY)
    assert pg_error(sinks[0]).code == code and pg_error(sinks[0]).outcome is Outcome.REJECTED
    assert (client.session.reason is not None) is retires
    assert getattr(sinks[1].error, "outcome", None) is (Outcome.NOT_SENT if retires else None)


# ---- a request abandoned by its caller


def test_nothing_is_sent_until_a_disowned_request_and_its_cancel_have_ended() -> None:
    client = Client()
    client.simple("a")
    client.take()
    client.disown()
    assert client.sole is None
    behind = client.simple("b")
    assert client.sent() == []
    client.feed(error("57014"), READY)
    assert client.sent() == []
    client.session.release()
    assert client.sent() == [m.Query("b")]
    client.feed(*SIMPLE)
    assert behind.result == [[]] and client.session.holds == 0


def test_a_disowned_request_may_still_be_answered_after_its_cancel() -> None:
    client = Client()
    known(client, "select 1")
    client.query("select 1")
    client.disown()
    client.session.release()  # the cancel connection has ended first
    behind = client.query("select 1")
    assert client.tags() == "BES"
    client.feed(*later((b"1",)))
    assert client.tags() == "BES"
    client.feed(*later((b"2",)))
    assert behind.result == [(b"2",)]


# ---- a transaction left open on a shared connection


def test_a_transaction_left_open_is_rolled_back_and_rejected() -> None:
    client = Client()
    sink = client.simple("begin")
    client.take()
    client.feed(m.CommandComplete("BEGIN"), m.ReadyForQuery("T"))
    assert client.sent() == [m.Query("ROLLBACK")] and not sink.is_answered
    client.feed(m.CommandComplete("ROLLBACK"), READY)
    assert outcomes(sink) == [Outcome.REJECTED] and client.session.holds == 0


def test_a_transaction_that_survives_its_rollback_ends_the_session() -> None:
    client = Client()
    client.simple("begin")
    client.feed(m.CommandComplete("BEGIN"), m.ReadyForQuery("T"))
    client.feed(m.CommandComplete("ROLLBACK"), m.ReadyForQuery("T"))
    assert isinstance(client.session.failure, ProtocolError)


# ---- a request that moves takes nothing of this connection along


@pytest.mark.parametrize("verb", ["query", "simple", "describe", "encoded", "transaction"])
@pytest.mark.parametrize("known_before", [False, True])
def test_a_request_that_moves_after_a_fatal_error_runs_on_the_other_connection(verb: str, known_before: bool) -> None:
    """The server's FATAL arrives after the answer before, when the request is encoded and not sent."""
    client, other = Client(), Client()
    supervisor = kept(client)
    for each in (client, other):
        if known_before:
            known(each, "select 1")
    ahead = client.simple("ahead")
    client.take()
    sink = {
        "query": lambda: client.query("select 1"),
        "simple": lambda: client.simple("select 1"),
        "describe": lambda: client.describe("select 1"),
        "encoded": lambda: client.encoded(m.Query("select 1")),
        "transaction": lambda: client.transaction("set local a = 1", "select 1"),
    }[verb]()
    may_move(client)
    for request in client.session.waiting():
        if request.unit is not None:
            request.unit.whole.allow_move()
    client.feed(*SIMPLE, error("57P01", "terminating", "FATAL"))
    client.session.lost(None)
    assert ahead.result == [[]] and not sink.is_answered
    [moved] = supervisor.moved
    other.session.submit(moved)
    fresh = Client()
    if known_before:
        known(fresh, "select 1")
    again = {
        "query": lambda: fresh.query("select 1"),
        "simple": lambda: fresh.simple("select 1"),
        "describe": lambda: fresh.describe("select 1"),
        "encoded": lambda: fresh.encoded(m.Query("select 1")),
        "transaction": lambda: fresh.transaction("set local a = 1", "select 1"),
    }[verb]()
    assert other.take() == fresh.take()  # as if it had never been elsewhere
    assert other.session.state == fresh.session.state and other.session.head.error is None
    assert not again.is_answered


def test_a_transaction_that_was_answered_before_it_was_sent_is_told_when_the_connection_is_lost() -> None:
    client = Client()
    supervisor = kept(client)
    sink = client.transaction("set local a = 1", "select 1")
    for request in client.session.waiting():
        if request.unit is not None:
            request.unit.whole.allow_move()
    tags = [m.CommandComplete("BEGIN"), m.CommandComplete("SET"), m.ReadyForQuery("T")]
    client.feed(*tags, m.CommandComplete("SET"), m.ReadyForQuery("T"))
    client.feed(*first((b"1",))[:-1], *first((b"1",))[:-1], m.ReadyForQuery("T"))
    client.session.lost(None)
    assert outcomes(sink) == [Outcome.NOT_SENT] and not supervisor.moved
