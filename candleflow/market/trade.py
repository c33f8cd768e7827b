"""Trades, and the limits within which all parts of the pipeline calculate exactly.

Prices and quantities are exact decimals with at most eight places, like Binance's. The upper limits ensure
that no sum in Spark or PostgreSQL can overflow. They are above anything traded: the highest price on Binance
has 10 digits before the decimal point, and the largest single quantity 12.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Context, Decimal, DivisionByZero, Inexact, InvalidOperation, Overflow
from typing import Final

from candleflow.errors import MarketError

DECIMAL_PLACES: Final = 8
PRICE_LIMIT: Final = Decimal(10) ** 11
"""Prices are below this, in units of the quote asset."""
QUANTITY_LIMIT: Final = Decimal(10) ** 12
"""Quantities are below this, in units of the base asset."""
NOTIONAL_LIMIT: Final = Decimal(10) ** 20
"""Price times quantity is below this, so that its digits fit the engine's columns."""
TRADE_ID_LIMIT: Final = 2**63 - 1
"""Ids are below this, so that the exclusive upper bound of a range is a 64-bit integer too."""

MICROSECONDS_FROM: Final = 10**14
"""A time number of at least this is in microseconds: in milliseconds it would be the year 5138."""
TIME_LIMIT_US: Final = 253_402_300_800_000_000
"""The first microsecond of the year 10000. Python's and Spark's dates end before it."""

EXACT: Final = Context(prec=100, traps=[Inexact, InvalidOperation, DivisionByZero, Overflow])
"""A decimal context that raises an error instead of rounding."""


@dataclass(frozen=True, slots=True)
class Trade:
    """One trade of a spot market.

    ``trade_time`` is Binance's ``T`` in microseconds since the epoch, UTC. ``buyer_is_maker`` is ``m``, which
    is false for a taker buy.
    """

    symbol: str
    trade_id: int
    price: Decimal
    quantity: Decimal
    trade_time: int
    buyer_is_maker: bool

    @property
    def notional(self) -> Decimal:
        """Price times quantity, in the quote asset, exact."""
        return EXACT.multiply(self.price, self.quantity)


def to_microseconds(time: int) -> int:
    """Convert a Binance time to microseconds; its size shows whether it is in milliseconds or microseconds.

    Binance sends milliseconds unless asked for ``timeUnit=MICROSECOND``. Its archives have microseconds from
    2025-01-01 on.
    """
    return time if time >= MICROSECONDS_FROM else time * 1000


def rejection_reason(trade: Trade) -> str | None:
    """Return the reason, a stable text, why ``trade`` can't be aggregated exactly; None if it can."""
    if not 0 <= trade.trade_id < TRADE_ID_LIMIT:
        return "trade id out of range"
    if not 0 <= trade.trade_time < TIME_LIMIT_US:
        return "trade time out of range"
    for name, value, limit in (
        ("price", trade.price, PRICE_LIMIT),
        ("quantity", trade.quantity, QUANTITY_LIMIT),
    ):
        if not value.is_finite() or value <= 0:
            return f"{name} not a finite positive decimal"
        if value >= limit:
            return f"{name} out of range"
        exponent = value.as_tuple().exponent
        if isinstance(exponent, int) and exponent < -DECIMAL_PLACES:
            return f"{name} has more than {DECIMAL_PLACES} decimal places"
    if trade.notional >= NOTIONAL_LIMIT:
        return "notional out of range"
    return None


def check(trade: Trade) -> Trade:
    """Return ``trade``. Raises MarketError if ``rejection_reason`` has a reason to reject it."""
    reason = rejection_reason(trade)
    if reason is not None:
        raise MarketError(f"{trade}: {reason}")
    return trade
