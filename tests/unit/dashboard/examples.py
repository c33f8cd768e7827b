"""Candles to show, made by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal

from candleflow.dashboard.source import Sparkline
from candleflow.errors import StoreError
from candleflow.market.window import SECOND_US

NOON = 1_723_118_400 * SECOND_US
"""2024-08-08 12:00:00 UTC."""


@dataclass(frozen=True)
class ExampleCandle:
    open_time: int
    open: Decimal = Decimal("100.00")
    high: Decimal = Decimal("102.00")
    low: Decimal = Decimal("99.00")
    close: Decimal = Decimal("101.00")
    volume: Decimal = Decimal("1.5")
    quote_volume: Decimal = Decimal("151.5")
    taker_buy_volume: Decimal = Decimal("0.6")
    taker_buy_quote_volume: Decimal = Decimal("60.6")
    trade_count: int = 10
    first_trade_id: int = 0
    last_trade_id: int = 9
    is_closed: bool = True
    is_complete: bool = True
    revision: int = 0
    source: str = "trades"


def candle(place: int, **fields: object) -> ExampleCandle:
    """The candle of ``place`` five-second windows after noon, its ten trades next to its neighbours'."""
    given: dict[str, object] = {
        "open_time": NOON + place * 5 * SECOND_US,
        "first_trade_id": place * 10,
        "last_trade_id": place * 10 + 9,
    }
    return ExampleCandle(**{**given, **fields})  # type: ignore[arg-type]


def candles(count: int) -> list[ExampleCandle]:
    return [candle(place) for place in range(count)]


@dataclass(frozen=True)
class ExampleSymbol:
    symbol: str
    last_trade_time: int
    last_price: Decimal = Decimal("101.00")
    day_change: Decimal | None = None
    day_opens_at: int | None = None


@dataclass
class ExampleSource:
    """A CandleSource over a list, which can go away; keeps what it was asked for."""

    states: list[ExampleSymbol] = field(default_factory=list)
    stored: list[ExampleCandle] = field(default_factory=list)
    is_away: bool = False
    asked: list[tuple[str, int, int | None, int]] = field(default_factory=list)

    def refresh(self) -> None:
        """Every answer of this one is new."""

    def symbols(self) -> Sequence[ExampleSymbol]:
        if self.is_away:
            raise StoreError("PostgreSQL is away")
        return self.states

    def sparklines(self) -> Mapping[str, Sparkline]:
        return {}

    def first_open_time(self, symbol: str) -> int | None:
        return min((one.open_time for one in self.stored), default=None)

    def candles(
        self, symbol: str, bucket_seconds: int, since: int | None, limit: int
    ) -> Sequence[ExampleCandle]:
        if self.is_away:
            raise StoreError("PostgreSQL is away")
        self.asked.append((symbol, bucket_seconds, since, limit))
        return [one for one in self.stored if since is None or one.open_time >= since][-limit:]
