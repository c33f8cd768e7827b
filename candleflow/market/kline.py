"""The exchange's own candle, as its REST API and its archive publish it."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal


@dataclass(frozen=True, slots=True)
class Kline:
    """A kline. Times are microseconds since the epoch, volumes in the base asset, decimals as published.

    ``close_time`` is the kline's last millisecond or microsecond, as the exchange sent it.
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
