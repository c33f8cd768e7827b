"""A symbol's last day as a small line, and how its prices are written. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Final

from candleflow.dashboard import words
from candleflow.dashboard.source import Sparkline
from candleflow.market.window import SECOND_US

SLOT_SECONDS: Final = 900
"""Of a day that makes 96 slots, which a line 72 pixels wide shows all there is of."""
_LETTERS: Final = "0123456789abcdefghijklmnopqrstuvwxyz"


def sparkline(open_times: Sequence[int], first_open: Decimal, closes: Sequence[Decimal]) -> Sparkline:
    """The line from the first open over each close, oldest first and at least one.

    A quarter of an hour without a candle has the price before it, as nothing was traded, or nothing is known.
    """
    slot_us = SLOT_SECONDS * SECOND_US
    prices = [first_open, closes[0]]
    for before, at, close in zip(open_times, open_times[1:], closes[1:], strict=False):
        prices += [prices[-1]] * ((at - before) // slot_us - 1)
        prices.append(close)
    return Sparkline(words.price_places(prices), _heights(prices))


def _heights(prices: Sequence[Decimal]) -> str:
    lowest, highest = min(prices), max(prices)
    if lowest == highest:
        return _LETTERS[len(_LETTERS) // 2] * len(prices)
    scale = (len(_LETTERS) - 1) / float(highest - lowest)
    return "".join(_LETTERS[round(float(price - lowest) * scale)] for price in prices)
