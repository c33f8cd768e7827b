"""Plain trades for tests: one a second from midnight on, with consecutive ids."""

from __future__ import annotations

from decimal import Decimal

from candleflow.market.trade import Trade
from candleflow.market.window import SECOND_US, Windows

BEGINS_AT = 1_700_006_400 * SECOND_US
"""A midnight, in microseconds."""
FIVE_SECONDS = Windows.of_seconds(5)


def trade(
    trade_id: int, second: float = 0, symbol: str = "BTCUSDT", price: str = "100", quantity: str = "1"
) -> Trade:
    """Return a trade ``second`` seconds after BEGINS_AT."""
    time = BEGINS_AT + round(second * SECOND_US)
    return Trade(symbol, trade_id, Decimal(price), Decimal(quantity), time, trade_id % 2 == 0)


def run_of(first: int, last: int, symbol: str = "BTCUSDT") -> list[Trade]:
    """Return trades ``first`` to ``last``; each is its id in seconds after BEGINS_AT."""
    return [trade(one, one, symbol, price=str(100 + one)) for one in range(first, last + 1)]
