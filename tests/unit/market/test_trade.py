"""The limits of a trade's fields within which all parts calculate exactly."""

from __future__ import annotations

from decimal import Decimal

import pytest

from candleflow.errors import MarketError
from candleflow.market.trade import EXACT, Trade, check, rejection_reason, to_microseconds


def trade(*, trade_id: int = 7, price: str = "61837.63", quantity: str = "0.02", time: int = 10**15) -> Trade:
    return Trade("BTCUSDT", trade_id, Decimal(price), Decimal(quantity), time, buyer_is_maker=True)


@pytest.mark.parametrize(
    ("one", "reason"),
    [
        (trade(), None),
        (trade(price="0.00000001", quantity="100000000000.00000001"), None),
        (trade(price="99999999999.99999999", quantity="0.00000001"), None),
        (trade(quantity="999999999999.99999999", price="0.00000001"), None),
        (trade(price="0"), "price not a finite positive decimal"),
        (trade(price="-1"), "price not a finite positive decimal"),
        (trade(price="NaN"), "price not a finite positive decimal"),
        (trade(price="Infinity"), "price not a finite positive decimal"),
        (trade(quantity="0.00000000"), "quantity not a finite positive decimal"),
        (trade(price="1e400"), "price out of range"),
        (trade(price="100000000000"), "price out of range"),
        (trade(quantity="1000000000000"), "quantity out of range"),
        (trade(price="0.000000001"), "price has more than 8 decimal places"),
        (trade(quantity="1.000000000"), "quantity has more than 8 decimal places"),
        (trade(price="1000000000", quantity="100000000000"), "notional out of range"),
        (trade(trade_id=-1), "trade id out of range"),
        (trade(trade_id=2**63 - 1), "trade id out of range"),
        (trade(time=-1), "trade time out of range"),
        (trade(time=10**19), "trade time out of range"),
    ],
)
def test_a_trade_that_cannot_be_counted_exactly_is_refused(one: Trade, reason: str | None) -> None:
    assert rejection_reason(one) == reason
    if reason:
        with pytest.raises(MarketError, match=reason):
            check(one)
    else:
        assert check(one) is one


def test_times_are_milliseconds_or_microseconds_by_their_size() -> None:
    assert to_microseconds(1_723_161_255_342) == 1_723_161_255_342_000
    assert to_microseconds(1_723_161_255_342_123) == 1_723_161_255_342_123


def test_the_notional_is_exact_at_any_size() -> None:
    one = trade(price="12345678901.12345678", quantity="123456789.12345678")
    assert one.notional.scaleb(16, EXACT) == 1_234_567_890_112_345_678 * 12_345_678_912_345_678
