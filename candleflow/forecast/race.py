"""Forecast one symbol, candle by candle. All models forecast; the one with the lowest recent error is used.

When a candle has closed, the next window has already begun. So the forecast is for the window after that one,
``AHEAD`` windows ahead, and is made seconds before that window begins. The state depends only on the candles
that were added: the same candles give the same forecasts, on any machine.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

from candleflow.forecast.features import Features, Seen
from candleflow.forecast.models import Model, all_models
from candleflow.market.stored import StoredCandle

AHEAD: Final = 2
"""How many windows after the last closed candle the forecast one is."""
COVERAGE: Final = 0.8
"""Target share of closes within the forecast interval."""
VERSION: Final = 1
"""Increase this whenever the same candles would give different forecasts."""

_WARM_UP: Final = 100
"""Candles that the models learn from before their errors are compared."""
_ERROR_WEIGHT: Final = 1 / 400
_STEP: Final = 0.05
_FIRST_WIDTH: Final = 1.8
"""1.28 standard deviations cover 80 % of a normal distribution; over two windows, sqrt(2) times that."""


class Forecast(NamedTuple):
    """A forecast of the close of the window that opens at ``open_time`` (microseconds).

    Prices in the quote asset, as floats. ``last_close``: the last known close when it was made.
    """

    open_time: int
    model: str
    forecast: float
    lower: float
    upper: float
    last_close: float


@dataclass(frozen=True, slots=True)
class _Pending:
    """A forecast whose candle has not closed yet."""

    seen: Seen
    returns: tuple[float, ...]
    centre: float
    width: float


class Width:
    """Half the width of the forecast interval, in units of ``Seen.scale``: grows at a miss, shrinks at a hit.

    Quantile tracking: q += step * (missed - (1 - coverage)). In the long run the interval has its target
    coverage, whatever the market does. Source: Angelopoulos, Candès and Tibshirani, "Conformal PID Control
    for Time Series Prediction" (2023), section 2; after Gibbs and Candès, "Adaptive Conformal Inference Under
    Distribution Shift" (2021).
    """

    def __init__(self) -> None:
        self.value = _FIRST_WIDTH

    def learn(self, error: float, width: float) -> None:
        """Adjust the width. ``error``: that of a forecast made with this ``width``, in the same unit."""
        missed = abs(error) > width
        self.value = max(0.0, self.value + _STEP * (missed - (1 - COVERAGE)))


class Race:
    """The models of one symbol. Memory is bounded: a dozen candles, two forecasts, a few weights."""

    def __init__(self, size_us: int) -> None:
        """``size_us``: the length of a window in microseconds."""
        self._size_us = size_us
        self._features = Features(size_us)
        self._models: tuple[Model, ...] = all_models()
        self._errors = [0.0] * len(self._models)
        self._learned = 0
        self._width = Width()
        self._pending: deque[_Pending] = deque(maxlen=AHEAD)

    def add(self, candle: StoredCandle) -> Forecast | None:
        """Learn from the next complete, closed candle, then forecast; None if there are too few candles yet.

        After a gap between candles the models keep what they learned, but forecasts start again only after
        enough consecutive candles.
        """
        if not self._features.follows(candle):
            self._pending.clear()
        seen = self._features.add(candle)
        self._learn(candle)
        return None if seen is None else self._forecast(seen)

    def _learn(self, candle: StoredCandle) -> None:
        if not self._pending or self._pending[0].seen.open_time + AHEAD * self._size_us != candle.open_time:
            return
        due = self._pending.popleft()
        truth = math.log(float(candle.close) / due.seen.close) / due.seen.scale
        self._learned += 1
        if self._learned > _WARM_UP:
            weight = max(_ERROR_WEIGHT, 1 / (self._learned - _WARM_UP))
            for at, predicted in enumerate(due.returns):
                self._errors[at] += weight * (abs(truth - predicted) - self._errors[at])
        self._width.learn(truth - due.centre, due.width)
        for model in self._models:
            model.learn(due.seen.values, truth)

    def _forecast(self, seen: Seen) -> Forecast:
        returns = tuple(model.predict(seen.values) for model in self._models)
        best = self._best()
        centre, width = returns[best], self._width.value
        self._pending.append(_Pending(seen, returns, centre, width))
        forecast, lower, upper = (
            seen.close * math.exp(one * seen.scale) for one in (centre, centre - width, centre + width)
        )
        open_time = seen.open_time + AHEAD * self._size_us
        return Forecast(open_time, self._models[best].name, forecast, lower, upper, seen.close)

    def _best(self) -> int:
        """Return the index of the model with the lowest recent mean absolute error; in a tie the simplest."""
        return min(range(len(self._models)), key=lambda at: self._errors[at])


def forecasts(candles: Iterable[StoredCandle], size_us: int) -> Iterator[Forecast]:
    """Yield every forecast that untrained models make over the candles, oldest first."""
    race = Race(size_us)
    for candle in candles:
        made = race.add(candle)
        if made is not None:
            yield made
