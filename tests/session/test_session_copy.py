"""COPY from the client as the session writes it, and the calls of a connection's owner to its session."""

from __future__ import annotations

import pytest

from pg_wired.errors import ConnectionClosed, UsageError
from pg_wired.protocol import messages as m
from pg_wired.protocol.server_error import PgError
from pg_wired.session.notification_queue import NotificationQueue
from pg_wired.session.request import COPY_IN
from pg_wired.session.session import Reason
from pg_wired.testing import error
from tests.session.conversation import READY, Client, Consumer, Sink, pg_error, result


def copying() -> tuple[Client, Sink]:
    """A client in the middle of a COPY FROM STDIN: the server is waiting for data."""
    client = Client()
    sink = client.copy("copy", COPY_IN, Consumer())
    assert not client.session.is_copying_in
    client.take()
    client.feed(m.CopyInResponse(0, (0,)))
    assert client.session.is_copying_in
    return client, sink


def test_copy_data_and_copy_done_are_sent_and_the_tag_is_the_answer() -> None:
    client, sink = copying()
    encoded = client.session.encoded
    client.session.send_copy_data(b"1\n")
    client.session.send_copy_data(memoryview(b"2\n"))
    client.session.send_copy_done()
    assert client.session.encoded == encoded + len(client.session.out)
    assert client.sent() == [m.CopyData(b"1\n"), m.CopyData(b"2\n"), m.CopyDone()]
    assert not client.session.is_copying_in
    client.feed(m.CommandComplete("COPY 2"), READY)
    assert sink.result[0].rows_affected == 2


def test_copy_fail_is_cut_to_a_thousand_characters_without_nul() -> None:
    client, sink = copying()
    client.session.send_copy_fail("a\0b" + "c" * 2000)
    assert client.sent() == [m.CopyFail("ab" + "c" * 998)]
    client.feed(error("57014"), READY)
    assert pg_error(sink).code == "57014"


def test_a_copy_in_cancelled_before_it_began_is_ended_with_copy_fail() -> None:
    client = Client()
    sink, behind = client.copy("copy", COPY_IN, Consumer()), client.query("select 1")
    client.take()
    sink.cancelled = True
    client.feed(m.CopyInResponse(0, (0,)))
    assert client.sent() == [m.CopyFail("the client has given up"), m.Sync()]
    assert not behind.is_answered


def test_deliver_notifications_redirects_them_to_another_queue() -> None:
    client, queue = Client(), NotificationQueue()
    client.session.deliver_notifications(queue)
    client.feed(m.NotificationResponse(1, "c", ""))
    assert queue.received == 1


def test_a_draining_session_answers_its_requests_and_then_terminates() -> None:
    client = Client(max_in_flight=1)
    sinks = [client.simple("a"), client.simple("b")]
    assert client.session.takes_requests
    client.session.drain(Reason.CLOSED)
    assert not client.session.takes_requests
    with pytest.raises(ConnectionClosed, match=r"it was closed by close\(\)"):
        client.simple("c")
    client.feed(*result(), READY)
    client.feed(*result(), READY)
    assert [sink.result for sink in sinks] == [[[]], [[]]]
    assert client.sent() == [m.Query("a"), m.Query("b"), m.Terminate()]


@pytest.mark.parametrize("reason", Reason)
def test_each_reason_for_retiring_has_its_own_text(reason: Reason) -> None:
    client = Client()
    client.session.retire(reason)
    assert client.session.reason_text == reason.value
    with pytest.raises(ConnectionClosed) as caught:
        client.simple("a")
    assert reason is Reason.SERVER_ENDS or reason.value in str(caught.value)


def test_a_further_error_of_one_request_becomes_a_note() -> None:
    client = Client()
    sink = client.simple("a")
    client.feed(error("57P01", "shutting down"), error("08006", "gone", "FATAL"), READY)
    assert isinstance(sink.error, PgError) and sink.error.__notes__ == ["then: FATAL:  gone"]


def test_a_window_that_has_ended_refuses_requests() -> None:
    client = Client()
    client.inside = client.window("stream()")
    client.session.leave(client.inside)
    with pytest.raises(UsageError, match=r"stream\(\) has ended"):
        client.simple("late")


@pytest.mark.parametrize("end", ["answered", "left", "lost"])
def test_a_sink_is_told_when_all_is_answered(end: str) -> None:
    client, sink = Client(), Sink()
    if end == "left":
        window = client.window()
        client.session.tell_when_answered(sink)
        client.session.leave(window)
    else:
        client.simple("a")
        client.simple("b")
        client.session.tell_when_answered(sink)
        client.feed(*result(), READY)
        assert not sink.done()
        if end == "answered":
            client.feed(*result(), READY)
        else:
            client.session.lost(None)
    assert client.session.answered_sinks == []


def test_a_sink_that_is_done_is_not_told() -> None:
    client, sink = Client(), Sink()
    client.session.tell_when_answered(sink)
    sink.cancelled = True
    client.session.lost(None)
    assert sink.done() and client.session.answered_sinks == []
