"""Gaps: trade ids that the exchange has assigned and that we don't have, and the events about them.

Spot trade ids are consecutive per symbol: id 105 after id 100 means that four trades are missing. The log
of gap events, each about a set of ids, is the source of truth. ``GapState`` is the state after all of them.
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
    """The kind of a gap event."""

    SEEN = "seen"
    """The ids are missing and have to be fetched."""
    FILLED = "filled"
    """The trades are in the topic."""
    GIVEN_UP = "given up"
    """The trades can't be fetched: the gap stays open, with no further attempt until it is seen again."""


RESTART: Final = "restart"
RECONNECT: Final = "reconnect"
JUMP: Final = "jump"
OVERLOAD: Final = "overload"
"""The producer's reasons: after its start, after a reconnect, within one connection, and when it shed load
because Kafka accepted no writes."""
AUDIT: Final = "audit"
REPAIR: Final = "repair"
"""The auditor's reasons: its own regular check, and the ``repair`` command."""


RANGES_LIMIT: Final = 1_000
"""Maximum number of ranges in an event, so that its record stays below 64 kB. The trades of one page of the
exchange's history rarely have more."""


@dataclass(frozen=True, slots=True)
class GapEvent:
    """One event about all ids in ``ranges``, from ``first_trade_id`` to ``last_trade_id``.

    ``ranges`` defaults to the single range from the first to the last id. ``at`` is in microseconds since the
    epoch. ``why``: the reason why the ids are missing (``seen``), where the trades came from (``filled``), or
    why they can't be fetched (``given up``).
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
        """Create the event about these ranges. Raises MarketError if there are none."""
        if not ranges:
            raise MarketError(f"{symbol}: a gap event needs at least one range of trade ids")
        return cls(kind, symbol, ranges[0][0], ranges[-1][1] - 1, at, why, ranges)

    @property
    def trade_count(self) -> int:
        return sum(upper - lower for lower, upper in self.ranges)


def events_of(kind: GapEventKind, symbol: str, ranges: Ranges, at: int, why: str) -> list[GapEvent]:
    """Return events that cover all ranges, ``RANGES_LIMIT`` in each; an empty list for no ranges."""
    parts = (ranges[begin : begin + RANGES_LIMIT] for begin in range(0, len(ranges), RANGES_LIMIT))
    return [GapEvent.of(kind, symbol, part, at, why) for part in parts]


class GapState:
    """The ids that are missing after all events so far."""

    def __init__(self) -> None:
        self._open: defaultdict[str, TradeIds] = defaultdict(TradeIds)
        self._wanted: defaultdict[str, TradeIds] = defaultdict(TradeIds)

    def apply(self, event: GapEvent) -> None:
        """Apply one event. Applying the same event again changes nothing."""
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
        """Return the missing ``[lower, upper)`` ranges by symbol; symbols without any are left out."""
        return {symbol: ids.ranges for symbol, ids in sorted(self._open.items()) if ids}

    def open_within(self, symbol: str, lower: int, upper: int) -> Ranges:
        """Return the missing ranges among a symbol's ids ``[lower, upper)``."""
        return self._open[symbol].within(lower, upper)

    @property
    def open_trades(self) -> int:
        """How many trades are missing, including those given up."""
        return sum(map(len, self._open.values()))

    @property
    def open_gaps(self) -> int:
        """How many separate ranges of missing ids there are."""
        return sum(ids.range_count for ids in self._open.values())

    def wanted(self) -> dict[str, TradeIds]:
        """Return the ids by symbol that are missing and not given up; symbols without any are left out."""
        return {symbol: ids for symbol, ids in self._wanted.items() if ids}

    def wanted_ranges(self) -> dict[str, Ranges]:
        """Like ``open_ranges``, but without the ids given up."""
        return {symbol: ids.ranges for symbol, ids in sorted(self.wanted().items())}


def gap_state_of(events: Iterable[GapEvent]) -> GapState:
    """Return the state after all ``events``."""
    state = GapState()
    for event in events:
        state.apply(event)
    return state
