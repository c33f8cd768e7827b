"""A stretch of one symbol's finest candles rebuilt from its trades. No I/O, and no clock of its own.

What is folded takes the place of what is stored only where it has all the trades that are stored: a topic
that no longer has them all proves nothing. Times are microseconds since the epoch, UTC.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from candleflow.market.candle import Candle, CandleFold
from candleflow.market.candle_ids import CandleIds
from candleflow.market.trade import Trade
from candleflow.market.trade_ids import TradeIds
from candleflow.market.window import Windows


class RecomputedCandles:
    """The windows of ``symbol`` that open in [since, until), while their trades are read in any order.

    ``stored``: the candles stored there. Trades of other times are welcome: they show where ids belong, and
    that none is missing.
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
        """Take one trade in; one of another symbol, or a second time, changes nothing."""
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
        """Whether nothing more can be missing: all that is stored came, and every id between the last trade
        before the stretch and the first one after it."""
        return (
            0 <= self._before < self._after
            and self._ids.has_range(self._before, self._after)
            and not self.lacking()
        )

    def lacking(self) -> list[CandleIds]:
        """The stored candles some of whose trades did not come, in the order of time."""
        return [candle for _, candle in sorted(self._stored.items()) if not self._ids.has_all(candle.ids)]

    def missing_ids(self) -> TradeIds:
        """Those of the stored candles' ids that did not come."""
        missing = TradeIds()
        for candle in self.lacking():
            for lower, upper in candle.ids.ranges:
                missing.add_range(lower, upper)
        for lower, upper in self._ids.ranges:
            missing.remove_range(lower, upper)
        return missing

    def seen(self) -> Mapping[int, TradeIds]:
        """The ids of the candles that were there, by open time."""
        return {at: candle.ids for at, candle in sorted(self._stored.items())}

    def candles(self) -> Sequence[Candle]:
        """What may take the place of all finest candles of the stretch, unless something is ``lacking``."""
        return [fold.candle() for _, fold in sorted(self._folds.items())]
