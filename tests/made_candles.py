"""Candles of generated markets with known statistics: autocorrelated returns, or a random walk."""

from __future__ import annotations

import math
import random
from decimal import Decimal

from candleflow.market.stored import StoredCandle
from candleflow.market.window import SECOND_US

SIZE_US = 5 * SECOND_US
BEGINS_AT = 1_700_000_000 * SECOND_US


def market(
    seed: int, count: int, *, autocorrelation: float = 0.0, first_price: float = 60_000
) -> list[StoredCandle]:
    """Make ``count`` candles in a row. Each return is ``autocorrelation`` times the one before plus noise."""
    chance = random.Random(seed)
    log, step, next_id = math.log(first_price), 0.0, 1
    candles = []
    for at in range(count):
        step = autocorrelation * step + chance.gauss(0, 2e-4)
        close = round(math.exp(log + step), 2)
        candles.append(candle(at, round(math.exp(log), 2), close, next_id, chance))
        log += step
        next_id = candles[-1].last_trade_id + 1
    return candles


def candle(at: int, opens: float, closes: float, first_id: int, chance: random.Random) -> StoredCandle:
    """Return the ``at``-th candle, of 1 to 50 trades."""
    first, last = Decimal(f"{opens:.2f}"), Decimal(f"{closes:.2f}")
    volume = Decimal(f"{chance.uniform(0.1, 5):.5f}")
    buys = Decimal(f"{chance.uniform(0, float(volume)):.5f}")
    count = chance.randint(1, 50)
    return StoredCandle(
        symbol="BTCUSDT",
        interval="5s",
        open_time=BEGINS_AT + at * SIZE_US,
        open=first,
        high=max(first, last),
        low=min(first, last),
        close=last,
        volume=volume,
        quote_volume=volume * (first + last) / 2,
        taker_buy_volume=buys,
        taker_buy_quote_volume=buys * (first + last) / 2,
        trade_count=count,
        first_trade_id=first_id,
        last_trade_id=first_id + count - 1,
        is_closed=True,
        is_complete=True,
        revision=0,
        source="trades",
        updated_at=BEGINS_AT + (at + 1) * SIZE_US,
    )
