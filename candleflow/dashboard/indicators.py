"""Technical indicators over candles: moving averages, bands, oscillators. Pure.

The functions take and return pandas Series over the candles, oldest first. Values are doubles: they are
drawn, not stored. A value with too few candles before it is NaN.

Sources: J. Welles Wilder, New Concepts in Technical Trading Systems (1978), for RSI; John Bollinger,
Bollinger on Bollinger Bands (2001); Gerald Appel, Technical Analysis (2005), for MACD.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import pandas as pd

from candleflow.market.stored import StoredCandle


class Bands(NamedTuple):
    upper: pd.Series
    middle: pd.Series
    lower: pd.Series


class Macd(NamedTuple):
    line: pd.Series
    signal: pd.Series
    histogram: pd.Series


def table(candles: Sequence[StoredCandle]) -> pd.DataFrame:
    """Return the candles as a table: one row each, columns of doubles."""
    names = (
        "open", "high", "low", "close", "volume", "quote_volume", "taker_buy_volume", "trade_count",
    )  # fmt: skip
    return pd.DataFrame({name: [float(getattr(one, name)) for one in candles] for name in names})


def sma(values: pd.Series, period: int) -> pd.Series:
    """Return the simple moving average."""
    return values.rolling(period).mean()


def ema(values: pd.Series, period: int) -> pd.Series:
    """Return the exponential moving average; the newest value's weight is 2 / (period + 1)."""
    return values.ewm(span=period, adjust=False, min_periods=period).mean()


def vwap(candles: pd.DataFrame, period: int) -> pd.Series:
    """Return the volume-weighted average price over the last ``period`` candles.

    Quote volume divided by volume is the exact average; many charts approximate it by each candle's typical
    price.
    """
    volume = candles["volume"].rolling(period).sum()
    return candles["quote_volume"].rolling(period).sum() / volume.where(volume > 0)


def bollinger(values: pd.Series, period: int, deviations: float = 2.0) -> Bands:
    """Return the moving average, and bands ``deviations`` population standard deviations around it."""
    middle = sma(values, period)
    spread = deviations * values.rolling(period).std(ddof=0)
    return Bands(middle + spread, middle, middle - spread)


def rsi(values: pd.Series, period: int) -> pd.Series:
    """Return Wilder's relative strength index, 0 to 100; 50 if the price did not move."""
    change = values.diff()
    gain = change.clip(lower=0).ewm(alpha=1 / period, adjust=False, min_periods=period).mean()
    loss = (-change.clip(upper=0)).ewm(alpha=1 / period, adjust=False, min_periods=period).mean()
    moved = gain + loss
    return (100 * gain / moved.where(moved > 0)).mask(moved == 0, 50.0)


def macd(values: pd.Series, fast: int, slow: int, signal: int) -> Macd:
    """Return the MACD line (fast EMA minus slow EMA), its EMA as signal line, and their difference."""
    line = ema(values, fast) - ema(values, slow)
    average = line.ewm(span=signal, adjust=False, min_periods=signal).mean()
    return Macd(line, average, line - average)


def taker_share(candles: pd.DataFrame) -> pd.Series:
    """Return the takers' buy volume in percent of the volume; NaN if nothing was traded."""
    volume = candles["volume"]
    return 100 * candles["taker_buy_volume"] / volume.where(volume > 0)


def heikin_ashi(candles: pd.DataFrame) -> pd.DataFrame:
    """Return Heikin-Ashi candles: each opens at the middle of the previous one's open and close."""
    close = (candles["open"] + candles["high"] + candles["low"] + candles["close"]) / 4
    opens: list[float] = []
    for own_open, own_close in zip(candles["open"], candles["close"], strict=True):
        before = len(opens) - 1
        opens.append((opens[before] + float(close.iloc[before])) / 2 if opens else (own_open + own_close) / 2)
    found = pd.DataFrame({"open": opens, "close": close.to_list()})
    found["high"] = pd.concat([candles["high"].reset_index(drop=True), found], axis=1).max(axis=1)
    found["low"] = pd.concat([candles["low"].reset_index(drop=True), found[["open", "close"]]], axis=1).min(
        axis=1
    )
    return found[["open", "high", "low", "close"]]
