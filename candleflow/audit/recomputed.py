"""Recompute one symbol's finest candles in a time range from its trades. No I/O; times are arguments.

The result may replace the stored candles only if it includes every trade that they have. If the topic no
longer has some of them, the recomputed candles may be the wrong ones. Times are microseconds since the epoch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from candleflow.market.candle import Candle, CandleFold
from candleflow.market.candle_ids import CandleIds
from candleflow.market.trade import Trade
from candleflow.market.trade_ids import TradeIds
from candleflow.market.window import Windows


class RecomputedCandles:
    """The candles of ``symbol`` that open in [since, until), computed from trades added in any order.

    ``stored``: the trade ids of the stored candles. Add trades before and after the range too: they show when
    every trade of the range has been read.
    """

    def __init__(
        self, symbol: str, windows: Windows, since: int, until: int, stored: Iterable[CandleIds]
    ) -> None:
        self._symbol = symbol
        self._windows = windows
        self._since = since
        self._until = until
        self._stored = {candle.open_time: candle for candle in stored}
        self._folds: dict[int, CandleFold] = {}
        self._ids = TradeIds()
        self._before, self._after = -1, -1

    def add(self, trade: Trade) -> None:
        """Add one trade; trades of other symbols and repeated ids are ignored."""
        if trade.symbol != self._symbol or not self._ids.add(trade.trade_id):
            return
        if trade.trade_time < self._since:
            self._before = max(self._before, trade.trade_id)
        elif trade.trade_time >= self._until + self._windows.size_us - self._windows.slide_us:
            self._after = trade.trade_id if self._after < 0 else min(self._after, trade.trade_id)
        for open_time in self._windows.open_times(trade.trade_time):
            if self._since <= open_time < self._until:
                if open_time not in self._folds:
                    self._folds[open_time] = CandleFold(self._symbol, self._windows.interval, open_time)
                self._folds[open_time].add(trade)

    def is_whole(self) -> bool:
        """Whether every trade of the range has been added.

        That is: all ids of the stored candles, and every id between the last trade before the range and the
        first one after it.
        """
        return (
            0 <= self._before < self._after
            and self._ids.has_range(self._before, self._after)
            and not self.lacking()
        )

    def lacking(self) -> list[CandleIds]:
        """Return the stored candles with trades that were not added, in order of time."""
        return [candle for _, candle in sorted(self._stored.items()) if not self._ids.has_all(candle.ids)]

    def missing_ids(self) -> TradeIds:
        """Return the ids of the stored candles that were not added."""
        missing = TradeIds()
        for candle in self.lacking():
            for lower, upper in candle.ids.ranges:
                missing.add_range(lower, upper)
        for lower, upper in self._ids.ranges:
            missing.remove_range(lower, upper)
        return missing

    def seen(self) -> Mapping[int, TradeIds]:
        """Return the ids of the stored candles, by open time."""
        return {at: candle.ids for at, candle in sorted(self._stored.items())}

    def candles(self) -> Sequence[Candle]:
        """Return the recomputed candles, which may replace the stored ones if ``lacking`` is empty."""
        return [fold.candle() for _, fold in sorted(self._folds.items())]
