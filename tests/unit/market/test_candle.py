"""The candle rules, one by one, with few enough trades to check by hand."""

from __future__ import annotations

from decimal import Decimal

import pytest

from candleflow.errors import MarketError
from candleflow.market.candle import Candle, CandleFold, fold
from candleflow.market.trade import Trade
from candleflow.market.window import Windows

T0 = 1_723_161_600_000_000
FIVE = Windows.of_seconds(5)


def trade(trade_id: int, price: str, quantity: str = "1", at: int = 0, *, maker: bool = True) -> Trade:
    return Trade("BTCUSDT", trade_id, Decimal(price), Decimal(quantity), T0 + at, buyer_is_maker=maker)


def only(trades: list[Trade]) -> Candle:
    (candle,) = fold(trades, FIVE).values()
    return candle


def test_open_and_close_go_by_trade_id_where_times_are_equal() -> None:
    candle = only([trade(3, "30"), trade(1, "10"), trade(2, "20")])
    assert (candle.open, candle.close) == (Decimal(10), Decimal(30))
    assert (candle.first_trade_id, candle.last_trade_id) == (1, 3)


def test_open_and_close_go_by_trade_id_even_against_time() -> None:
    candle = only([trade(2, "20", at=1), trade(1, "10", at=9)])
    assert (candle.open, candle.close) == (Decimal(10), Decimal(20))


def test_a_taker_buy_is_a_trade_whose_buyer_is_not_the_maker() -> None:
    candle = only([trade(1, "10", "0.1", maker=True), trade(2, "10", "0.2", maker=False)])
    assert (candle.volume, candle.taker_buy_volume) == (Decimal("0.3"), Decimal("0.2"))
    assert (candle.quote_volume, candle.taker_buy_quote_volume) == (Decimal("3.0"), Decimal("2.0"))


def test_sums_are_exact_where_doubles_are_not() -> None:
    candle = only([trade(i, "0.1", "0.1") for i in range(1, 11)])
    assert (candle.volume, candle.quote_volume) == (Decimal("1.0"), Decimal("0.10"))


def test_a_trade_that_comes_twice_counts_once() -> None:
    assert only([trade(1, "10"), trade(1, "10"), trade(2, "12")]) == only([trade(1, "10"), trade(2, "12")])


def test_a_hole_in_the_ids_shows() -> None:
    candle = only([trade(1, "10"), trade(3, "30")])
    assert not candle.has_no_gap()
    assert str(candle.trade_ids) == "{[1,2),[3,4)}"


def test_a_candle_is_complete_only_when_it_follows_the_one_before() -> None:
    candles = list(
        fold([trade(1, "1"), trade(2, "1", at=5_000_000), trade(4, "1", at=10_000_000)], FIVE).values()
    )
    assert [c.is_complete_after(b) for b, c in zip([None, *candles], candles, strict=False)] == [
        False,  # no candle before it: nothing shows that it begins at the right id
        True,
        False,  # trade 3 is missing
    ]


def test_a_sliding_trade_is_in_every_window_that_holds_it() -> None:
    candles = fold([trade(1, "10", at=4_500_000)], Windows.of_seconds(5, 1))
    assert sorted(open_time - T0 for _, _, open_time in candles) == [0, 1e6, 2e6, 3e6, 4e6]
    assert {interval for _, interval, _ in candles} == {"5s/1s"}


def test_an_empty_candle_is_refused() -> None:
    with pytest.raises(MarketError, match="without a trade"):
        CandleFold("BTCUSDT", "5s", T0).candle()
