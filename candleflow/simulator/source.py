"""The interface of the simulator's sources: the seeded market and recordings.

A source has a live feed, which ``play`` sends to the clients, and a history, which answers REST requests. The
two must agree. Times are microseconds since the epoch, UTC; ranges of ids are half-open.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

from candleflow.market.trade import Trade
from candleflow.simulator.audience import Audience


class Listing(NamedTuple):
    """A listed symbol; ``*_places`` are the decimal places of its price and quantity steps."""

    symbol: str
    base_asset: str
    quote_asset: str
    price_places: int
    quantity_places: int


class Source(Protocol):
    """A market: a live feed and its history."""

    def listings(self) -> Sequence[Listing]:
        """Return the symbols that ``exchangeInfo`` lists if the request names none."""

    def listing(self, symbol: str) -> Listing | None:
        """Return the symbol's listing, or None if there is no such symbol."""

    def present(self, now: int) -> int:
        """Return the time up to which there is history: ``now``, or the last played trade's time."""

    def id_range(self, symbol: str, now: int) -> tuple[int, int]:
        """Return the range of the ids of all trades until ``now``."""

    def id_at(self, symbol: str, time: int) -> int:
        """Return the lowest id of a trade at ``time`` or later."""

    def trades(self, symbol: str, ids: tuple[int, int]) -> Iterator[Trade]:
        """Return the trades with these ids, in order."""

    def aggregate_of(self, symbol: str, trade_id: int) -> int:
        """Return the id of the trade's aggregate: the trades that one order took at one price."""

    def aggregate_start(self, symbol: str, aggregate_id: int) -> int:
        """Return the first trade id of the aggregate."""

    async def play(self, audience: Audience) -> None:
        """Send the live feed until it ends or is cancelled."""
