"""What a gap is: trade ids that the exchange gave out and we have not; and the book kept of them.

Spot trade ids are consecutive per symbol, so whoever sees id 105 after id 100 knows that four trades are
missing. What becomes of them is a sequence of events, each about a range of ids; the events in their order
are the truth, and ``GapBook`` is what they add up to.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from candleflow.errors import MarketError
from candleflow.market.trade_ids import TradeIds


class GapEventKind(StrEnum):
    """What happened to a range of ids."""

    SEEN = "seen"
    """They are missing, and are to be brought."""
    FILLED = "filled"
    """They are in the topic."""
    GIVEN_UP = "given up"
    """They can't be had: the gap stays open, and nobody asks for them again unless it is seen anew."""


RESTART: Final = "restart"
RECONNECT: Final = "reconnect"
JUMP: Final = "jump"
OVERLOAD: Final = "overload"
"""The producer's reasons: after its start, on a new connection, in mid-stream, and where it let trades go by
because Kafka took none."""
AUDIT: Final = "audit"
REPAIR: Final = "repair"
"""The reasons of who looked at the candles: by itself, or because someone asked."""


@dataclass(frozen=True, slots=True)
class GapEvent:
    """One event; ``first_trade_id`` and ``last_trade_id`` are both of the range, ``at`` in microseconds.

    ``why``: how the ids came to be missing (``seen``), where they were had from (``filled``), or what stands
    against it (``given up``).
    """

    kind: GapEventKind
    symbol: str
    first_trade_id: int
    last_trade_id: int
    at: int
    why: str

    def __post_init__(self) -> None:
        if not 0 <= self.first_trade_id <= self.last_trade_id:
            raise MarketError(f"no range of trade ids: {self.first_trade_id} to {self.last_trade_id}")

    @property
    def trade_count(self) -> int:
        return self.last_trade_id - self.first_trade_id + 1


class GapBook:
    """Which ids are missing, after all events so far."""

    def __init__(self) -> None:
        self._open: defaultdict[str, TradeIds] = defaultdict(TradeIds)
        self._given_up: defaultdict[str, TradeIds] = defaultdict(TradeIds)

    def apply(self, event: GapEvent) -> None:
        """Take one event in; the same one again changes nothing."""
        lower, upper = event.first_trade_id, event.last_trade_id + 1
        match event.kind:
            case GapEventKind.SEEN:
                self._open[event.symbol].add_range(lower, upper)
                self._given_up[event.symbol].remove_range(lower, upper)
            case GapEventKind.FILLED:
                self._open[event.symbol].remove_range(lower, upper)
                self._given_up[event.symbol].remove_range(lower, upper)
            case GapEventKind.GIVEN_UP:
                self._given_up[event.symbol].add_range(lower, upper)

    def open_ranges(self) -> dict[str, tuple[tuple[int, int], ...]]:
        """By symbol, the ``[lower, upper)`` ranges that are missing; symbols with none are left out."""
        return {symbol: ids.ranges for symbol, ids in sorted(self._open.items()) if ids}

    def wanted_ranges(self) -> dict[str, tuple[tuple[int, int], ...]]:
        """As ``open_ranges``, without what was given up."""
        wanted = {}
        for symbol, ids in sorted(self._open.items()):
            rest = TradeIds()
            for lower, upper in ids.ranges:
                rest.add_range(lower, upper)
            for lower, upper in self._given_up[symbol].ranges:
                rest.remove_range(lower, upper)
            if rest:
                wanted[symbol] = rest.ranges
        return wanted


def book_of(events: Iterable[GapEvent]) -> GapBook:
    """What the events add up to."""
    book = GapBook()
    for event in events:
        book.apply(event)
    return book
