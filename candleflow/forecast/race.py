"""The forecasts of one symbol, candle by candle: the models race, and the best of late speaks.

When a candle has closed complete, the window after it has begun already. So the forecast is of the close of
the window after that, ``AHEAD`` windows on, and can be made seconds before it begins. State is a pure
function of the candles that were added: the same candles give the same forecasts, on any machine.
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
"""Windows from the last closed candle to the one that is forecast."""
COVERAGE: Final = 0.8
"""How many of a hundred closes the interval is to hold: 80."""
VERSION: Final = 1
"""Goes up whenever the same candles would give other forecasts."""

_WARM_UP: Final = 100
"""Candles that a model learns from before its errors count."""
_ERROR_WEIGHT: Final = 1 / 400
_STEP: Final = 0.05
_FIRST_WIDTH: Final = 1.8
"""1.28 standard deviations of a normal variable hold 80 %, and two windows vary by the root of two more."""


class Forecast(NamedTuple):
    """Of the close of the window that opens at ``open_time`` (microseconds), made from candles before it.

    Prices in the quote asset, as floats: a forecast isn't exact. ``last_close``: the close that was known.
    """

    open_time: int
    model: str
    forecast: float
    lower: float
    upper: float
    last_close: float


@dataclass(frozen=True, slots=True)
class _Pending:
    """A forecast whose truth is yet to come."""

    seen: Seen
    returns: tuple[float, ...]
    centre: float
    width: float


class Width:
    """Half the width of the interval, in units of the scale: wider after each miss, narrower after each hit.

    Quantile tracking: q += step * (missed - (1 - coverage)). Whatever the market does, in the long run the
    interval misses as often as it should. Source: Angelopoulos, Candès and Tibshirani, "Conformal PID Control
    for Time Series Prediction" (2023), section 2; after Gibbs and Candès, "Adaptive Conformal Inference Under
    Distribution Shift" (2021).
    """

    def __init__(self) -> None:
        self.value = _FIRST_WIDTH

    def learn(self, error: float, width: float) -> None:
        """``error``: of a forecast that was made with this ``width``, in the same units."""
        missed = abs(error) > width
        self.value = max(0.0, self.value + _STEP * (missed - (1 - COVERAGE)))


class Race:
    """All models of one symbol. Memory is bounded: a dozen candles, two forecasts, a few weights."""

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
        """Learn from the next complete closed candle, then forecast; None while too little is known.

        A candle that doesn't follow the one before breaks the chain: what was learned stays, but forecasts
        begin again only when there are enough candles without a break.
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
        """The model with the least mean absolute error of late, out of sample; of equals the simplest."""
        return min(range(len(self._models)), key=lambda at: self._errors[at])


def forecasts(candles: Iterable[StoredCandle], size_us: int) -> Iterator[Forecast]:
    """Every forecast that a fresh race makes of the candles, oldest first."""
    race = Race(size_us)
    for candle in candles:
        made = race.add(candle)
        if made is not None:
            yield made
