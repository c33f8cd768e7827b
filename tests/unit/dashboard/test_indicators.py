"""Indicators against slow reference implementations of their definitions."""

from __future__ import annotations

from decimal import Decimal
from itertools import pairwise
from statistics import fmean, pstdev

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from candleflow.dashboard import indicators
from tests.unit.dashboard.examples import candle

CLOSES = [100.0, 101.5, 101.0, 99.0, 98.5, 98.5, 103.0, 104.5, 104.0, 102.0, 101.0, 105.0]
PERIOD = 4


def values(series: pd.Series) -> list[float | None]:
    return [None if pd.isna(one) else round(float(one), 9) for one in series]


def expected(found: list[float | None]) -> list[float | None]:
    return [None if one is None else round(one, 9) for one in found]


def slow_ema(closes: list[float], weight: float, period: int) -> list[float | None]:
    found, average = [], closes[0]
    for at, close in enumerate(closes):
        average += weight * (close - average) if at else 0
        found.append(average if at >= period - 1 else None)
    return found


def test_sma_is_the_mean_of_the_last_values() -> None:
    means = [fmean(CLOSES[at - PERIOD + 1 : at + 1]) for at in range(PERIOD - 1, len(CLOSES))]
    assert values(indicators.sma(pd.Series(CLOSES), PERIOD)) == expected([*[None] * (PERIOD - 1), *means])


def test_ema_gives_the_newest_value_the_weight_two_over_period_plus_one() -> None:
    assert values(indicators.ema(pd.Series(CLOSES), PERIOD)) == expected(slow_ema(CLOSES, 2 / 5, PERIOD))


def test_bollinger_bands_are_two_population_deviations_around_the_average() -> None:
    bands = indicators.bollinger(pd.Series(CLOSES), PERIOD)
    last = CLOSES[-PERIOD:]
    assert bands.upper.iloc[-1] == pytest.approx(fmean(last) + 2 * pstdev(last))
    assert bands.lower.iloc[-1] == pytest.approx(fmean(last) - 2 * pstdev(last))
    assert bands.middle.iloc[-1] == pytest.approx(fmean(last))


def test_vwap_is_quote_volume_over_volume_and_missing_without_trades() -> None:
    candles = [
        candle(0, volume=Decimal(2), quote_volume=Decimal(200)),
        candle(1, volume=Decimal(0), quote_volume=Decimal(0)),
        candle(2, volume=Decimal(0), quote_volume=Decimal(0)),
        candle(3, volume=Decimal(6), quote_volume=Decimal(660)),
    ]
    assert values(indicators.vwap(indicators.table(candles), 2)) == [None, 100.0, None, 110.0]


def test_rsi_is_wilders() -> None:
    changes = [later - one for one, later in pairwise(CLOSES)]
    gains = slow_ema([max(one, 0.0) for one in changes], 1 / PERIOD, PERIOD)
    losses = slow_ema([max(-one, 0.0) for one in changes], 1 / PERIOD, PERIOD)
    wanted = [
        None if gain is None or loss is None else 100 - 100 / (1 + gain / loss)
        for gain, loss in zip(gains, losses, strict=True)
    ]
    assert values(indicators.rsi(pd.Series(CLOSES), PERIOD)) == expected([None, *wanted])


@given(st.lists(st.floats(1, 1e6), min_size=1, max_size=60))
def test_rsi_is_between_0_and_100(closes: list[float]) -> None:
    found = indicators.rsi(pd.Series(closes), 5).dropna()
    assert ((found >= -1e-9) & (found <= 100 + 1e-9)).all()


def test_rsi_is_50_if_the_price_does_not_move() -> None:
    assert indicators.rsi(pd.Series([7.0] * 20), 5).iloc[-1] == 50


def test_macd_is_the_fast_average_minus_the_slow_one() -> None:
    found = indicators.macd(pd.Series(CLOSES), 2, 4, 3)
    line = indicators.ema(pd.Series(CLOSES), 2) - indicators.ema(pd.Series(CLOSES), 4)
    assert values(found.line) == values(line)
    known = [float(one) for one in line.dropna()]
    assert values(found.signal)[-1] == expected(slow_ema(known, 2 / 4, 3))[-1]
    assert values(found.histogram) == values(found.line - found.signal)


def test_the_takers_share_is_in_percent() -> None:
    candles = [
        candle(0, volume=Decimal(4), taker_buy_volume=Decimal(1)),
        candle(1, volume=Decimal(0), taker_buy_volume=Decimal(0)),
    ]
    assert values(indicators.taker_share(indicators.table(candles))) == [25.0, None]


def test_heikin_ashi_candles_open_in_the_middle_of_the_one_before() -> None:
    table = pd.DataFrame(
        {"open": [10.0, 12.0], "high": [14.0, 13.0], "low": [9.0, 8.0], "close": [12.0, 9.0]}
    )
    found = indicators.heikin_ashi(table)
    assert found["close"].to_list() == [11.25, 10.5]
    assert found["open"].to_list() == [11.0, 11.125]
    assert found["high"].to_list() == [14.0, 13.0]
    assert found["low"].to_list() == [9.0, 8.0]
