"""Score forecasts against the simplest baseline: that the price stays at the last close. No I/O.

All scores are out of sample: each forecast was made before its window began. Errors are in the quote asset.
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
"""How many of the newest scored forecasts the skill is computed from: nearly 3 h of 5 s candles."""
FEWEST: Final = 100
"""Minimum number of scored forecasts for a statement about skill."""
FEWEST_DIRECTIONS: Final = 50
"""Minimum number for a statement about the direction: one coin in 32 is right five times of five."""
NO_SKILL: Final = "no better than the last price"

_Z: Final = 1.96
"""Standard normal quantile for a 95 % confidence interval."""


class Scored(NamedTuple):
    """A forecast and the actual close; prices in the quote asset, ``open_time`` in microseconds."""

    open_time: int
    forecast: float
    lower: float
    upper: float
    last_close: float
    actual: float


@dataclass(frozen=True, slots=True)
class Share:
    """A share of ``count``, with its 95 % Wilson interval."""

    value: float
    lower: float
    upper: float
    count: int


@dataclass(frozen=True, slots=True)
class Scores:
    """The scores of a series of forecasts.

    ``skill`` = 1 - MAE / MAE of the last close, with its 95 % interval; 0.01 is an error 1 % smaller.
    ``hits``: the share of right directions among forecasts with a direction; None if there were none.
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
        """Whether the skill is significant: its whole confidence interval is above 0."""
        return self.count >= FEWEST and self.skill_lower > 0

    @property
    def verdict(self) -> str:
        """Describe the skill in words."""
        if self.count < FEWEST:
            return f"too few to tell: {self.count} scored, {FEWEST} are needed; until then {NO_SKILL}"
        if not self.has_skill:
            return NO_SKILL
        between = f"{percent(self.skill_lower)} to {percent(self.skill_upper)}"
        return f"better than the last price by {percent(self.skill)} ({between})"

    @property
    def is_covered(self) -> bool:
        """Whether the target coverage is within the confidence interval of the actual coverage."""
        return self.coverage.lower <= COVERAGE <= self.coverage.upper

    @property
    def coverage_verdict(self) -> str:
        """Describe the interval's coverage compared with its target."""
        if self.is_covered:
            return f"on target ({percent(COVERAGE, 0)})"
        side = "below" if self.coverage.value < COVERAGE else "above"
        return f"{side} the target of {percent(COVERAGE, 0)}"

    @property
    def hits_verdict(self) -> str:
        """Compare the directions with a coin toss."""
        if self.hits is None:
            return "no direction was forecast"
        if self.hits.count < FEWEST_DIRECTIONS:
            return f"too few to tell: {self.hits.count}, {FEWEST_DIRECTIONS} are needed"
        return "better than a coin" if self.hits.lower > 0.5 else "no better than a coin"


def scored(kept: Iterable[KeptForecast]) -> list[Scored]:
    """Return the stored forecasts whose candles have closed."""
    return [
        Scored(one.open_time, one.forecast, one.lower, one.upper, float(one.last_close), float(one.actual))
        for one in kept
        if one.actual is not None
    ]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The result of ``evaluate``. ``scores`` is None if no forecast could be scored.

    ``by_model``: the number of scored forecasts by model.
    """

    candles: int
    scores: Scores | None
    by_model: Counter[str]


def evaluate(candles: Sequence[StoredCandle], size_us: int) -> Evaluation:
    """Forecast over ``candles`` of ``size_us`` microseconds, oldest first, and score the forecasts.

    The models start untrained at the first candle, and each forecast uses earlier candles only.
    """
    closes = {one.open_time: float(one.close) for one in candles}
    met = [one for one in forecasts(candles, size_us) if one.open_time in closes]
    found = [
        Scored(one.open_time, one.forecast, one.lower, one.upper, one.last_close, closes[one.open_time])
        for one in met
    ]
    return Evaluation(len(candles), scores(found, size_us), Counter(one.model for one in met))


def percent(share: float, places: int = 1) -> str:
    """Format a share in percent: ``2.1 %``."""
    return f"{100 * share:.{places}f} %"


def scores(found: Sequence[Scored], size_us: int) -> Scores | None:
    """Compute the scores of forecasts in order of time, for windows of ``size_us``; None if there are none.

    The skill's confidence interval is that of a ratio of means, by the delta method. Errors of overlapping
    windows, or of one volatile hour, are not independent; so it uses the variance of Newey and West (1987).
    With the same variance of the loss differential this is the test of Diebold and Mariano (1995).
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
    """Return a share with its 95 % interval. Source: Wilson (1927), score interval of a binomial share."""
    share, squared = successes / count, _Z**2 / count
    middle = (share + squared / 2) / (1 + squared)
    reach = _Z * math.sqrt(share * (1 - share) / count + squared / (4 * count)) / (1 + squared)
    return Share(share, middle - reach, middle + reach, count)


def _hits(found: Sequence[Scored], size_us: int) -> Share | None:
    """Return the share of right directions, of every second window: adjacent forecasts share a candle."""
    pairs = [
        (one.forecast - one.last_close) * (one.actual - one.last_close)
        for one in found
        if one.open_time // size_us % AHEAD == 0
    ]
    hits = [one > 0 for one in pairs if one != 0]
    return wilson(sum(hits), len(hits)) if hits else None


def _standard_error(values: npt.NDArray[np.float64]) -> float:
    """Return the standard error of the mean of correlated values, by Newey and West.

    With Bartlett weights, and 4 (n/100)^(2/9) lags more than the forecasts overlap.
    """
    count = len(values)
    centred = values - values.mean()
    lags = min(count - 1, AHEAD - 1 + int(4 * (count / 100) ** (2 / 9)))
    variance = float(centred @ centred)
    for lag in range(1, lags + 1):
        variance += 2 * (1 - lag / (lags + 1)) * float(centred[lag:] @ centred[:-lag])
    return math.sqrt(max(0.0, variance)) / count
