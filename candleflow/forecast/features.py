"""What a forecast may look at: complete, closed candles that follow each other without a break, and no more.

They are of the finest windows, quiet ones (flat at the close before) among them.
All features are of the order of one, so that one learner serves every symbol: returns are measured in their
own recent volatility. Pure: candles in, numbers out.
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
"""Candles without a break that are needed before there are features."""

_LIMIT: Final = 6.0
"""Features are clipped to this many of their units: one freak candle must not upset a learner."""
_SLOW: Final = 1 / 120
_FAST: Final = 1 / 12
"""The weight of the newest candle in the slow averages (ten minutes of 5 s) and the fast one."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What is known when a candle has closed. ``values`` are the features, as ``NAMES`` calls them.

    ``scale``: the standard deviation of one candle's logarithmic return, which the features are measured in.
    """

    open_time: int
    close: float
    scale: float
    values: tuple[float, ...]


class Features:
    """The features of one symbol, candle by candle."""

    def __init__(self, size_us: int) -> None:
        self._size_us = size_us
        self._recent: deque[tuple[float, float, float]] = deque(maxlen=LOOK_BACK + 1)
        """Logarithm of the close, volume, quote volume."""
        self._last_open: int | None = None
        self._slow = self._fast = self._count = 0.0
        self._averaged = 0

    def follows(self, candle: StoredCandle) -> bool:
        """Whether the candle is the one after the last that was added."""
        return self._last_open is not None and candle.open_time == self._last_open + self._size_us

    def add(self, candle: StoredCandle) -> Seen | None:
        """What is known now; None until there are enough candles without a break before this one.

        The averages outlast a break, the returns do not: a return across a hole isn't one candle's.
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
        """Plain means at first, that forget as soon as there is enough to forget."""
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
        """How far the close is above the volume-weighted mean price of the look-back, as a logarithm."""
        parts = list(self._recent)[1:]
        volume = sum(one for _, one, _ in parts)
        quote = sum(one for _, _, one in parts)
        return math.log(close * volume / quote) if volume > 0 and quote > 0 else 0.0
