"""Recomputed candles: when all trades have been read, which are missing, and the result."""

from __future__ import annotations

from decimal import Decimal

import pytest

from candleflow.audit.recomputed import RecomputedCandles
from candleflow.market.candle import fold
from candleflow.market.candle_ids import CandleIds
from candleflow.market.trade import Trade
from candleflow.market.trade_ids import TradeIds
from candleflow.market.window import SECOND_US, Windows

S = SECOND_US
FIVE = Windows.of_seconds(5)


def trade(trade_id: int, symbol: str = "BTCUSDT") -> Trade:
    """Make a trade whose time is its id in seconds."""
    return Trade(symbol, trade_id, Decimal(100 + trade_id), Decimal(1), trade_id * S, trade_id % 2 == 0)


def candle_ids(second: int, *ids: int) -> CandleIds:
    return CandleIds(second * S, (second + 5) * S, len(ids), ids[0], ids[-1], TradeIds(ids))


def read(recomputed: RecomputedCandles, *ids: int) -> RecomputedCandles:
    for one in ids:
        recomputed.add(trade(one))
    return recomputed


def begun(*stored: CandleIds) -> RecomputedCandles:
    return RecomputedCandles("BTCUSDT", FIVE, 10 * S, 20 * S, stored)


@pytest.mark.parametrize("windows", [FIVE, Windows.of_seconds(5, 1)], ids=["tumbling", "sliding"])
def test_it_computes_exactly_the_windows_of_the_range_in_any_order(windows: Windows) -> None:
    recomputed = RecomputedCandles("BTCUSDT", windows, 10 * S, 20 * S, [])
    trades = [trade(one) for one in range(40)]
    for one in [*reversed(trades), *trades[::3], trade(12, "ETHUSDT")]:
        recomputed.add(one)
    expected = {key: one for key, one in fold(trades, windows).items() if 10 * S <= key[2] < 20 * S}
    assert {one.key: one for one in recomputed.candles()} == expected
    assert recomputed.seen() == {}


def test_it_is_whole_with_every_id_from_before_to_after_the_range() -> None:
    recomputed = read(begun(candle_ids(10, 10, 11)), *range(8, 20))
    assert not recomputed.is_whole(), "trade 20 may be in the range"
    assert read(recomputed, 21).is_whole() is False
    assert read(recomputed, 20).is_whole()
    assert not read(begun(), *range(10, 25)).is_whole(), "there is no trade before the range"
    assert not read(begun(), *range(5, 13), *range(14, 25)).is_whole(), "trade 13 is missing"


def test_sliding_windows_need_trades_until_the_last_one_ends() -> None:
    recomputed = RecomputedCandles("BTCUSDT", Windows.of_seconds(5, 1), 10 * S, 20 * S, [])
    assert not read(recomputed, *range(9, 24)).is_whole()
    assert read(recomputed, 24).is_whole()


def test_stored_trades_that_were_not_read_are_lacking() -> None:
    recomputed = read(
        begun(candle_ids(10, 10, 11, 12), candle_ids(15, 15, 16)), *range(5, 12), *range(13, 30)
    )
    assert [one.open_time for one in recomputed.lacking()] == [10 * S]
    assert recomputed.missing_ids() == TradeIds([12])
    assert not recomputed.is_whole()
    assert read(recomputed, 12).is_whole()


def test_ids_read_with_another_time_are_not_lacking() -> None:
    """The stored candle has trade 25 by mistake; in the topic it belongs to another window."""
    recomputed = read(begun(candle_ids(10, 10, 11, 25)), *range(5, 30))
    assert recomputed.lacking() == []
    assert [one.last_trade_id for one in recomputed.candles()] == [14, 19]
