"""The same forecasts over candles of the past, each held against what came. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from candleflow.forecast.features import ClosedCandle
from candleflow.forecast.race import Forecast, forecasts
from candleflow.forecast.scores import Scored, Scores, scores


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What forecasting would have brought. ``raced`` is None where no forecast met its candle.

    ``spoke``: how many of the scored forecasts were each model's.
    """

    candles: int
    raced: Scores | None
    spoke: Counter[str]


def evaluate(candles: Sequence[ClosedCandle], size_us: int) -> Evaluation:
    """Race over ``candles``, complete and closed or quiet ones of windows of ``size_us``, oldest first.

    Nothing is known beforehand: the learners begin with the first candle, and each forecast is out of sample.
    """
    closes = {one.open_time: float(one.close) for one in candles}
    met = [one for one in forecasts(candles, size_us) if one.open_time in closes]
    found = [scored(one, closes[one.open_time]) for one in met]
    return Evaluation(len(candles), scores(found, size_us), Counter(one.model for one in met))


def scored(made: Forecast, actual: float) -> Scored:
    """A forecast beside the close that came."""
    return Scored(made.open_time, made.forecast, made.lower, made.upper, made.last_close, actual)
