"""Delays between attempts: none at first, then random ones below a bound that doubles up to a maximum."""

from __future__ import annotations

import random

import pytest

from pg_wired.pool.backoff import FIRST_DELAY_SECONDS, MAX_DELAY_SECONDS, SETTLED_SECONDS, Backoff


def test_the_first_attempt_is_made_without_delay() -> None:
    backoff = Backoff(lambda: 1.0)
    assert backoff.delay(0.0) == 0.0
    backoff.succeeded()
    backoff.ended(100.0, age=100.0)
    assert backoff.delay(100.0) == 0.0


def test_each_failure_doubles_the_delay_up_to_the_maximum() -> None:
    backoff = Backoff(lambda: 1.0)
    delays = []
    for _ in range(30):
        backoff.failed(7.0)
        delays.append(backoff.delay(7.0))
    assert delays == pytest.approx([min(MAX_DELAY_SECONDS, FIRST_DELAY_SECONDS * 2**n) for n in range(30)])
    assert (
        backoff.delay(7.0 + MAX_DELAY_SECONDS / 2) == pytest.approx(MAX_DELAY_SECONDS / 2) and backoff.delay(9.0) == 0.0
    )


def test_the_delay_is_random_between_zero_and_its_bound() -> None:
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


def test_a_success_resets_the_delay() -> None:
    backoff = Backoff(lambda: 1.0)
    for _ in range(5):
        backoff.failed(0.0)
    backoff.succeeded()
    assert backoff.delay(0.0) == 0.0
    backoff.failed(0.0)
    assert backoff.delay(0.0) == pytest.approx(FIRST_DELAY_SECONDS)


def test_connections_that_end_early_count_as_failures() -> None:
    """A server that accepts every connection and ends it at once is not tried again without a pause."""
    backoff = Backoff(lambda: 1.0)
    delays = []
    for _ in range(8):
        backoff.succeeded()
        for _ in range(4):  # all connections of a pool at once count as one failure
            backoff.ended(0.0, age=SETTLED_SECONDS / 2)
        delays.append(backoff.delay(0.0))
    assert delays == pytest.approx([0.0, *[min(MAX_DELAY_SECONDS, FIRST_DELAY_SECONDS * 2**n) for n in range(1, 8)]])
    backoff.succeeded()
    backoff.ended(0.0, age=SETTLED_SECONDS)
    assert backoff.delay(0.0) == 0.0
    backoff.succeeded()
    backoff.ended(0.0, age=0.0)
    assert backoff.delay(0.0) == 0.0
