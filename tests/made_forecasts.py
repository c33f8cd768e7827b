"""A forecast as the page takes it."""

from __future__ import annotations

from typing import NamedTuple


class MadeForecast(NamedTuple):
    """Of the candle that opens at ``open_time`` (microseconds)."""

    open_time: int
    forecast: float
    lower: float
    upper: float
