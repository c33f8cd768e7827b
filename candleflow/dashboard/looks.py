"""The drawing options of the chart. Pure, without Plotly or Streamlit."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Kind(StrEnum):
    """How prices are drawn."""

    CANDLES = "Candles"
    BARS = "Bars"
    LINE = "Line"
    HEIKIN_ASHI = "Heikin-Ashi"


class Overlay(StrEnum):
    """An indicator drawn over the prices."""

    SMA = "SMA"
    EMA = "EMA"
    VWAP = "VWAP"
    BOLLINGER = "Bollinger"


class Pane(StrEnum):
    """An indicator in a pane of its own below the volume."""

    RSI = "RSI"
    MACD = "MACD"
    TAKER = "Taker buys"
    TRADES = "Trades"


PERIODS: Final[dict[str, int]] = {"SMA": 20, "EMA": 50, "VWAP": 20, "Bollinger": 20, "RSI": 14}
"""Default period of each indicator, in candles."""
PERIOD_LIMITS: Final = (2, 200)
MACD_PERIODS: Final = (12, 26, 9)
"""Periods of the fast average, the slow average and the signal line."""

_SETTLED: Final = 4
"""Warm-up of an exponential average, in periods: values before that weigh less than 2 % (exp(-4))."""


@dataclass(frozen=True, slots=True)
class Looks:
    """The viewer's drawing options. ``periods`` replaces defaults of ``PERIODS``."""

    kind: Kind = Kind.CANDLES
    overlays: tuple[Overlay, ...] = ()
    panes: tuple[Pane, ...] = ()
    periods: tuple[tuple[str, int], ...] = ()
    is_log: bool = False
    past_forecasts: bool = False

    def period(self, name: str) -> int:
        return dict(self.periods).get(name, PERIODS[name])

    @property
    def warm_up(self) -> int:
        """Return how many candles before the first one drawn the indicators need."""
        needs = {
            Overlay.SMA: self.period("SMA"),
            Overlay.EMA: _SETTLED * self.period("EMA"),
            Overlay.VWAP: self.period("VWAP"),
            Overlay.BOLLINGER: self.period("Bollinger"),
            Pane.RSI: _SETTLED * self.period("RSI"),
            Pane.MACD: _SETTLED * MACD_PERIODS[1],
        }
        chosen = [needs.get(one, 0) for one in (*self.overlays, *self.panes)]
        heikin_ashi = (
            10 if self.kind is Kind.HEIKIN_ASHI else 0
        )  # each open halves the weight of earlier ones: 0.1 %
        return max([heikin_ashi, *chosen])
