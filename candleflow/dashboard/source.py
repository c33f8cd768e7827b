"""What the page asks of whoever keeps the candles; ``process.py`` hands one in.

Times are microseconds since the epoch, UTC; prices and volumes are exact decimals.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Protocol

from candleflow.telemetry import Heartbeat


class ShownCandle(Protocol):
    """One candle, of any bucket, as far as the page shows it."""

    @property
    def open_time(self) -> int: ...
    @property
    def open(self) -> Decimal: ...
    @property
    def high(self) -> Decimal: ...
    @property
    def low(self) -> Decimal: ...
    @property
    def close(self) -> Decimal: ...
    @property
    def volume(self) -> Decimal: ...
    @property
    def quote_volume(self) -> Decimal: ...
    @property
    def taker_buy_volume(self) -> Decimal: ...
    @property
    def taker_buy_quote_volume(self) -> Decimal: ...
    @property
    def trade_count(self) -> int: ...
    @property
    def first_trade_id(self) -> int: ...
    @property
    def last_trade_id(self) -> int: ...
    @property
    def is_closed(self) -> bool: ...
    @property
    def is_complete(self) -> bool: ...
    @property
    def revision(self) -> int: ...
    @property
    def source(self) -> str: ...


class SymbolState(Protocol):
    """How far a symbol's trades have come."""

    @property
    def symbol(self) -> str: ...
    @property
    def last_trade_time(self) -> int: ...
    @property
    def last_price(self) -> Decimal: ...
    @property
    def day_change(self) -> Decimal | None:
        """The last price against that of 24 h before the last trade: 0.01 is one percent up."""
        ...

    @property
    def day_opens_at(self) -> int | None:
        """What the change is since: less than 24 h before, where the first candle is younger."""
        ...


@dataclass(frozen=True, slots=True)
class Sparkline:
    """A symbol's last day in small.

    ``heights``: a letter for each quarter of an hour, 0 at the lowest price and z at the highest;
    ``places``: decimal places that show every price of them in full.
    """

    places: int
    heights: str


class OpenGap(Protocol):
    """Trade ids that no candle has, both named included."""

    @property
    def first_trade_id(self) -> int: ...
    @property
    def last_trade_id(self) -> int: ...
    @property
    def after(self) -> int:
        """When the candle of the last trade before it opened."""
        ...

    @property
    def before(self) -> int:
        """When the candle of the first trade after it ended or will end."""
        ...


class OpenGaps(Protocol):
    """The holes in the trade ids of a stretch of candles."""

    @property
    def count(self) -> int: ...
    @property
    def trades(self) -> int: ...
    @property
    def newest(self) -> Sequence[OpenGap]:
        """Some of them, the newest first."""
        ...


class ShownForecast(Protocol):
    """The forecast of one finest candle's close, made before that candle opened."""

    @property
    def open_time(self) -> int: ...
    @property
    def forecast(self) -> float: ...
    @property
    def lower(self) -> float: ...
    @property
    def upper(self) -> float: ...


@dataclass(frozen=True, slots=True)
class TrackRecord:
    """What a symbol's latest forecasts were worth.

    ``verdict``: in words, such as that they were no better than the last price; ``rows``: the figures.
    """

    has_skill: bool
    is_covered: bool
    """Whether as many closes were in the interval as should be."""
    verdict: str
    sentences: str
    rows: tuple[tuple[str, str], ...]


class CandleSource(Protocol):
    """Reads candles. All but ``refresh`` raise StoreError while the store is away."""

    def refresh(self) -> None:
        """From here on, what was answered before is too old."""
        ...

    def candles(
        self, symbol: str, bucket_seconds: int, since: int | None, limit: int
    ) -> Sequence[ShownCandle]:
        """The newest ``limit`` candles that open at ``since`` or later, oldest first."""
        ...

    def first_open_time(self, symbol: str) -> int | None:
        """When the symbol's first candle opened; None where it has none."""
        ...

    def symbols(self) -> Sequence[SymbolState]:
        """Every symbol that has had a trade."""
        ...

    def sparklines(self) -> Mapping[str, Sparkline]:
        """The last day of every symbol that has candles, by its name; half a minute old at most."""
        ...


class TrustSource(Protocol):
    """Tells how far what is shown can be trusted."""

    def heartbeats(self) -> Mapping[str, Heartbeat | None]:
        """What each process that should run last said of itself; None where it has said nothing here."""
        ...

    def open_gaps(self, symbol: str, bucket_seconds: int, since: int, limit: int) -> OpenGaps:
        """The holes in what ``CandleSource.candles`` gives for the same. Raises StoreError as it does."""
        ...


class ForecastSource(Protocol):
    """Tells what was forecast. Candles matter more: where that can't be read, there is none."""

    def forecasts(self, symbol: str, since: int) -> Sequence[ShownForecast] | None:
        """Of the finest candles that open at ``since`` or later, in order; None where nobody forecasts."""
        ...

    def track_record(self, symbol: str) -> TrackRecord | None:
        """None where nobody forecasts, or nothing was scored yet; half a minute old at most."""
        ...


class PageSource(CandleSource, TrustSource, ForecastSource, Protocol):
    """All that the page asks for."""
