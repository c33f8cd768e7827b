"""The forecasting models: two simple baselines, and two linear regressions that learn from every candle.

A model forecasts the logarithmic return from the last close to the forecast close, in units of
``Seen.scale``. It starts untrained. It learns the actual return only after that candle has closed. No I/O.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

import numpy as np

from candleflow.forecast.features import NAMES

LAST_CLOSE: Final = "last close"
DRIFT: Final = "drift"
RETURNS: Final = "returns"
LINEAR: Final = "linear"

_DRIFT_WEIGHT: Final = 1 / 300
_FORGETTING: Final = 0.9995
"""Forgetting factor per candle: a candle's weight halves in 1,386 candles, nearly 2 h of 5 s candles."""
_RIDGE: Final = 50.0
"""Ridge strength, in candles that show every weight to be zero. Keeps weights small while data is scarce."""


class Model(Protocol):
    """A model that forecasts a return from features."""

    name: str

    def predict(self, values: Sequence[float]) -> float: ...

    def learn(self, values: Sequence[float], truth: float) -> None:
        """Learn from the features and ``truth``, the return that followed."""
        ...


class LastClose:
    """Forecasts no change: the best forecast of a random walk, and the baseline to beat."""

    name = LAST_CLOSE

    def predict(self, values: Sequence[float]) -> float:
        del values
        return 0.0

    def learn(self, values: Sequence[float], truth: float) -> None:
        """Do nothing: this model has no parameters."""


class Drift:
    """Forecasts the mean of recent returns, exponentially weighted over about 300 candles."""

    name = DRIFT

    def __init__(self) -> None:
        self._mean = 0.0

    def predict(self, values: Sequence[float]) -> float:
        del values
        return self._mean

    def learn(self, values: Sequence[float], truth: float) -> None:
        del values
        self._mean += _DRIFT_WEIGHT * (truth - self._mean)


class Linear:
    """Linear regression on chosen features, by recursive least squares with forgetting and a ridge penalty.

    With the gain g = P x / (f + x' P x): w += g (y - x' w), P = (P - g x' P) / f. Source: Haykin, Adaptive
    Filter Theory, chapter on recursive least squares.
    """

    def __init__(self, name: str, features: Sequence[str] = NAMES) -> None:
        self.name = name
        self._chosen = np.array([NAMES.index(one) for one in features])
        self._weights = np.zeros(len(features))
        self._spread = np.eye(len(features)) / _RIDGE

    def predict(self, values: Sequence[float]) -> float:
        return float(np.asarray(values)[self._chosen] @ self._weights)

    def learn(self, values: Sequence[float], truth: float) -> None:
        x = np.asarray(values)[self._chosen]
        reach = self._spread @ x
        gain = reach / (_FORGETTING + float(x @ reach))
        self._weights += gain * (truth - float(x @ self._weights))
        spread = (self._spread - np.outer(gain, reach)) / _FORGETTING
        # Without new information, forgetting would let P grow without limit. Cap it at its start value.
        excess = float(spread.diagonal().max()) * _RIDGE
        self._spread = spread / max(1.0, excess)


def all_models() -> tuple[Model, ...]:
    """Return untrained models, the simplest first: it is chosen among equally accurate ones."""
    returns = [name for name in NAMES if name.startswith("return")]
    return LastClose(), Drift(), Linear(RETURNS, returns), Linear(LINEAR)
