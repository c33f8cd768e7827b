"""Candles of the exchange's klines, with the ids of their trades, which a kline has not. No I/O, no clock.

Spot trade ids are consecutive, and a trade belongs to the kline of its second. So where as many ids lie
between the first trade of a stretch of time and the first trade after it as its klines have trades, no trade
is missing there, and each kline's ids follow from those before it by adding up. Where the numbers differ, the
exchange has left ids out or klines are missing, and nothing is known of the stretch.

Times are microseconds since the epoch, UTC.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from candleflow.audit.klines import FIELDS, merge
from candleflow.market import partial
from candleflow.market.candle import Candle
from candleflow.market.kline import Kline
from candleflow.market.trade_ids import TradeIds
from candleflow.market.window import SECOND_US, Windows, floor_time

KLINE_US: Final = SECOND_US
"""The klines are those of a second, the finest that the exchange has; every window is whole seconds long."""
CHUNK_US: Final = 900 * SECOND_US
"""What is loaded at once: its klines are one request, and its candles some 200 rows."""
_SHORTEST_US: Final = 60 * SECOND_US


@dataclass(frozen=True, slots=True)
class Stretch:
    """The time [since, until), and the ids [first_id, end_id) of the trades in it.

    ``first_id`` is the id of the first trade at ``since`` or later, ``end_id`` that at ``until`` or later.
    """

    since: int
    until: int
    first_id: int
    end_id: int

    def klines(self, klines: Iterable[Kline]) -> list[Kline]:
        """Those of the klines that open in it, oldest first."""
        inside = [one for one in klines if self.since <= one.open_time < self.until]
        return sorted(inside, key=lambda one: one.open_time)

    def is_proved_by(self, klines: Iterable[Kline]) -> bool:
        """Whether the klines in it have as many trades as it has ids."""
        return sum(one.trade_count for one in self.klines(klines)) == self.end_id - self.first_id

    @property
    def middle(self) -> int | None:
        """A whole minute near its middle, None where it is too short to be cut."""
        if self.until - self.since <= _SHORTEST_US:
            return None
        middle = floor_time((self.since + self.until) // 2, _SHORTEST_US)
        return middle if middle > self.since else middle + _SHORTEST_US


def newest_chunk(since: int, until: int) -> int:
    """Where the last chunk of [since, until) begins: at a whole quarter of an hour, or at ``since``."""
    return max(since, floor_time(until - 1, CHUNK_US))


def partials(stretch: Stretch, klines: Iterable[Kline], windows: Windows) -> list[str]:
    """The klines of a stretch that they prove, as partial candles of the finest windows."""
    members: dict[int, list[Kline]] = {}
    first_ids: dict[int, int] = {}
    following = stretch.first_id
    for kline in stretch.klines(klines):
        if kline.trade_count:
            for open_time in windows.open_times(kline.open_time):
                first_ids.setdefault(open_time, following)
                members.setdefault(open_time, []).append(kline)
            following += kline.trade_count
    return [_partial(first_ids[at], found, at, windows) for at, found in members.items()]


def _partial(first_id: int, klines: Sequence[Kline], open_time: int, windows: Windows) -> str:
    amounts = merge(klines)
    if amounts is None:
        raise ValueError("klines without a trade make no candle")
    ids = TradeIds()
    ids.add_range(first_id, first_id + amounts.trade_count)
    candle = Candle(
        symbol=amounts.symbol,
        interval=windows.interval,
        open_time=open_time,
        **{name: getattr(amounts, name) for name in FIELDS},
        first_trade_id=first_id,
        last_trade_id=first_id + amounts.trade_count - 1,
        trade_ids=ids,
    )
    # The last trade's time is known to the second: it is at the second's end at the latest.
    return partial.encode(partial.of_candle(candle, klines[-1].open_time + KLINE_US - 1))
