"""The models that race: two that know nothing, and two that learn with every candle.

A model forecasts the logarithmic return from the last close to the close it is asked for, in units of
``Seen.scale``. It starts from nothing, and is told the truth only when that candle has closed. Pure.
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
"""Weight of each candle against the one after it: half after 1,386 candles, nearly two hours of 5 s."""
_RIDGE: Final = 50.0
"""Strength of the ridge, in candles that show every weight to be zero: little data says little."""


class Model(Protocol):
    """One that forecasts a return from the features."""

    name: str

    def predict(self, values: Sequence[float]) -> float: ...

    def learn(self, values: Sequence[float], truth: float) -> None:
        """``truth``: the return that followed on these features."""
        ...


class LastClose:
    """No change: the best forecast of a random walk, and the one to beat."""

    name = LAST_CLOSE

    def predict(self, values: Sequence[float]) -> float:
        del values
        return 0.0

    def learn(self, values: Sequence[float], truth: float) -> None:
        """There is nothing to learn."""


class Drift:
    """The recent mean of the returns, exponentially weighted over some 300 candles."""

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
    """A linear regression on some of the features, by recursive least squares with forgetting and a ridge.

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
        # Forgetting without news would let it grow for ever: never more is unknown than at the start.
        excess = float(spread.diagonal().max()) * _RIDGE
        self._spread = spread / max(1.0, excess)


def all_models() -> tuple[Model, ...]:
    """A fresh field; the simplest comes first, and wins where several are as good."""
    returns = [name for name in NAMES if name.startswith("return")]
    return LastClose(), Drift(), Linear(RETURNS, returns), Linear(LINEAR)
