"""What stored candles say of their own trades: what is looked at before a candle is believed or folded anew.

Times are microseconds since the epoch, UTC.
"""

from __future__ import annotations

from dataclasses import dataclass

from candleflow.market.trade_ids import TradeIds


@dataclass(frozen=True, slots=True)
class CandleIds:
    """A stored finest candle's book of trades.

    ``is_judged``: it counts as complete where the ids prove it, and nowhere else. ``state`` is another one
    where anything of the candle is.
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
        """Whether its figures agree with its ids, and its end with the windows' size."""
        ranges = self.ids.ranges
        return (
            len(self.ids) == self.trade_count > 0
            and (ranges[0][0], ranges[-1][1]) == (self.first_trade_id, self.last_trade_id + 1)
            and self.end_time == self.open_time + size_us
            and self.is_judged
        )


@dataclass(frozen=True, slots=True)
class StrayRollUp:
    """A roll-up that is not the fold of its finest candles, in whatever field.

    ``stored`` is None where there is no such row, ``folded`` where there is no finest candle;
    ``prices_agree``: open, high, low and close are those of the fold.
    """

    interval: str
    open_time: int
    end_time: int
    stored: TradeIds | None
    folded: TradeIds | None
    prices_agree: bool = False
    state: str = ""
