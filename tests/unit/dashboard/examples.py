"""Candles to show, made by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from candleflow.dashboard.source import PageSource
from candleflow.errors import StoreError
from candleflow.market.stored import StoredCandle, SymbolState
from candleflow.market.window import SECOND_US
from candleflow.telemetry import Heartbeat

NOON = 1_723_118_400 * SECOND_US
"""2024-08-08 12:00:00 UTC."""


def candle(place: int, **fields: Any) -> StoredCandle:
    """Return the candle of the ``place``-th 5-second window after noon; its ten trade ids follow the last
    one's."""
    made = StoredCandle(
        symbol="BTCUSDT",
        interval="5s",
        open_time=NOON + place * 5 * SECOND_US,
        open=Decimal("100.00"),
        high=Decimal("102.00"),
        low=Decimal("99.00"),
        close=Decimal("101.00"),
        volume=Decimal("1.5"),
        quote_volume=Decimal("151.5"),
        taker_buy_volume=Decimal("0.6"),
        taker_buy_quote_volume=Decimal("60.6"),
        trade_count=10,
        first_trade_id=place * 10,
        last_trade_id=place * 10 + 9,
        is_closed=True,
        is_complete=True,
        revision=0,
        source="trades",
        updated_at=0,
    )
    return made._replace(**fields)


def candles(count: int) -> list[StoredCandle]:
    return [candle(place) for place in range(count)]


def symbol_state(
    symbol: str,
    last_trade_time: int,
    price: str = "101.00",
    day_open: Decimal | None = None,
    day_opens_at: int | None = None,
) -> SymbolState:
    return SymbolState(symbol, 0, Decimal(price), last_trade_time, last_trade_time, day_open, day_opens_at)


@dataclass
class ExampleSource(PageSource):
    """A source of the given candles, which can be made to fail; records the queries."""

    states: list[SymbolState] = field(default_factory=list)
    stored: list[StoredCandle] = field(default_factory=list)
    is_away: bool = False
    beats: dict[str, Heartbeat | None] = field(default_factory=dict)
    asked: list[tuple[str, int, int | None, int]] = field(default_factory=list)

    def heartbeats(self) -> Mapping[str, Heartbeat | None]:
        return self.beats

    def symbols(self) -> Sequence[SymbolState]:
        if self.is_away:
            raise StoreError("PostgreSQL is away")
        return self.states

    def candles(
        self, symbol: str, bucket_seconds: int, since: int | None, limit: int
    ) -> Sequence[StoredCandle]:
        self.asked.append((symbol, bucket_seconds, since, limit))
        return [one for one in self.stored if since is None or one.open_time >= since][-limit:]
