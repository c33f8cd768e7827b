"""Fit a straight line through repeated measurements, to see whether a value grows."""

from __future__ import annotations

import math
from collections.abc import Sequence


def slope(minutes: Sequence[float], values: Sequence[float]) -> tuple[float, float]:
    """Return the least-squares slope per hour and the half-width of its 95 % confidence interval."""
    count = len(minutes)
    middle, mean = sum(minutes) / count, sum(values) / count
    spread = sum((one - middle) ** 2 for one in minutes)
    found = sum((at - middle) * (one - mean) for at, one in zip(minutes, values, strict=True)) / spread
    left = sum((one - mean - found * (at - middle)) ** 2 for at, one in zip(minutes, values, strict=True))
    return found * 60, 1.96 * math.sqrt(left / max(count - 2, 1) / spread) * 60
