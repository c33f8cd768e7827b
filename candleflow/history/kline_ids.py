"""Build candles from the exchange's klines, and derive the trade ids, which klines don't have.

Spot trade ids are consecutive, and a trade belongs to the kline of its second. Take a stretch of time: if its
klines have as many trades as there are ids from its first trade to the first trade after it, then no trade is
missing. Each kline's ids then follow by adding up the trade counts. If the numbers differ, the exchange
skipped ids or klines are missing, and the ids of that stretch can't be derived.

No I/O and no clock. Times are microseconds since the epoch, UTC.
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
"""The length of a kline: one second, the exchange's shortest. Every window is a multiple of it."""
CHUNK_US: Final = 900 * SECOND_US
"""How much time is loaded at once: the klines are one request, and the candles about 200 rows."""
_SHORTEST_US: Final = 60 * SECOND_US


@dataclass(frozen=True, slots=True)
class Stretch:
    """A range of time [since, until), and the ids [first_id, end_id) of its trades.

    ``first_id`` is the id of the first trade at ``since`` or later; ``end_id`` that of the first at ``until``
    or later.
    """

    since: int
    until: int
    first_id: int
    end_id: int

    def klines(self, klines: Iterable[Kline]) -> list[Kline]:
        """Return the klines that open in the stretch, oldest first."""
        inside = [one for one in klines if self.since <= one.open_time < self.until]
        return sorted(inside, key=lambda one: one.open_time)

    def is_proved_by(self, klines: Iterable[Kline]) -> bool:
        """Return whether the stretch's klines have as many trades as it has ids."""
        return sum(one.trade_count for one in self.klines(klines)) == self.end_id - self.first_id

    @property
    def middle(self) -> int | None:
        """A full minute near the middle; None if the stretch is too short to be cut."""
        if self.until - self.since <= _SHORTEST_US:
            return None
        middle = floor_time((self.since + self.until) // 2, _SHORTEST_US)
        return middle if middle > self.since else middle + _SHORTEST_US


def newest_chunk(since: int, until: int) -> int:
    """Return where the last chunk of [since, until) begins: at a full quarter of an hour, or at ``since``."""
    return max(since, floor_time(until - 1, CHUNK_US))


def partials(stretch: Stretch, klines: Iterable[Kline], windows: Windows) -> list[str]:
    """Convert the klines of a proved stretch to partial candles of the finest windows."""
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
        raise ValueError("klines without trades can't make a candle")
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
    # The last trade's time is known only to the second: take the end of that second.
    return partial.encode(partial.of_candle(candle, klines[-1].open_time + KLINE_US - 1))
