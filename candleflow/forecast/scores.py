"""How good forecasts were, held against the plainest of all: that the price stays where it is. Pure.

All of it is out of sample, as each forecast was made before its window began. Errors are in the quote asset.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from candleflow.forecast.race import AHEAD, COVERAGE, forecasts
from candleflow.market.stored import StoredCandle
from candleflow.store.forecasts import KeptForecast

JUDGED: Final = 2_000
"""A symbol's skill is that of its newest 2,000 scored forecasts: nearly three hours of 5 s."""
FEWEST: Final = 100
"""Of fewer scored forecasts nothing is said about skill."""
FEWEST_DIRECTIONS: Final = 50
"""Of fewer nothing is said about the direction: five of five are right for one coin in 32."""
NO_SKILL: Final = "no better than the last price"

_Z: Final = 1.96
"""Both bounds of an interval of confidence leave out 2.5 % each."""


class Scored(NamedTuple):
    """A forecast and what came; prices in the quote asset, ``open_time`` in microseconds."""

    open_time: int
    forecast: float
    lower: float
    upper: float
    last_close: float
    actual: float


@dataclass(frozen=True, slots=True)
class Share:
    """A share of ``count``, with Wilson's interval of 95 %."""

    value: float
    lower: float
    upper: float
    count: int


@dataclass(frozen=True, slots=True)
class Scores:
    """``skill`` = 1 - MAE / MAE of the last close: 0.01 is an error one percent less; with its 95 % interval.

    ``hits``: how often the direction was right, where there was one; None where there never was.
    """

    count: int
    mae: float
    mae_last: float
    rmse: float
    rmse_last: float
    skill: float
    skill_lower: float
    skill_upper: float
    coverage: Share
    hits: Share | None

    @property
    def has_skill(self) -> bool:
        """Whether there is skill beyond chance: then the whole interval is above zero."""
        return self.count >= FEWEST and self.skill_lower > 0

    @property
    def verdict(self) -> str:
        """The truth in words."""
        if self.count < FEWEST:
            return f"too few to tell: {self.count} scored, {FEWEST} are needed; until then {NO_SKILL}"
        if not self.has_skill:
            return NO_SKILL
        between = f"{percent(self.skill_lower)} to {percent(self.skill_upper)}"
        return f"better than the last price by {percent(self.skill)} ({between})"

    @property
    def is_covered(self) -> bool:
        """Whether the interval held as many closes as it is made for, but for chance."""
        return self.coverage.lower <= COVERAGE <= self.coverage.upper

    @property
    def coverage_verdict(self) -> str:
        """How the interval's coverage stands to the 80 % that it is made for."""
        if self.is_covered:
            return f"as it should be ({percent(COVERAGE, 0)})"
        side = "below" if self.coverage.value < COVERAGE else "above"
        return f"{side} the {percent(COVERAGE, 0)} it is made for"

    @property
    def hits_verdict(self) -> str:
        """The direction against a coin."""
        if self.hits is None:
            return "it named no direction"
        if self.hits.count < FEWEST_DIRECTIONS:
            return f"too few to tell: {self.hits.count}, {FEWEST_DIRECTIONS} are needed"
        return "better than a coin" if self.hits.lower > 0.5 else "no better than a coin"


def scored(kept: Iterable[KeptForecast]) -> list[Scored]:
    """The stored forecasts whose candles have closed."""
    return [
        Scored(one.open_time, one.forecast, one.lower, one.upper, float(one.last_close), float(one.actual))
        for one in kept
        if one.actual is not None
    ]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What forecasting would have brought. ``scores`` is None where no forecast met its candle.

    ``by_model``: how many of the scored forecasts were each model's.
    """

    candles: int
    scores: Scores | None
    by_model: Counter[str]


def evaluate(candles: Sequence[StoredCandle], size_us: int) -> Evaluation:
    """Race over ``candles``, complete and closed or quiet ones of windows of ``size_us``, oldest first.

    Nothing is known beforehand: the learners begin with the first candle, and each forecast is out of sample.
    """
    closes = {one.open_time: float(one.close) for one in candles}
    met = [one for one in forecasts(candles, size_us) if one.open_time in closes]
    found = [
        Scored(one.open_time, one.forecast, one.lower, one.upper, one.last_close, closes[one.open_time])
        for one in met
    ]
    return Evaluation(len(candles), scores(found, size_us), Counter(one.model for one in met))


def percent(share: float, places: int = 1) -> str:
    """A share in percent: ``2.1 %``."""
    return f"{100 * share:.{places}f} %"


def scores(found: Sequence[Scored], size_us: int) -> Scores | None:
    """The scores of forecasts in order of time, for windows of ``size_us``; None of none.

    The interval of the skill is that of a ratio of means by the delta method, with the variance of Newey and
    West (1987): errors of windows that overlap, or of one volatile hour, are not independent. With the same
    variance of the loss differential it is the test of Diebold and Mariano (1995).
    """
    if not found:
        return None
    table = np.array(found, dtype=np.float64)
    forecast, lower, upper, last, actual = table[:, 1:].T
    errors, plain = np.abs(actual - forecast), np.abs(actual - last)
    mae, mae_last = float(errors.mean()), float(plain.mean())
    skill = 1 - mae / mae_last if mae_last > 0 else 0.0
    spread = _Z * _standard_error(plain - errors - skill * plain) / mae_last if mae_last > 0 else 0.0
    return Scores(
        count=len(found),
        mae=mae,
        mae_last=mae_last,
        rmse=math.sqrt(float((errors**2).mean())),
        rmse_last=math.sqrt(float((plain**2).mean())),
        skill=skill,
        skill_lower=skill - spread,
        skill_upper=skill + spread,
        coverage=wilson(int(((lower <= actual) & (actual <= upper)).sum()), len(found)),
        hits=_hits(found, size_us),
    )


def wilson(successes: int, count: int) -> Share:
    """A share with its 95 % interval. Source: Wilson (1927), the score interval of a binomial share."""
    share, squared = successes / count, _Z**2 / count
    middle = (share + squared / 2) / (1 + squared)
    reach = _Z * math.sqrt(share * (1 - share) / count + squared / (4 * count)) / (1 + squared)
    return Share(share, middle - reach, middle + reach, count)


def _hits(found: Sequence[Scored], size_us: int) -> Share | None:
    """The direction's hits, of each second window alone: two in a row share a candle, and a coin's don't."""
    pairs = [
        (one.forecast - one.last_close) * (one.actual - one.last_close)
        for one in found
        if one.open_time // size_us % AHEAD == 0
    ]
    told = [one > 0 for one in pairs if one != 0]
    return wilson(sum(told), len(told)) if told else None


def _standard_error(values: npt.NDArray[np.float64]) -> float:
    """Of the mean of correlated values, by Newey and West: weights of Bartlett's, 4 (n/100)^(2/9) lags more
    than the forecasts overlap."""
    count = len(values)
    centred = values - values.mean()
    lags = min(count - 1, AHEAD - 1 + int(4 * (count / 100) ** (2 / 9)))
    variance = float(centred @ centred)
    for lag in range(1, lags + 1):
        variance += 2 * (1 - lag / (lags + 1)) * float(centred[lag:] @ centred[:-lag])
    return math.sqrt(max(0.0, variance)) / count
