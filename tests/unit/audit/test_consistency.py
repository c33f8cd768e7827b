"""Finding inconsistent candles, and limiting the attempts to rebuild them."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

import pytest

from candleflow.audit.consistency import (
    PAUSE_US,
    TRIES,
    Attempts,
    SuspectRange,
    find_suspect_ranges,
    group_adjacent,
    kline_mismatches,
    overlapping,
    spanning,
)
from candleflow.audit.klines import Comparison, FieldDifference, Finding, Verdict, bases
from candleflow.market.candle_ids import CandleIds, StrayRollUp
from candleflow.market.trade_ids import TradeIds
from candleflow.market.window import SECOND_US, Windows

FIVE = Windows.of_seconds(5)
S = SECOND_US


def candle_ids(second: int, first: int, last: int) -> CandleIds:
    return CandleIds(
        second * S, (second + 5) * S, last - first + 1, first, last, TradeIds(range(first, last + 1))
    )


def stray(
    interval: str, second: int, seconds: int, stored: int | None = 9, folded: int | None = 9
) -> StrayRollUp:
    """Make a roll-up with trades 0 to ``stored``, whose candles have trades 0 to ``folded``."""
    ids = [None if last is None else TradeIds(range(last + 1)) for last in (stored, folded)]
    return StrayRollUp(interval, second * S, (second + seconds) * S, ids[0], ids[1], prices_agree=True)


def stretches(found: list[SuspectRange]) -> list[tuple[int, int]]:
    return [(one.since // S, one.until // S) for one in found]


def test_consistent_candles_that_share_no_id_are_not_suspect() -> None:
    assert (
        find_suspect_ranges([candle_ids(0, 1, 5), candle_ids(5, 6, 6), candle_ids(15, 9, 12)], [], FIVE) == []
    )


@pytest.mark.parametrize(
    "change",
    [
        {"trade_count": 4},
        {"first_trade_id": 5},
        {"last_trade_id": 11},
        {"end_time": 11 * S},
        {"is_judged": False},
        {"ids": TradeIds([6, 7, 8, 10])},
        {"ids": TradeIds()},
    ],
)
def test_a_candle_that_contradicts_its_ids_is_suspect(change: dict[str, object]) -> None:
    wrong = replace(candle_ids(5, 6, 10), **change)  # type: ignore[arg-type]
    assert stretches(find_suspect_ranges([candle_ids(0, 1, 5), wrong, candle_ids(10, 11, 15)], [], FIVE)) == [
        (5, 10)
    ]


def test_all_candles_that_share_an_id_are_suspect() -> None:
    stored = [candle_ids(0, 1, 50), candle_ids(5, 51, 60), candle_ids(10, 40, 41), candle_ids(15, 61, 70)]
    assert overlapping(stored) == [stored[0], stored[2]]
    assert stretches(find_suspect_ranges(stored, [], FIVE)) == [(0, 5), (10, 15)]


def test_sliding_windows_may_share_ids() -> None:
    stored = [candle_ids(second, second, second + 4) for second in range(12)]
    assert find_suspect_ranges(stored, [], Windows.of_seconds(5, 1)) == []


def test_the_shortest_wrong_roll_up_stands_for_longer_ones() -> None:
    strays = [stray("5m", 0, 300), stray("1m", 60, 60), stray("1m", 180, 60), stray("15m", 900, 900)]
    assert stretches(find_suspect_ranges([], strays, FIVE)) == [(60, 120), (180, 240), (900, 900)]


@pytest.mark.parametrize(
    ("one", "is_alone"),
    [
        (stray("5m", 0, 300), True),
        (stray("5m", 0, 300, stored=None), True),
        (stray("5m", 0, 300, stored=5), True),
        (stray("5m", 0, 300, stored=10), False),
        (stray("5m", 0, 300, folded=None), False),
        (replace(stray("5m", 0, 300), prices_agree=False), False),
    ],
)
def test_a_roll_up_that_all_others_contradict_is_rebuilt_alone(one: StrayRollUp, is_alone: bool) -> None:
    assert stretches(find_suspect_ranges([], [one], FIVE)) == [(0, 0 if is_alone else 300)]
    longer = stray("15m", 0, 900)
    assert stretches(find_suspect_ranges([], [one, longer], FIVE)) == [(0, 300)]
    elsewhere = stray("5m", 600, 300)
    assert stretches(find_suspect_ranges([], [one, elsewhere], FIVE)) == [
        (0, 0 if is_alone else 300),
        (600, 600),
    ]


def suspect(since: int, until: int) -> SuspectRange:
    return SuspectRange(since * S, until * S, f"{since}")


def test_overlapping_ranges_merge_and_adjacent_ones_group_up_to_an_hour() -> None:
    found = [suspect(5, 10), suspect(0, 5), suspect(7, 9), suspect(20, 25), suspect(25, 25), suspect(25, 30)]
    grouped = group_adjacent(found)
    assert [stretches(run) for run in grouped] == [[(0, 5), (5, 10)], [(20, 25), (25, 30)]]
    assert [stretches([spanning(run)]) for run in grouped] == [[(0, 10)], [(20, 30)]]
    assert spanning(grouped[0]).reason == "0; 5; 7"
    long = [suspect(at, at + 60) for at in range(0, 7_200, 60)]
    assert [len(run) for run in group_adjacent(long)] == [60, 60]
    assert [stretches(run) for run in group_adjacent([suspect(0, 5), suspect(5, 5)])] == [[(0, 5)], [(5, 5)]]


def test_only_differences_with_equal_trade_counts_are_suspect() -> None:
    price = FieldDifference("open", Decimal(1), Decimal(2))
    count = FieldDifference("trade_count", 1, 2)
    found = tuple(
        Finding("5s", at * S, verdict, fields=fields)
        for at, verdict, fields in (
            (0, Verdict.DIFFERENT, (price,)),
            (5, Verdict.DIFFERENT, (price, count)),
            (10, Verdict.EXTRA, (count,)),
            (15, Verdict.INCOMPLETE, (price,)),
        )
    )
    basis = bases(FIVE)[0]
    assert stretches(kline_mismatches(Comparison("5s", {}, found), basis)) == [(0, 5)]


def test_a_range_is_tried_three_times_or_once_if_settled() -> None:
    attempts, one = Attempts(), suspect(0, 5)
    now = 0
    for _ in range(TRIES):
        assert attempts.is_due("BTCUSDT", one, now)
        attempts.note("BTCUSDT", one, now, is_settled=False)
        assert not attempts.is_due("BTCUSDT", one, now + PAUSE_US - 1)
        now += PAUSE_US
    assert not attempts.is_due("BTCUSDT", one, now)
    assert attempts.is_due("ETHUSDT", one, now)
    changed = replace(one, state="another")
    assert attempts.is_due("BTCUSDT", changed, now)
    attempts.note("BTCUSDT", changed, now, is_settled=True)
    assert not attempts.is_due("BTCUSDT", changed, now + 10 * PAUSE_US)
