"""Holes in the trade ids that the candles have: which of them are news. No I/O, and no clock of its own."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from candleflow.market.gap import AUDIT, GapEvent, GapEventKind, GapState
from candleflow.market.trade_ids import Ranges, TradeIds


def unrecorded_gaps(held: Iterable[tuple[int, int]], known: Iterable[tuple[int, int]]) -> Ranges:
    """The ids missing between the first and the last of ``held``, less those of ``known``.

    All ranges are half-open, ``[lower, upper)``, in any order.
    """
    holes = TradeIds.of_ranges(TradeIds.of_ranges(held).holes())
    for lower, upper in known:
        holes.remove_range(lower, upper)
    return holes.ranges


class RecordedGaps:
    """What the topic of gaps says of missing ids, added up as its events come: what an audit need not note.

    Times are microseconds since the epoch. An event dated in the future counts as of when it was read.
    """

    def __init__(self) -> None:
        self._gaps = GapState()
        self._recent: defaultdict[str, list[tuple[int, GapEvent]]] = defaultdict(list)

    def add(self, events: Iterable[GapEvent], now: int) -> None:
        """Take in events that were read at ``now``."""
        for event in events:
            self._gaps.apply(event)
            if event.kind is GapEventKind.FILLED or _is_audits(event):
                self._recent[event.symbol].append((min(event.at, now), event))

    def forget_before(self, at: int) -> None:
        """Drop what only the questions about earlier times would need."""
        for symbol, events in list(self._recent.items()):
            self._recent[symbol] = [one for one in events if one[0] >= at]

    def known(self, symbol: str, lower: int, upper: int, *, merged_at: int, again_at: int) -> Ranges:
        """Those of the ids ``[lower, upper)`` that are on record.

        They are missing, as an event says; or were filled at ``merged_at`` or later, so that the candles need
        not have them yet; or an audit has had them fetched at ``again_at`` or later: where they are missing
        still, to fetch them again would not help.
        """
        known = TradeIds.of_ranges(self._gaps.open_within(symbol, lower, upper))
        for at, event in self._recent[symbol]:
            if at >= (again_at if event.kind is GapEventKind.SEEN else merged_at):
                for begin, end in event.ranges:
                    known.add_range(begin, end)
        return known.ranges

    def filled_since(self, symbol: str, at: int) -> int:
        """How many of a symbol's trades were filled then or later."""
        recent = self._recent[symbol]
        return sum(one.trade_count for when, one in recent if when >= at and one.kind is GapEventKind.FILLED)


def _is_audits(event: GapEvent) -> bool:
    return event.kind is GapEventKind.SEEN and event.why == AUDIT
