"""Backoff: the pauses between retries, with a given source of random numbers; nothing waits."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from candleflow.backoff import Backoff

SHARES = st.floats(0, 1)
SHORTEST = st.floats(0.001, 100)


@given(SHORTEST, st.floats(0.001, 1_000), st.lists(SHARES, min_size=1, max_size=60))
def test_each_delay_is_the_random_share_of_a_bound_that_doubles_up_to_the_cap(
    shortest: float, longest: float, shares: list[float]
) -> None:
    backoff = Backoff(shortest, longest, random=iter(shares).__next__)
    for failures, share in enumerate(shares):
        bound = min(longest, shortest * 2.0 ** min(failures, 32))
        assert backoff.next_delay() == share * bound <= longest


@given(SHORTEST, st.integers(0, 40))
def test_after_a_success_the_bound_is_reset(shortest: float, failures: int) -> None:
    backoff = Backoff(shortest, 1_000.0, random=lambda: 1.0)
    for _ in range(failures):
        backoff.next_delay()
    backoff.reset()
    assert [backoff.next_delay() for _ in range(3)] == [shortest, 2 * shortest, 4 * shortest]


def test_the_bound_doubles_with_each_failure_up_to_the_cap() -> None:
    backoff = Backoff(1.0, 60.0, random=lambda: 1.0)
    assert [backoff.next_delay() for _ in range(9)] == [1, 2, 4, 8, 16, 32, 60, 60, 60]


def test_delays_differ_by_default() -> None:
    backoff = Backoff(60.0, 60.0)
    delays = {backoff.next_delay() for _ in range(100)}
    assert len(delays) > 50
    assert all(0 <= delay < 60 for delay in delays)


def test_thousands_of_failures_do_not_overflow() -> None:
    backoff = Backoff(1.0, 60.0, random=lambda: 1.0)
    assert max(backoff.next_delay() for _ in range(2_000)) == 60.0
