"""How the viewer wants the candles drawn. Pure, and nothing of Plotly or Streamlit."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Kind(StrEnum):
    """How a price is drawn."""

    CANDLES = "Candles"
    BARS = "Bars"
    LINE = "Line"
    HEIKIN_ASHI = "Heikin-Ashi"


class Overlay(StrEnum):
    """A line over the prices."""

    SMA = "SMA"
    EMA = "EMA"
    VWAP = "VWAP"
    BOLLINGER = "Bollinger"


class Pane(StrEnum):
    """A chart of its own below the volume."""

    RSI = "RSI"
    MACD = "MACD"
    TAKER = "Taker buys"
    TRADES = "Trades"


PERIODS: Final[dict[str, int]] = {"SMA": 20, "EMA": 50, "VWAP": 20, "Bollinger": 20, "RSI": 14}
"""How many candles each looks back over, unless the viewer says otherwise."""
PERIOD_LIMITS: Final = (2, 200)
MACD_PERIODS: Final = (12, 26, 9)
"""The fast and the slow average, and the signal's."""

_SETTLED: Final = 4
"""An exponential average forgets: what came so many periods before weighs less than 2 % (exp(-4))."""


@dataclass(frozen=True, slots=True)
class Looks:
    """The viewer's choice. ``periods`` has those of ``PERIODS`` that differ."""

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
        """How many candles before the first that is drawn its lines need to be right."""
        needs = {
            Overlay.SMA: self.period("SMA"),
            Overlay.EMA: _SETTLED * self.period("EMA"),
            Overlay.VWAP: self.period("VWAP"),
            Overlay.BOLLINGER: self.period("Bollinger"),
            Pane.RSI: _SETTLED * self.period("RSI"),
            Pane.MACD: _SETTLED * MACD_PERIODS[1],
        }
        chosen = [needs.get(one, 0) for one in (*self.overlays, *self.panes)]
        heikin_ashi = 10 if self.kind is Kind.HEIKIN_ASHI else 0  # each halves what it inherits: 0.1 %
        return max([heikin_ashi, *chosen])
