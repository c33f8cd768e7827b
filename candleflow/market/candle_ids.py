"""Trade ids of stored candles, which the audit checks before it trusts or rebuilds a candle.

Times are microseconds since the epoch, UTC.
"""

from __future__ import annotations

from dataclasses import dataclass

from candleflow.market.trade_ids import TradeIds


@dataclass(frozen=True, slots=True)
class CandleIds:
    """The trade ids of a stored candle of the finest interval.

    ``is_judged``: the stored completeness flag agrees with the ids. ``state`` changes whenever any field of
    the candle changes.
    """

    open_time: int
    end_time: int
    trade_count: int
    first_trade_id: int
    last_trade_id: int
    ids: TradeIds
    is_judged: bool = True
    state: str = ""

    def balances(self, size_us: int) -> bool:
        """Return whether the counts and the flag agree with the ids, and the end with the window size."""
        ranges = self.ids.ranges
        return (
            len(self.ids) == self.trade_count > 0
            and (ranges[0][0], ranges[-1][1]) == (self.first_trade_id, self.last_trade_id + 1)
            and self.end_time == self.open_time + size_us
            and self.is_judged
        )


@dataclass(frozen=True, slots=True)
class StrayRollUp:
    """A roll-up with a field that differs from the aggregate of its finest candles.

    ``stored``: the ids in the stored roll-up; None if there is no such row. ``folded``: the ids of the finest
    candles; None if there are none. ``prices_agree``: open, high, low and close are as in the aggregate.
    """

    interval: str
    open_time: int
    end_time: int
    stored: TradeIds | None
    folded: TradeIds | None
    prices_agree: bool = False
    state: str = ""
