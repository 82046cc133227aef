"""However the stream is cut, the answers are the same; wherever it ends, no request gets half an answer."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pg_wired.errors import ConnectionClosed, Outcome, PgWireError
from pg_wired.protocol import messages as m
from tests.session.conversation import Client
from tests.session.reference import STAGES, open_client

ANSWERS = [m.encode(*stage.answer) for stage in STAGES]
WHOLE = b"".join(ANSWERS)
STARTS = [len(b"".join(ANSWERS[:n])) for n in range(len(ANSWERS))]


def talk(cuts: list[int], end: int = len(WHOLE)) -> tuple[Client, list[bytes]]:
    """Hold the conversation with its inbound stream cut at `cuts` and ended at `end`; return what was sent by stage."""
    client, sent = open_client(), []
    for stage, start, data in zip(STAGES, STARTS, ANSWERS, strict=True):
        if start > end:
            break
        stage.ask(client)
        sent.append(client.take())
        here = [0, *sorted(cut - start for cut in cuts if 0 < cut - start < len(data)), len(data)]
        for begin, stop in pairwise(here):
            client.feed(data[begin : min(stop, max(begin, end - start))])
    return client, sent


def seen(client: Client, sent: list[bytes]) -> Any:
    """Everything observable of a session from outside."""
    session = client.session
    answers = [sink.shown() if sink.is_answered else None for sink in client.sinks]
    rest = (
        session.transaction_status,
        session.parameters,
        session.notifications.dropped,
        session.tail,
        bytes(session.out),
    )
    return answers, sent, rest, session.reason_text, type(session.failure), str(session.last_words)


EXPECTED = seen(*talk([]))


def test_the_reference_conversation_has_the_expected_answers() -> None:
    answers, sent, _, retired, failure, last_words = EXPECTED
    assert None not in answers and len(answers) == 27 and len(sent) == len(STAGES)
    names = [answer[0] if isinstance(answer, tuple) and isinstance(answer[0], str) else "" for answer in answers]
    assert [name for name in names if name] == [*["PgError"] * 3, "UsageError", *["TransactionError"] * 2]
    assert ("client_encoding" in retired, failure, last_words) == (True, type(None), "FATAL:  shutting down")
    assert 1000 < len(WHOLE) < 3000


def test_answers_are_the_same_when_read_byte_by_byte() -> None:
    assert seen(*talk(list(range(len(WHOLE))))) == EXPECTED


def test_answers_are_the_same_when_cut_once_at_any_byte() -> None:
    for cut in range(len(WHOLE)):
        assert seen(*talk([cut])) == EXPECTED, f"cut at byte {cut}"


@settings(deadline=None)
@given(st.lists(st.integers(0, len(WHOLE)), max_size=40))
def test_answers_are_the_same_with_any_set_of_cuts(cuts: list[int]) -> None:
    assert seen(*talk(cuts)) == EXPECTED


@pytest.mark.parametrize("size", [2, 3, 5, 7, 64])
def test_answers_are_the_same_in_pieces_of_equal_size(size: int) -> None:
    assert seen(*talk(list(range(0, len(WHOLE), size)))) == EXPECTED


def test_a_stream_that_ends_at_any_byte_keeps_answers_and_fails_the_rest() -> None:
    """Answered requests keep their answers, all others fail with an unknown outcome, and none keeps waiting."""
    for end in range(len(WHOLE)):
        client, sent = talk([], end)
        answered = [sink.is_answered for sink in client.sinks]
        client.take()
        client.session.lost(None)
        for sink, expected, before in zip(client.sinks, EXPECTED[0], answered, strict=False):
            where = f"over at byte {end}: {sink.shown()}"
            if before:
                assert sink.shown() == expected, where
            else:
                assert isinstance(sink.error, ConnectionClosed) and sink.error.outcome is Outcome.UNKNOWN, where
        assert client.session.waiting() == [] and len(sent) <= len(STAGES)


def test_nothing_is_answered_before_its_last_byte() -> None:
    """ReadyForQuery ends each answer, and its transaction status byte must have arrived, too."""
    count = 0
    for end in range(len(WHOLE) + 1):
        client, _ = talk([], end)
        answered = sum(sink.is_answered for sink in client.sinks)
        if answered > count:
            assert WHOLE[end - 6 : end - 1] == b"Z\0\0\0\5"
        count = answered
    assert count == len(EXPECTED[0])


def test_not_sent_means_that_no_byte_was_handed_over() -> None:
    """The outbound stream, ended at every byte."""

    def ask() -> tuple[Client, list[int]]:
        client, begins = Client(), []
        for n in range(3):
            begins.append(client.session.encoded)
            client.query("insert", bytes(n))
            begins.append(client.session.encoded)
            client.simple("insert")
        return client, begins

    for handed in range(len(ask()[0].session.out) + 1):
        client, begins = ask()
        client.take(handed)
        client.session.lost(BrokenPipeError())
        for sink, begin in zip(client.sinks, begins, strict=True):
            assert isinstance(sink.error, PgWireError)
            assert sink.error.outcome is (Outcome.UNKNOWN if begin < handed else Outcome.NOT_SENT)
