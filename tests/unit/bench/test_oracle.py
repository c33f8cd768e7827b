from __future__ import annotations

import json
import random
from dataclasses import asdict
from datetime import timedelta
from decimal import Decimal

import pytest

from bench import topic
from bench.oracle import FIELDS, OHLCV, Expected, Fold, Number, compare, judge
from tests import oracle


@pytest.fixture(scope="module")
def trades() -> list[topic.TopicTrade]:
    return list(topic.trades(25_000))  # 12 s: three windows


@pytest.fixture(scope="module")
def expected(trades: list[topic.TopicTrade]) -> Expected:
    return folded(trades)


def folded(trades: list[topic.TopicTrade]) -> Expected:
    fold = Fold()
    for trade in trades:
        fold.add(trade)
    return fold.candles()


def test_the_fold_equals_a_second_oracle_that_reads_the_payloads(
    trades: list[topic.TopicTrade], expected: Expected
) -> None:
    others = oracle.candles((json.loads(topic.payload(trade)) for trade in trades), 5, "5s")
    assert len(expected) == len(others) > len(topic.SYMBOLS)
    for (symbol, interval, open_time), other in others.items():
        assert interval == "5s"
        assert dict(expected[symbol, open_time]) == {name: asdict(other)[name] for name in FIELDS}


def test_the_order_of_the_trades_decides_nothing(trades: list[topic.TopicTrade], expected: Expected) -> None:
    shuffled = random.Random(1).sample(trades, len(trades))
    assert folded(shuffled) == expected


def test_a_missing_trade_leaves_two_candles_incomplete_at_most(trades: list[topic.TopicTrade]) -> None:
    without = [trade for trade in trades if trade != trades[12_000]]
    complete, then = folded(trades), folded(without)
    changed = [key for key in complete if complete[key] != then[key]]
    assert 1 <= len(changed) <= 2
    assert not any(then[key]["is_complete"] for key in changed if complete[key]["trade_count"] != 1)


@pytest.mark.parametrize(
    ("right", "found", "judged"),
    [
        (Decimal("61837.63"), Decimal("61837.630"), "exact"),
        (Decimal("61837.63"), Decimal("61837.64"), "different"),
        (Decimal("61837.63"), 61837.63, "nearest"),
        (Decimal("0.3"), 0.1 + 0.2, "rounded"),
        (Decimal("0.3"), 0.3001, "different"),
        (Decimal("0.3"), float("nan"), "different"),
        (7, 7, "exact"),
        (7, 8, "different"),
        (True, False, "different"),
        (7, None, "different"),
    ],
)
def test_a_double_is_never_called_exact(right: Number, found: Number | None, judged: str) -> None:
    assert judge(right, found) == judged


def test_what_is_as_it_must_be_counts(expected: Expected) -> None:
    verdict = compare(expected, expected.items(), FIELDS)
    assert verdict.is_right
    assert verdict.exact_fields == list(FIELDS)
    assert verdict.words() == f"{len(expected)} candles; 12 of 12 fields exact"


def test_doubles_count_as_right_but_not_as_exact(expected: Expected) -> None:
    rows = [
        (key, {name: float(values[name]) if name != "trade_count" else values[name] for name in OHLCV})
        for key, values in expected.items()
    ]
    verdict = compare(expected, rows, OHLCV)
    assert verdict.is_right
    assert verdict.exact_fields == ["trade_count"]
    assert f"close: {len(expected)} nearest" in verdict.words()


def test_missing_extra_and_different_candles_are_reported(expected: Expected) -> None:
    first, second, *others = expected.items()
    (symbol, open_time), values = second
    wrong = {**values, "close": Decimal(1)}
    stray = (symbol, open_time + timedelta(days=1)), values
    verdict = compare(expected, [((symbol, open_time), wrong), stray, *others, others[0]], FIELDS)
    assert not verdict.is_right
    assert (verdict.missing, verdict.extra) == (1, 2)
    assert "1 missing; 2 extra" in verdict.words()
    assert "close: 1 different" in verdict.words()
    assert first[0] in expected


def test_no_candle_expected_is_nothing_proved() -> None:
    assert not compare({}, [], FIELDS).is_right
