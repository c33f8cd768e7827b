"""Find gaps in the candles' trade ids that no event has reported yet. No I/O; times are arguments."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from candleflow.market.gap import AUDIT, GapEvent, GapEventKind, GapState
from candleflow.market.trade_ids import Ranges, TradeIds


def unrecorded_gaps(held: Iterable[tuple[int, int]], known: Iterable[tuple[int, int]]) -> Ranges:
    """Return the ids missing between the first and the last of ``held``, without those of ``known``.

    All ranges are half-open, ``[lower, upper)``, in any order.
    """
    missing = TradeIds.of_ranges(TradeIds.of_ranges(held).gaps())
    for lower, upper in known:
        missing.remove_range(lower, upper)
    return missing.ranges


class RecordedGaps:
    """The gaps that the topic of gaps already reports, so that the auditor need not report them again.

    Times are microseconds since the epoch. An event dated in the future gets the time at which it was read.
    """

    def __init__(self) -> None:
        self._gaps = GapState()
        self._recent: defaultdict[str, list[tuple[int, GapEvent]]] = defaultdict(list)

    def add(self, events: Iterable[GapEvent], now: int) -> None:
        """Add events that were read at ``now``."""
        for event in events:
            self._gaps.apply(event)
            if event.kind is GapEventKind.FILLED or _is_audits(event):
                self._recent[event.symbol].append((min(event.at, now), event))

    def forget_before(self, at: int) -> None:
        """Drop events before ``at``, which only queries about earlier times need."""
        for symbol, events in list(self._recent.items()):
            self._recent[symbol] = [one for one in events if one[0] >= at]

    def known(self, symbol: str, lower: int, upper: int, *, merged_at: int, again_at: int) -> Ranges:
        """Return those of the ids ``[lower, upper)`` that need no new event.

        - An event reports them missing, and they aren't filled yet.
        - They were filled at ``merged_at`` or later, so the processor may not have merged them yet.
        - The auditor had them fetched at ``again_at`` or later. If they are still missing, another fetch
          would not help.
        """
        known = TradeIds.of_ranges(self._gaps.open_within(symbol, lower, upper))
        for at, event in self._recent[symbol]:
            if at >= (again_at if event.kind is GapEventKind.SEEN else merged_at):
                for begin, end in event.ranges:
                    known.add_range(begin, end)
        return known.ranges

    def filled_since(self, symbol: str, at: int) -> int:
        """Return how many of a symbol's trades were filled at ``at`` or later."""
        recent = self._recent[symbol]
        return sum(one.trade_count for when, one in recent if when >= at and one.kind is GapEventKind.FILLED)


def _is_audits(event: GapEvent) -> bool:
    return event.kind is GapEventKind.SEEN and event.why == AUDIT
