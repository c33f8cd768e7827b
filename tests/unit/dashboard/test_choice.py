from __future__ import annotations

import pytest

from candleflow.dashboard.choice import BUCKETS, Choice, buckets, period, proposed
from candleflow.market.window import SECOND_US, Windows
from tests.unit.dashboard.examples import NOON


def test_five_second_windows_offer_every_bucket() -> None:
    assert buckets(Windows.of_seconds(5)) == BUCKETS


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 6, 10, 12, 15, 20, 30, 60])
def test_the_window_is_offered_first_and_then_only_its_multiples(size: int) -> None:
    offered = list(buckets(Windows.of_seconds(size)).values())
    assert offered[0] == size
    assert offered == sorted(set(offered))
    assert all(seconds % size == 0 for seconds in offered)


def test_a_window_of_a_minute_is_labelled_in_minutes() -> None:
    assert next(iter(buckets(Windows.of_seconds(60)))) == "1 m"


def test_sliding_windows_are_offered_by_their_size() -> None:
    assert buckets(Windows.of_seconds(5, 1)) == BUCKETS


def test_the_look_back_ends_now() -> None:
    shown = period(Choice("BTCUSDT", 5, 300), NOON - SECOND_US, NOON + 3 * SECOND_US)
    assert (shown.since, shown.until, shown.is_past) == (NOON - 300 * SECOND_US, NOON + 3 * SECOND_US, False)


def test_if_every_trade_is_older_the_look_back_ends_at_the_last_trade() -> None:
    shown = period(Choice("BTCUSDT", 5, 300), NOON, NOON + 86_400 * SECOND_US)
    assert (shown.since, shown.until, shown.is_past) == (NOON - 300 * SECOND_US, NOON, True)


def test_the_look_back_all_has_no_beginning() -> None:
    shown = period(Choice("BTCUSDT", 5, None), NOON, NOON + 86_400 * SECOND_US)
    assert (shown.since, shown.until, shown.is_past) == (None, NOON, False)


def test_until_the_next_candle_all_viewers_send_the_same_query() -> None:
    choice = Choice("BTCUSDT", 5, 300)
    times = [NOON + offset for offset in (0, 1, 2_500_000, 4_999_999)]
    assert {period(choice, NOON, now).since for now in times} == {NOON - 300 * SECOND_US}


@pytest.mark.parametrize(
    ("span", "seconds"),
    [
        (0, 5),
        (1_800, 5),
        (2_001, 15),
        (86_400, 300),
        (604_800, 3_600),
        (31_536_000, 86_400),
        (10**10, 86_400),
    ],
)
def test_the_automatic_length_draws_at_most_400_candles(span: int, seconds: int) -> None:
    assert proposed(span, BUCKETS.values()) == seconds
