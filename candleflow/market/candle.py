"""What a candle is: the exact fold of its window's trades, by the rules of Binance's own klines.

1. A trade belongs to the windows that hold its trade time ``T`` (``market.window``).
2. A trade counts once, whatever the number of times it comes: by symbol and trade id.
3. Open and close are the prices of the lowest and the highest trade id. Time can't order trades: 64 % of
   BTCUSDT's recorded trades share their millisecond with the one before.
4. High and low are the greatest and least price.
5. Volume is the sum of quantities, quote volume the sum of price times quantity: exact decimal sums, over all
   trades, and over those whose taker bought (``m`` false) for the taker-buy volumes.
6. A candle is complete when its ids have no hole and follow the last id of the candle before it.

The order of arrival decides nothing, so any number of partial folds of different trades merge to the same
candle in any order. These rules were checked against Binance: 20 of 20 one-minute klines rebuilt from
recorded trades, exactly. ``engine/candles.py`` states them once more as Spark columns, and
``tests/property`` proves the two equal.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal

from candleflow.errors import MarketError
from candleflow.market.trade import EXACT, Trade
from candleflow.market.trade_ids import TradeIds
from candleflow.market.window import Windows

CandleKey = tuple[str, str, int]
"""Symbol, interval, open time in microseconds: what the store's primary key is."""

_ZERO = Decimal(0)


@dataclass(frozen=True, slots=True)
class Candle:
    """All fields of Binance's kline, exact, and the set of the trade ids that are in it.

    ``open_time`` is in microseconds since the epoch; prices are in the quote asset, volumes in the base
    asset, quote volumes in the quote asset.
    """

    symbol: str
    interval: str
    open_time: int
    open: Decimal
    high: Decimal
    low: Decimal
    close: Decimal
    volume: Decimal
    quote_volume: Decimal
    taker_buy_volume: Decimal
    taker_buy_quote_volume: Decimal
    trade_count: int
    first_trade_id: int
    last_trade_id: int
    trade_ids: TradeIds

    @property
    def key(self) -> CandleKey:
        return self.symbol, self.interval, self.open_time

    def has_no_hole(self) -> bool:
        """Whether every trade from the first id to the last is in it."""
        return self.trade_count == self.last_trade_id - self.first_trade_id + 1

    def is_complete_after(self, before: Candle | None) -> bool:
        """Rule 6; a candle with none before it can't be proved complete."""
        return self.has_no_hole() and before is not None and before.last_trade_id + 1 == self.first_trade_id


class CandleFold:
    """One candle while its trades arrive: ``add`` in any order and as often as one likes, then ``candle``."""

    __slots__ = (
        "_close", "_first_id", "_high", "_ids", "_key", "_last_id", "_low", "_open",
        "_quote_volume", "_taker_buy_quote_volume", "_taker_buy_volume", "_volume",
    )  # fmt: skip

    def __init__(self, symbol: str, interval: str, open_time: int) -> None:
        self._key: CandleKey = (symbol, interval, open_time)
        self._ids = TradeIds()
        self._first_id = self._last_id = -1
        self._open = self._high = self._low = self._close = _ZERO
        self._volume = self._quote_volume = _ZERO
        self._taker_buy_volume = self._taker_buy_quote_volume = _ZERO

    def add(self, trade: Trade) -> bool:
        """Fold one trade in; False, and nothing changed, if its id is in already."""
        is_first = self._first_id < 0
        if not self._ids.add(trade.trade_id):
            return False
        if is_first or trade.trade_id < self._first_id:
            self._first_id, self._open = trade.trade_id, trade.price
        if is_first or trade.trade_id > self._last_id:
            self._last_id, self._close = trade.trade_id, trade.price
        self._high = trade.price if is_first else max(self._high, trade.price)
        self._low = trade.price if is_first else min(self._low, trade.price)
        notional = trade.notional
        self._volume = EXACT.add(self._volume, trade.quantity)
        self._quote_volume = EXACT.add(self._quote_volume, notional)
        if not trade.buyer_is_maker:
            self._taker_buy_volume = EXACT.add(self._taker_buy_volume, trade.quantity)
            self._taker_buy_quote_volume = EXACT.add(self._taker_buy_quote_volume, notional)
        return True

    def candle(self) -> Candle:
        """The candle so far; raises MarketError while it has no trade."""
        if self._first_id < 0:
            raise MarketError(f"a candle without a trade: {self._key}")
        symbol, interval, open_time = self._key
        return Candle(
            symbol=symbol,
            interval=interval,
            open_time=open_time,
            open=self._open,
            high=self._high,
            low=self._low,
            close=self._close,
            volume=self._volume,
            quote_volume=self._quote_volume,
            taker_buy_volume=self._taker_buy_volume,
            taker_buy_quote_volume=self._taker_buy_quote_volume,
            trade_count=len(self._ids),
            first_trade_id=self._first_id,
            last_trade_id=self._last_id,
            trade_ids=self._ids,
        )


def fold(trades: Iterable[Trade], windows: Windows) -> dict[CandleKey, Candle]:
    """The candles of ``trades``, which may come in any order, repeated, and of any number of symbols."""
    folds: dict[CandleKey, CandleFold] = {}
    for trade in trades:
        for open_time in windows.open_times(trade.trade_time):
            key = (trade.symbol, windows.interval, open_time)
            if key not in folds:
                folds[key] = CandleFold(*key)
            folds[key].add(trade)
    return {key: one.candle() for key, one in folds.items()}
