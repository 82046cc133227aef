"""When to try again: at once, then within twice the time before, up to a bound; and calm where nothing lasts."""

from __future__ import annotations

import random

import pytest

from pg_wired.pool.backoff import FIRST_DELAY_SECONDS, MAX_DELAY_SECONDS, SETTLED_SECONDS, Backoff


def test_the_first_attempt_is_at_once() -> None:
    backoff = Backoff(lambda: 1.0)
    assert backoff.delay(0.0) == 0.0
    backoff.succeeded()
    backoff.ended(100.0, age=100.0)
    assert backoff.delay(100.0) == 0.0


def test_each_failure_doubles_the_time_up_to_the_bound() -> None:
    backoff = Backoff(lambda: 1.0)
    delays = []
    for _ in range(30):
        backoff.failed(7.0)
        delays.append(backoff.delay(7.0))
    assert delays == pytest.approx([min(MAX_DELAY_SECONDS, FIRST_DELAY_SECONDS * 2**n) for n in range(30)])
    assert (
        backoff.delay(7.0 + MAX_DELAY_SECONDS / 2) == pytest.approx(MAX_DELAY_SECONDS / 2) and backoff.delay(9.0) == 0.0
    )


def test_the_moment_is_random_in_all_of_that_time() -> None:
    source = random.Random(1)
    delays = []
    for _ in range(1000):
        backoff = Backoff(source.random)
        for _ in range(3):
            backoff.failed(0.0)
        delays.append(backoff.delay(0.0))
    longest = FIRST_DELAY_SECONDS * 4
    assert 0 <= min(delays) < longest * 0.02 and longest * 0.98 < max(delays) <= longest
    assert sum(delays) / 1000 == pytest.approx(longest / 2, rel=0.1)


def test_a_success_lets_all_others_follow() -> None:
    backoff = Backoff(lambda: 1.0)
    for _ in range(5):
        backoff.failed(0.0)
    backoff.succeeded()
    assert backoff.delay(0.0) == 0.0
    backoff.failed(0.0)
    assert backoff.delay(0.0) == pytest.approx(FIRST_DELAY_SECONDS)


def test_a_server_that_lets_everybody_in_and_throws_everybody_out() -> None:
    """Connections that live for no time are not made anew without a pause."""
    backoff = Backoff(lambda: 1.0)
    delays = []
    for _ in range(8):
        backoff.succeeded()
        for _ in range(4):  # all of a pool, at once: they count as one
            backoff.ended(0.0, age=SETTLED_SECONDS / 2)
        delays.append(backoff.delay(0.0))
    assert delays == pytest.approx([0.0, *[min(MAX_DELAY_SECONDS, FIRST_DELAY_SECONDS * 2**n) for n in range(1, 8)]])
    backoff.succeeded()
    backoff.ended(0.0, age=SETTLED_SECONDS)
    assert backoff.delay(0.0) == 0.0
    backoff.succeeded()
    backoff.ended(0.0, age=0.0)
    assert backoff.delay(0.0) == 0.0
