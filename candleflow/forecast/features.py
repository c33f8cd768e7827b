"""Compute the features that a forecast is made from. No I/O.

The input is consecutive complete, closed candles of the finest windows. Windows without trades are flat
candles at the previous close. All features are scaled to the order of one, so that the same model parameters
suit every symbol: returns are divided by their recent volatility.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from candleflow.market.stored import StoredCandle
from candleflow.market.window import DAY_US

NAMES: Final = (
    "one", "return 1", "return 2", "return 3", "return 6", "return 12", "volatility", "taker imbalance",
    "VWAP distance", "trade count", "sine of the day", "cosine of the day",
)  # fmt: skip
LOOK_BACK: Final = 12
"""How many consecutive earlier candles are needed before there are features."""

_LIMIT: Final = 6.0
"""Features are clipped to this absolute value, so that one extreme candle can't distort a model."""
_SLOW: Final = 1 / 120
_FAST: Final = 1 / 12
"""Weights of the newest candle in the slow averages (10 min of 5 s candles) and the fast one (1 min)."""


@dataclass(frozen=True, slots=True)
class Seen:
    """The features at the close of a candle. ``values``: in the order of ``NAMES``.

    ``scale``: the recent standard deviation of one candle's logarithmic return, the unit of the returns.
    """

    open_time: int
    close: float
    scale: float
    values: tuple[float, ...]


class Features:
    """Computes the features of one symbol, candle by candle."""

    def __init__(self, size_us: int) -> None:
        self._size_us = size_us
        self._recent: deque[tuple[float, float, float]] = deque(maxlen=LOOK_BACK + 1)
        """Of each recent candle: logarithm of the close, volume, quote volume."""
        self._last_open: int | None = None
        self._slow = self._fast = self._count = 0.0
        self._averaged = 0

    def follows(self, candle: StoredCandle) -> bool:
        """Whether the candle directly follows the last one that was added."""
        return self._last_open is not None and candle.open_time == self._last_open + self._size_us

    def add(self, candle: StoredCandle) -> Seen | None:
        """Add a candle; return its features, or None until there are enough consecutive candles.

        After a gap the averages are kept, but the returns start again: a return across a gap isn't that of
        one candle.
        """
        if not self.follows(candle):
            self._recent.clear()
        self._last_open = candle.open_time
        close = float(candle.close)
        if self._recent:
            self._average((math.log(close) - self._recent[-1][0]) ** 2, candle.trade_count)
        self._recent.append((math.log(close), float(candle.volume), float(candle.quote_volume)))
        if len(self._recent) <= LOOK_BACK or self._slow <= 0:
            return None
        scale = math.sqrt(self._slow)
        values = tuple(max(-_LIMIT, min(_LIMIT, one)) for one in self._values(candle, close, scale))
        return Seen(candle.open_time, close, scale, values)

    def _average(self, squared: float, trade_count: int) -> None:
        """Update the averages: plain means at first, exponentially weighted once there are enough candles."""
        self._averaged += 1
        slow, fast = max(_SLOW, 1 / self._averaged), max(_FAST, 1 / self._averaged)
        self._slow += slow * (squared - self._slow)
        self._fast += fast * (squared - self._fast)
        self._count += slow * (trade_count - self._count)

    def _values(self, candle: StoredCandle, close: float, scale: float) -> Iterator[float]:
        logs = [log for log, _, _ in self._recent]
        volume = float(candle.volume)
        angle = 2 * math.pi * (candle.open_time % DAY_US) / DAY_US
        yield 1.0
        yield from ((logs[-at] - logs[-at - 1]) / scale for at in (1, 2, 3))
        yield from ((logs[-1] - logs[-at - 1]) / (scale * math.sqrt(at)) for at in (6, 12))
        yield math.sqrt(self._fast / self._slow) - 1
        yield 2 * float(candle.taker_buy_volume) / volume - 1 if volume else 0.0
        yield self._vwap_distance(close) / scale
        yield math.log((candle.trade_count + 1) / (self._count + 1))
        yield math.sin(angle)
        yield math.cos(angle)

    def _vwap_distance(self, close: float) -> float:
        """Return log(close / VWAP) over the look-back."""
        parts = list(self._recent)[1:]
        volume = sum(one for _, one, _ in parts)
        quote = sum(one for _, _, one in parts)
        return math.log(close * volume / quote) if volume > 0 and quote > 0 else 0.0
