"""Partial candles read back from the text in which the store takes them."""

from __future__ import annotations

import csv

from candleflow.market.partial import Partial


def decode(text: str) -> Partial:
    """What ``market.partial.encode`` was given, but that the set of ids is always written out."""
    row = text[1:-1].replace('\\"', '"').replace("\\\\", "\\")[1:-1]
    (values,) = csv.reader([row], escapechar="\\", doublequote=False)
    symbol, *numbers = values[:6]
    numbers = [int(one) for one in numbers]
    ids = values[6] or f"{{[{numbers[3]},{numbers[4] + 1})}}"
    return Partial(symbol, *numbers, ids, *values[7:])
