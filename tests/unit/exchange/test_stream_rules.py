"""The rules for reconnecting, with the test's own clock and random numbers: nothing here waits."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from candleflow.backoff import Backoff
from candleflow.exchange.clock import ExchangeClock
from candleflow.exchange.reconnect import (
    AttemptLimit,
    Rotation,
    Why,
    ban_seconds,
    delay_after,
    split_evenly,
)


def longest() -> Backoff:
    return Backoff(1.0, 60.0, random=lambda: 1.0)


def test_a_connection_that_opened_and_soon_fell_does_not_reset_the_wait() -> None:
    backoff = longest()
    for expected in (1, 2, 4, 8):
        assert delay_after(backoff, Why.CLOSED, useful_seconds=59.9) == expected


def test_a_stable_connection_is_replaced_at_once_and_resets_the_wait() -> None:
    backoff = longest()
    for _ in range(5):
        backoff.next_delay()
    assert delay_after(backoff, Why.CLOSED, useful_seconds=60.0) == 0.0
    assert backoff.next_delay() == 1.0


def test_a_connection_whose_time_is_up_is_replaced_at_once_however_young() -> None:
    backoff = longest()
    assert delay_after(backoff, Why.LIFETIME, useful_seconds=0.0) == 0.0
    assert backoff.next_delay() == 1.0, "it is no failure"


@given(st.lists(st.floats(0, 30), min_size=1, max_size=400))
def test_no_five_minutes_ever_see_more_than_300_attempts(pauses: list[float]) -> None:
    limit = AttemptLimit(limit=30, period_seconds=300.0)
    now, made = 0.0, []
    for pause in pauses:
        now += pause
        now += limit.wait_seconds(now)
        assert limit.wait_seconds(now) <= 1e-9
        limit.attempted(now)
        made.append(now)
    for first, last in zip(made, made[30:], strict=False):
        assert last - first >= 300.0 - 1e-6


def test_the_301st_attempt_waits_until_the_first_is_five_minutes_old() -> None:
    limit = AttemptLimit()
    for second in range(300):
        assert limit.wait_seconds(second / 10) == 0.0
        limit.attempted(second / 10)
    assert limit.wait_seconds(30.0) == 270.0
    assert limit.wait_seconds(300.0) == 0.0


def test_a_ban_is_waited_out_and_a_shorter_one_does_not_shorten_it() -> None:
    limit = AttemptLimit()
    limit.ban(10.0, 120.0)
    limit.ban(11.0, 5.0)
    assert limit.wait_seconds(50.0) == 80.0
    assert limit.wait_seconds(130.0) == 0.0


@pytest.mark.parametrize(
    ("status", "retry_after", "seconds"),
    [
        (429, "17", 17.0),
        (418, "3600", 3_600.0),
        (418, "999999999", 259_200.0),
        (418, None, 120.0),
        (429, None, 60.0),
        (429, "soon", 60.0),
        (429, "-5", 60.0),
        (418, "9" * 400, 120.0),
        (429, "Sun, 22 Nov 2026 12:00:30 GMT", 30.0),
        (429, "Sun, 22 Nov 2026 11:00:00 GMT", 1.0),
        (429, "0", 1.0),
        (503, "soon", 0.0),
        (503, "7", 7.0),
        (503, None, 0.0),
        (451, "60", 0.0),
        (403, None, 0.0),
    ],
)
def test_no_attempt_is_made_as_long_as_the_exchange_demands(
    status: int, retry_after: str | None, seconds: float
) -> None:
    noon = 1_795_348_800.0  # 2026-11-22 12:00:00 UTC
    assert ban_seconds(status, retry_after, noon) == seconds


@pytest.mark.parametrize(
    ("quiet_since", "now", "due"),
    [
        (100.0, 110.0, (20.0, Why.SILENCE)),
        (100.0, 130.0, (0.0, Why.SILENCE)),
        (995.0, 1_000.0, (0.0, Why.LIFETIME)),
        (None, 990.0, (10.0, Why.LIFETIME)),
        (None, 500.0, (30.0, Why.SILENCE)),
    ],
)
def test_a_connection_is_due_by_silence_or_by_age_whichever_is_first(
    quiet_since: float | None, now: float, due: tuple[float, Why]
) -> None:
    assert Rotation(lifetime_seconds=1_000.0, silence_seconds=30.0).due_in(0.0, quiet_since, now) == due


def test_while_its_messages_wait_for_us_a_connection_is_not_silent() -> None:
    seconds, _ = Rotation(1e9, 30.0).due_in(opened_at=0.0, quiet_since=None, now=5_000.0)
    assert seconds == 30.0


def test_lifetimes_are_spread_so_that_connections_are_not_replaced_together() -> None:
    rotation = Rotation(1_000.0, 30.0)
    assert rotation.spread(0.0).lifetime_seconds == 1_000.0
    assert rotation.spread(1.0).lifetime_seconds == 950.0


@pytest.mark.parametrize(
    ("count", "most", "sizes"), [(1, 1024, [1]), (5, 2, [2, 2, 1]), (2_049, 1_024, [683] * 3)]
)
def test_streams_are_shared_out_evenly_to_few_connections(count: int, most: int, sizes: list[int]) -> None:
    streams = [str(number) for number in range(count)]
    lots = split_evenly(streams, most)
    assert [len(lot) for lot in lots] == sizes
    assert sorted(name for lot in lots for name in lot) == sorted(streams)


def test_our_clock_counts_until_the_exchange_reports_its_own() -> None:
    clock = ExchangeClock(lambda: 1_000_000_000_000_000, lambda: 5)
    assert clock.now_us() == 1_000_000_000_000_000
    assert clock.record_ms() == 1_000_000_000_000


def test_the_exchanges_time_is_taken_at_the_middle_of_the_question(caplog: pytest.LogCaptureFixture) -> None:
    clock = ExchangeClock(lambda: 5_500_001, lambda: 5_000_000)
    clock.correct(5_500_000, asked_at=4_900_000, answered_at=5_100_000)
    assert clock.now_us() == 5_500_000
    assert not caplog.records


def test_a_clock_a_second_off_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    clock = ExchangeClock(lambda: 0, lambda: 7)
    clock.correct(90_000_000, 7, 7)
    assert "90.0 s behind the exchange's" in caplog.text


HOUR_US = 3_600_000_000
OURS = 1_795_348_800_000_000


@pytest.mark.parametrize("step", [-HOUR_US, HOUR_US])
def test_setting_our_clock_changes_nothing_after_an_answer_of_the_exchange(step: int) -> None:
    ours = [OURS]
    clock = ExchangeClock(lambda: ours[0], lambda: 0, trusted_lag_us=2 * HOUR_US)
    clock.correct(OURS, 0, 0)
    ours[0] += step
    assert clock.now_us() == OURS
    assert clock.record_ms() == OURS // 1_000


def test_records_bear_our_own_time_where_the_exchanges_is_years_behind() -> None:
    clock = ExchangeClock(lambda: OURS, lambda: 0)
    clock.correct(OURS - 60 * 24 * HOUR_US, 0, 0)
    assert clock.record_ms() == OURS // 1_000
    assert clock.now_us() == OURS - 60 * 24 * HOUR_US


def test_records_bear_the_exchanges_time_however_far_behind_our_clock_is() -> None:
    """By this machine's clock, every trade would be later than its record, and would be rejected."""
    clock = ExchangeClock(lambda: OURS, lambda: 0)
    clock.correct(OURS + 10 * HOUR_US, 0, 0)
    assert clock.record_ms() == (OURS + 10 * HOUR_US) // 1_000
