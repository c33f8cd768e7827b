"""Tests of the verdicts: each kind of error in the table is recognized, with the stage that caused it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from random import Random
from typing import Any

import pytest

from tests import oracle
from tests.faults.schedule import storm
from tests.faults.verdicts import Outcome, Report, Stage, Stored, Trades, Verdict, compare, tables

START_MS = 1_723_118_400_000
KEY = ("BTCUSDT", "5s", datetime(2024, 8, 8, 12, 0, 5, tzinfo=UTC))
"""The second of three candles: ids 5 to 9."""


def market() -> Trades:
    """Return one trade a second of one symbol."""
    return {
        ("BTCUSDT", number): {
            "s": "BTCUSDT", "t": number, "p": f"{100 + number}.5", "q": "0.1", "T": START_MS + 1_000 * number,
            "m": number % 2 == 0,
        }
        for number in range(15)
    }  # fmt: skip


def table_of(trades: Trades) -> dict[tuple[Any, ...], Stored]:
    """Return the correct table for these trades."""
    candles = oracle.all_intervals(trades.values())
    sizes = oracle.INTERVAL_SECONDS
    return {
        key: Stored(
            candle,
            frozenset(
                number
                for (_, number), one in trades.items()
                if one["T"] // 1_000 // sizes[key[1]] * sizes[key[1]] == key[2].timestamp()
            ),
        )
        for key, candle in candles.items()
    }


def without(trades: Trades, *numbers: int) -> Trades:
    return {key: one for key, one in trades.items() if key[1] not in numbers}


def verdict_on(key: tuple[Any, ...], verdicts: list[Verdict]) -> Verdict:
    (found,) = [one for one in verdicts if one.key == key]
    return found


def test_a_correct_table_is_ok_in_every_candle() -> None:
    trades = market()
    verdicts = compare(trades, trades, table_of(trades))
    assert len(verdicts) == 3 + 5
    assert {one.outcome for one in verdicts} == {Outcome.OK}


def test_a_trade_missing_in_its_candle_was_lost_by_the_processor_if_the_topic_has_it() -> None:
    trades = market()
    table = table_of(without(trades, 6, 7))
    found = verdict_on(KEY, compare(trades, trades, table))
    assert found == Verdict(KEY, Outcome.MISSING, "2 trades, ids 6 to 7", Stage.PROCESSOR)
    found = verdict_on(KEY, compare(trades, without(trades, 6, 7), table))
    assert (found.outcome, found.stage) == (Outcome.MISSING, Stage.PRODUCER)


def test_a_missing_and_an_extra_candle_are_recognized() -> None:
    trades = market()
    table = table_of(trades)
    found = verdict_on(KEY, compare(trades, trades, {key: one for key, one in table.items() if key != KEY}))
    assert (found.outcome, found.stage) == (Outcome.MISSING, Stage.PROCESSOR)
    few = without(trades, *range(5, 10))
    assert verdict_on(KEY, compare(few, few, table)).outcome is Outcome.EXTRA


@pytest.mark.parametrize(
    ("harm", "outcome"),
    [
        (
            lambda one: replace(one, candle=replace(one.candle, volume=one.candle.volume * 2)),
            Outcome.DUPLICATE,
        ),
        (lambda one: replace(one, candle=replace(one.candle, trade_count=6)), Outcome.DUPLICATE),
        (lambda one: replace(one, candle=replace(one.candle, close=one.candle.open)), Outcome.WRONG),
        (lambda one: replace(one, candle=replace(one.candle, is_complete=False)), Outcome.WRONG),
        (lambda one: replace(one, trade_ids=one.trade_ids | {99}), Outcome.EXTRA),
    ],
)
def test_a_candle_with_the_right_trades_and_a_wrong_field_is_recognized(
    harm: Callable[[Stored], Stored], outcome: Outcome
) -> None:
    trades = market()
    table = table_of(trades)
    found = verdict_on(KEY, compare(trades, trades, table | {KEY: harm(table[KEY])}))
    assert found.outcome is outcome


def test_a_trade_lost_by_the_producer_must_show_as_an_incomplete_candle() -> None:
    in_topic = without(market(), 7)
    report = Report("a test", "a market")
    table = table_of(in_topic)
    report.judge(compare(in_topic, in_topic, table), in_topic, market())
    assert report.is_exact
    assert report.lost_by_producer == 1
    assert table[KEY].candle.is_complete is False
    silent = replace(table[KEY], candle=replace(table[KEY].candle, is_complete=True))
    silent_report = Report("a test", "a market")
    silent_report.judge(compare(in_topic, in_topic, table | {KEY: silent}), in_topic, market())
    assert not silent_report.is_exact
    assert "is_complete True, not False" in silent_report.words()


def test_wrong_counts_are_reported() -> None:
    trades = market()
    report = Report("a test", "a market", records=16)
    report.judge(compare(trades, trades, table_of(trades)), trades, trades)
    report.check_counts({"received": 16, "merged": 15, "duplicate": 1})
    assert report.is_exact
    report.check_counts({"received": 17, "merged": 16, "duplicate": 1, "rejected: not JSON": 1})
    assert report.complaints == [
        "count of received is 17, expected 16",
        "count of merged is 16, expected 15",
        "count of rejected: not JSON is 1, expected 0",
    ]
    assert "NOT EXACT" in tables([report])


def test_rejected_records_are_compared_one_by_one() -> None:
    trades = market()
    report = Report("a test", "a market", records=18)
    report.judge(compare(trades, trades, table_of(trades)), trades, trades)
    counts = {"received": 18, "merged": 15, "duplicate": 1, "rejected: not JSON": 2}
    report.check_counts(counts, {"not JSON": 2})
    report.check_refused(["one", "two"], ["two", "one"])
    assert report.is_exact
    report.check_refused(["one", "two"], ["two", "two"])
    assert report.complaints == [
        "missing in the dead-letter topic: one",
        "unexpected in the dead-letter topic: two",
    ]


@pytest.mark.parametrize(
    ("said", "is_exact"),
    [
        ("stopped: received 1,005, published 1,000, duplicate 3, rejected 2, in_flight 0", True),
        ("stopped: received 9, published 8, duplicate 0, rejected 0, in_flight 0", False),
        ("stopped: received 9, published 8, duplicate 0, rejected 0, in_flight 1", False),
        ("killed", False),
    ],
)
def test_the_totals_of_the_producer_must_add_up(said: str, is_exact: bool) -> None:
    trades = market()
    report = Report("a test", "a market")
    report.judge(compare(trades, trades, table_of(trades)), trades, trades)
    report.check_producer(f"began\n{said}\n")
    assert report.is_exact is is_exact


def test_a_report_without_verdicts_is_not_exact() -> None:
    report = Report("a test", "a market")
    assert not report.is_exact
    assert "no verdict" in tables([report])


def test_a_seed_repeats_its_schedule_and_each_fault_comes_once_before_any_is_repeated() -> None:
    faults = [f"fault {number}" for number in range(7)]
    for seed in Random(1).sample(range(10**9), 20):
        schedule = storm(seed, 60, faults)
        assert schedule == storm(seed, 60, faults)
        assert {step.fault for step in schedule.steps[:7]} == set(faults)
        assert sum(step.after for step in schedule.steps) >= 60
        assert f"={seed}:" in str(schedule)
    assert storm(1, 60, faults).steps != storm(2, 60, faults).steps
