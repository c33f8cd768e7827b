"""The processor's own latency figures: accurate, for the last minute, in bounded memory."""

from __future__ import annotations

import math
from dataclasses import dataclass
from random import Random

import pytest

from candleflow.engine.recent_latency import SPAN_SECONDS, LiveTrades, RecentLatency

NOW = 1_723_118_400_000_000
MS = 1_000


@dataclass
class Steady:
    seconds: float = 100.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def steady() -> Steady:
    return Steady()


@pytest.fixture
def latency(steady: Steady) -> RecentLatency:
    return RecentLatency(steady)


def one(milliseconds: float) -> LiveTrades:
    """One live trade with the given latency."""
    time = NOW - round(milliseconds * MS)
    return LiveTrades(time, time, 1)


def test_without_a_live_trade_there_is_no_latency(latency: RecentLatency, steady: Steady) -> None:
    assert latency.counts() == {"merged_per_s": 0.0}
    latency.note([], 500, NOW)  # fetched from history, all of them
    steady.seconds += 10
    assert latency.counts() == {"merged_per_s": 50.0}


def test_quantiles_are_those_of_all_trades_within_a_hundredth(latency: RecentLatency) -> None:
    chance = Random(1)
    exact = sorted(chance.lognormvariate(5.3, 0.5) for _ in range(5_000))
    for milliseconds in exact:
        latency.note([one(milliseconds)], 1, NOW)
    counts = latency.counts()
    assert counts["latency_trades"] == 5_000
    assert counts["latency_ms_p50"] == pytest.approx(exact[2_499], rel=0.01)
    assert counts["latency_ms_p99"] == pytest.approx(exact[4_949], rel=0.01)


def test_trades_of_a_block_are_spread_between_its_first_and_its_last(latency: RecentLatency) -> None:
    latency.note([LiveTrades(NOW - 300 * MS, NOW - 100 * MS, 64)], 64, NOW)
    counts = latency.counts()
    assert counts["latency_trades"] == 64
    assert counts["latency_ms_p50"] == pytest.approx(200, abs=4)
    assert counts["latency_ms_p99"] == pytest.approx(300, rel=0.01)


@pytest.mark.parametrize("milliseconds", [-7_200_000, -12, 0, 0.4, 90_000, 63_000_000_000])
def test_clocks_that_differ_and_backlogs_show_as_they_are(
    latency: RecentLatency, milliseconds: float
) -> None:
    latency.note([one(milliseconds)], 1, NOW)
    assert latency.counts()["latency_ms_p50"] == pytest.approx(milliseconds, rel=0.01, abs=0.1)


def test_only_the_last_minute_counts(latency: RecentLatency, steady: Steady) -> None:
    latency.note([one(9_000)], 1, NOW)
    steady.seconds += SPAN_SECONDS - 1
    latency.note([one(100)], 1, NOW)
    assert latency.counts()["latency_ms_p99"] == pytest.approx(9_000, rel=0.01)
    steady.seconds += 1
    assert latency.counts()["latency_ms_p99"] == pytest.approx(100, rel=0.01)
    assert latency.counts()["latency_trades"] == 1
    steady.seconds += SPAN_SECONDS
    assert latency.counts() == {"merged_per_s": 0.0}


def test_the_memory_does_not_grow_with_trades_or_time(latency: RecentLatency, steady: Steady) -> None:
    chance = Random(2)
    for _ in range(5 * SPAN_SECONDS):
        steady.seconds += 1
        for _ in range(20):
            begin = NOW - round(math.exp(chance.uniform(0, 25)) * MS)
            latency.note([LiveTrades(begin, begin + 50 * MS, 64)], 64, NOW)
    assert len(latency._seconds) == SPAN_SECONDS
    assert max(len(second.latencies) for second in latency._seconds) < 2_700
    assert latency.counts()["merged_per_s"] == pytest.approx(1_280, rel=0.02)
