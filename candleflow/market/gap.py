"""What a gap is: trade ids that the exchange gave out and we have not; and the book kept of them.

Spot trade ids are consecutive per symbol, so whoever sees id 105 after id 100 knows that four trades are
missing. What becomes of them is a sequence of events, each about a set of ids; the events in their order
are the truth, and ``GapState`` is what they add up to.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Self

from candleflow.errors import MarketError
from candleflow.market.trade_ids import Ranges, TradeIds


class GapEventKind(StrEnum):
    """What happened to a set of ids."""

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


RANGES_LIMIT: Final = 1_000
"""Maximum number of ranges in an event, so that its record stays below 64 kB. A page of the exchange's
history rarely has more."""


@dataclass(frozen=True, slots=True)
class GapEvent:
    """One event about all the ids of ``ranges``, the first and last of which are ``first_trade_id`` and
    ``last_trade_id``; ``at`` is in microseconds.

    ``ranges`` are by default the one from the first to the last. ``why``: how the ids came to be missing
    (``seen``), where they were had from (``filled``), or what stands against it (``given up``).
    """

    kind: GapEventKind
    symbol: str
    first_trade_id: int
    last_trade_id: int
    at: int
    why: str
    ranges: Ranges = ()

    def __post_init__(self) -> None:
        if not 0 <= self.first_trade_id <= self.last_trade_id:
            raise MarketError(f"no range of trade ids: {self.first_trade_id} to {self.last_trade_id}")
        if not self.ranges:
            object.__setattr__(self, "ranges", ((self.first_trade_id, self.last_trade_id + 1),))

    @classmethod
    def of(cls, kind: GapEventKind, symbol: str, ranges: Ranges, at: int, why: str) -> Self:
        """The event about these ranges; raises MarketError where there are none."""
        if not ranges:
            raise MarketError("an event is about trade ids, and was given none")
        return cls(kind, symbol, ranges[0][0], ranges[-1][1] - 1, at, why, ranges)

    @property
    def trade_count(self) -> int:
        return sum(upper - lower for lower, upper in self.ranges)


def events_of(kind: GapEventKind, symbol: str, ranges: Ranges, at: int, why: str) -> list[GapEvent]:
    """The events that tell this of all the ranges: nearly always one, and none of no range."""
    parts = (ranges[begin : begin + RANGES_LIMIT] for begin in range(0, len(ranges), RANGES_LIMIT))
    return [GapEvent.of(kind, symbol, part, at, why) for part in parts]


class GapState:
    """Which ids are missing, after all events so far."""

    def __init__(self) -> None:
        self._open: defaultdict[str, TradeIds] = defaultdict(TradeIds)
        self._wanted: defaultdict[str, TradeIds] = defaultdict(TradeIds)

    def apply(self, event: GapEvent) -> None:
        """Take one event in; the same one again changes nothing."""
        missing, wanted = self._open[event.symbol], self._wanted[event.symbol]
        for lower, upper in event.ranges:
            if event.kind is GapEventKind.SEEN:
                missing.add_range(lower, upper)
                wanted.add_range(lower, upper)
                continue
            wanted.remove_range(lower, upper)
            if event.kind is GapEventKind.FILLED:
                missing.remove_range(lower, upper)

    def open_ranges(self) -> dict[str, Ranges]:
        """By symbol, the ``[lower, upper)`` ranges that are missing; symbols with none are left out."""
        return {symbol: ids.ranges for symbol, ids in sorted(self._open.items()) if ids}

    def open_within(self, symbol: str, lower: int, upper: int) -> Ranges:
        """Those of a symbol's ids ``[lower, upper)`` that are missing."""
        return self._open[symbol].within(lower, upper)

    @property
    def open_trades(self) -> int:
        """How many trades are missing, those that were given up included."""
        return sum(map(len, self._open.values()))

    @property
    def open_gaps(self) -> int:
        """How many ranges of ids, each without one between that is there, those trades are."""
        return sum(ids.range_count for ids in self._open.values())

    def wanted(self) -> dict[str, TradeIds]:
        """By symbol, what is missing and was not given up since; symbols with none are left out."""
        return {symbol: ids for symbol, ids in self._wanted.items() if ids}

    def wanted_ranges(self) -> dict[str, Ranges]:
        """As ``open_ranges``, without what was given up."""
        return {symbol: ids.ranges for symbol, ids in sorted(self.wanted().items())}


def gap_state_of(events: Iterable[GapEvent]) -> GapState:
    """What the events add up to."""
    book = GapState()
    for event in events:
        book.apply(event)
    return book
