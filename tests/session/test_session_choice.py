"""Routing: the session with the least work is chosen, and a session that is held up is chosen last."""

from __future__ import annotations

import pytest

from pg_wired.session.request import Window, query_request
from pg_wired.session.session import REQUEST_WEIGHT_SHIFT, Session, choose
from tests.session.conversation import Sink


def sessions(*loads: int) -> list[Session]:
    """Sessions with the given numbers of requests, of which at most three each are encoded."""
    made = []
    for load in loads:
        session = Session({}, 16, 3)
        for _ in range(load):
            session.submit(query_request(Sink(), "select 1", (), (), 0, 0, 0.0))
        made.append(session)
    return made


@pytest.mark.parametrize(
    ("loads", "index"), [((0,), 0), ((5,), 0), ((0, 0), 0), ((1, 0), 1), ((3, 2, 2), 1), ((4, 9, 5), 0), ((9, 5, 4), 2)]
)
def test_the_session_with_the_fewest_requests_is_chosen(loads: tuple[int, ...], index: int) -> None:
    assert choose(sessions(*loads)) == index


def test_encoded_bytes_count_towards_the_load_as_requests_do() -> None:
    two = sessions(0, 3)
    two[0].append(bytes(4 << REQUEST_WEIGHT_SHIFT))
    assert choose(two) == 1
    del two[0].out[: 2 << REQUEST_WEIGHT_SHIFT]
    assert choose(two) == 0


def hold(session: Session) -> None:
    session.hold()


def open_window(session: Session) -> None:
    session.submit(Window(Sink(), "a window", 0.0, False))


def be_slow(session: Session) -> None:
    session.mark_slow()


@pytest.mark.parametrize(("hold_up", "loads"), [(hold, (1, 3)), (open_window, (0, 0)), (be_slow, (1, 3))])
def test_a_session_that_is_held_up_is_chosen_last(hold_up: object, loads: tuple[int, int]) -> None:
    assert callable(hold_up)
    two = sessions(*loads)
    hold_up(two[0])
    assert choose(two) == 1
    hold_up(two[1])
    assert choose(two) == 0  # all are held up


def test_a_session_that_never_had_a_request_is_not_slow() -> None:
    [idle] = sessions(0)
    assert idle.slow != idle.head.number
