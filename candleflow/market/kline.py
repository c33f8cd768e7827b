"""The exchange's own candle, as its REST and its archive publish it."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal


@dataclass(frozen=True, slots=True)
class Kline:
    """The exchange's own candle; times in microseconds, volumes in the base asset, decimals as published.

    ``close_time`` is the last microsecond or millisecond that belongs to it, as the exchange gave it.
    """

    symbol: str
    interval: str
    open_time: int
    close_time: int
    open: Decimal
    high: Decimal
    low: Decimal
    close: Decimal
    volume: Decimal
    quote_volume: Decimal
    trade_count: int
    taker_buy_volume: Decimal
    taker_buy_quote_volume: Decimal
