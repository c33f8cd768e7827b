"""Decode partial aggregates from the text that is sent to PostgreSQL."""

from __future__ import annotations

import csv

from candleflow.market.partial import Partial


def decode(text: str) -> Partial:
    """Reverse ``market.partial.encode``; the set of trade ids is always filled in."""
    row = text[1:-1].replace('\\"', '"').replace("\\\\", "\\")[1:-1]
    (values,) = csv.reader([row], escapechar="\\", doublequote=False)
    open_time, last_trade_time, trade_count, first_id, last_id = map(int, values[1:6])
    ids = values[6] or f"{{[{first_id},{last_id + 1})}}"
    open_, high, low, close, *sums = values[7:]
    volume, quote_volume, taker_volume, taker_quote_volume = sums
    return Partial(
        values[0], open_time, last_trade_time, trade_count, first_id, last_id, ids,
        open_, high, low, close, volume, quote_volume, taker_volume, taker_quote_volume,
    )  # fmt: skip
