"""The server's last words: however they arrive, they are the cause of the errors that callers get."""

from __future__ import annotations

import pytest

from pg_wired.errors import ConnectionClosed, Outcome
from pg_wired.protocol import messages as m
from pg_wired.protocol.server_error import PgError
from pg_wired.testing import error
from tests.session.conversation import (
    READY,
    Client,
    pg_error,
    result,
)

LAST_WORDS = [
    error("", "last words"),  # an answer, while a request is waiting for one
    error("57P05", "last words", "FATAL"),
    m.NoticeResponse((("S", "WARNING"), ("C", "57P02"), ("M", "last words"))),
    m.NoticeResponse((("C", "57P01"), ("M", "last words"))),
]
MORE_WORDS = [m.NoticeResponse((("C", "57P01"), ("M", "more words"))), error("57P01", "even more", "FATAL")]


@pytest.mark.parametrize("message", LAST_WORDS)
def test_last_words_while_idle_are_the_cause(message: m.BackendMessage) -> None:
    client = Client()
    client.feed(message, *MORE_WORDS)
    client.session.lost(ConnectionResetError("reset"))
    failure = client.session.failure
    assert isinstance(failure, ConnectionClosed) and str(failure) == "the server closed the connection: last words"
    assert isinstance(failure.__cause__, PgError) and failure.__cause__.message == "last words"


@pytest.mark.parametrize("message", LAST_WORDS[1:])
def test_last_words_while_busy_are_the_cause_of_the_request_failure(message: m.BackendMessage) -> None:
    client = Client()
    sink = client.simple("select")
    client.take()
    client.feed(message, *MORE_WORDS)
    client.session.lost(None)
    assert isinstance(sink.error, ConnectionClosed) and sink.error.outcome is Outcome.UNKNOWN
    assert isinstance(sink.error.__cause__, PgError) and sink.error.__cause__.message == "last words"


def test_other_notices_are_not_taken_as_last_words() -> None:
    client = Client()
    client.feed(m.NoticeResponse((("C", "01000"), ("M", "x"))), m.NoticeResponse(()))
    client.session.lost(None)
    assert str(client.session.failure) == "the connection was closed: the server sent no reason"


@pytest.mark.parametrize("is_busy", [True, False])
def test_the_first_of_several_errors_is_the_cause_and_the_others_are_notes(is_busy: bool) -> None:
    client = Client()
    sink = client.simple("select") if is_busy else None
    client.take()
    for n in range(1, 10):
        client.feed(error("57P01", f"word {n}", "FATAL"))
    client.session.lost(None)
    failure = sink.error if sink else client.session.failure
    assert isinstance(failure, ConnectionClosed) and failure.outcome is Outcome.UNKNOWN
    cause = failure.__cause__
    assert isinstance(cause, PgError) and cause.message == "word 1"
    assert cause.__notes__ == [f"then: FATAL:  word {n}" for n in range(2, 10)]


def test_a_fatal_error_after_the_tag_leaves_the_outcome_unknown() -> None:
    client = Client()
    sink = client.simple("insert")
    client.take()
    client.feed(m.CommandComplete("INSERT 0 1"), error("57P01", "terminating", "FATAL"))
    client.session.lost(None)
    assert isinstance(sink.error, ConnectionClosed) and sink.error.outcome is Outcome.UNKNOWN
    assert "terminating" in str(sink.error)


def test_a_fatal_error_after_another_error_is_the_cause() -> None:
    client = Client()
    sink = client.simple("copy")
    client.feed(error("08P01", "sync lost"), error("08P01", "terminating", "FATAL"))
    client.session.lost(None)
    assert isinstance(sink.error, ConnectionClosed) and "sync lost" not in str(sink.error)
    assert isinstance(sink.error.__cause__, PgError) and sink.error.__cause__.is_fatal


def test_an_error_of_class_08_does_not_end_the_connection() -> None:
    client = Client()
    sinks = [client.simple("dblink"), client.simple("select")]
    client.feed(error("08006"), READY, *result(), READY)
    assert pg_error(sinks[0]).code == "08006" and sinks[1].result == [[]]
