"""What the simulator asks of whatever it serves, the seeded market or a recording; and what it offers them.

A source has two sides that must agree: the live feed, which ``play`` sends to an audience, and the history,
which REST is answered from. Times are microseconds since the epoch, UTC; ranges of ids are half-open.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

from candleflow.exchange.messages import TRADE_SUFFIX
from candleflow.market.symbol import lower, upper
from candleflow.market.trade import Trade


class Event(NamedTuple):
    """One message of the live feed.

    ``text`` is the data object alone, with times in milliseconds; ``text_us`` the same in microseconds.
    ``symbol`` and ``trade_id`` are set for trades. ``stream`` is empty where the message belongs to none.
    """

    stream: str
    text: str
    text_us: str
    symbol: str = ""
    trade_id: int = -1


class Listing(NamedTuple):
    """A symbol as the exchange lists it; ``*_places`` are the decimal places of its steps."""

    symbol: str
    base_asset: str
    quote_asset: str
    price_places: int
    quantity_places: int


class Audience(Protocol):
    """The clients, as a source sees them."""

    def streams(self) -> frozenset[str]:
        """Every stream that some client is subscribed to."""

    def publish(self, events: Sequence[Event]) -> None:
        """Send each event to the clients that are subscribed to its stream."""

    def publish_to_all(self, lines: Sequence[tuple[str, Event]]) -> None:
        """Send each line, as it stands, to every client; its event is for the ledger."""

    def drop_all(self, reason: str) -> None:
        """Cut every connection."""

    async def drained(self) -> None:
        """Wait until every client has taken most of what was sent to it."""

    async def subscribed(self, count: int = 1) -> None:
        """Wait until clients are subscribed to at least ``count`` streams of trades."""


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


def stream_of(symbol: str) -> str:
    """The name of the symbol's stream of trades: ``btcusdt@trade``."""
    return lower(symbol) + TRADE_SUFFIX


def symbol_of(stream: str) -> str | None:
    """The symbol whose trades ``stream`` brings, None for a stream of something else."""
    is_trade_stream = stream.endswith(TRADE_SUFFIX) and stream == lower(stream)
    return upper(stream.removesuffix(TRADE_SUFFIX)) if is_trade_stream else None
