"""What the simulator asks of whatever it serves: the seeded market or a recording.

A source has two sides that must agree: the live feed, which ``play`` sends to an audience, and the history,
which REST is answered from. Times are microseconds since the epoch, UTC; ranges of ids are half-open.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

from candleflow.market.trade import Trade
from candleflow.simulator.audience import Audience


class Listing(NamedTuple):
    """A symbol as the exchange lists it; ``*_places`` are the decimal places of its steps."""

    symbol: str
    base_asset: str
    quote_asset: str
    price_places: int
    quantity_places: int


class Source(Protocol):
    """A market: a live feed and its history."""

    def listings(self) -> Sequence[Listing]:
        """The symbols that ``exchangeInfo`` lists when it isn't asked for any by name."""

    def listing(self, symbol: str) -> Listing | None:
        """The symbol's listing, None where there is no such symbol."""

    def present(self, now: int) -> int:
        """The time up to which there is history: ``now``, or the last recorded trade's."""

    def id_range(self, symbol: str, now: int) -> tuple[int, int]:
        """The ids of all the trades until ``now``."""

    def id_at(self, symbol: str, time: int) -> int:
        """The lowest id whose trade time is ``time`` or later."""

    def trades(self, symbol: str, ids: tuple[int, int]) -> Iterator[Trade]:
        """The trades with these ids, in their order."""

    def aggregate_of(self, symbol: str, trade_id: int) -> int:
        """The id of the aggregate that holds the trade: what one order took at one price."""

    def aggregate_start(self, symbol: str, aggregate_id: int) -> int:
        """The first trade id of the aggregate."""

    async def play(self, audience: Audience) -> None:
        """Send the live feed until cancelled or at its end."""
