"""Where trades come from, and how far back they are fetched."""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Final
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from candleflow.proxies import is_loopback
from candleflow.settings.checks import HTTP_ADDRESS, has_good_host
from candleflow.settings.section import Section


class Exchange(StrEnum):
    """Where trades come from, as ``CANDLEFLOW_EXCHANGE`` names it."""

    AUTO = "auto"
    BINANCE = "binance"
    BINANCE_VISION = "binance-vision"
    BINANCE_US = "binance-us"
    SIMULATOR = "simulator"


class Venue(StrEnum):
    """A market with trade ids of its own. Each has its own topic and database: ids of two never mix.

    ``binance`` and ``binance-vision`` are two doors to one market. An exchange given by explicit addresses
    counts as the main one, as whoever names the addresses knows what is behind them.
    """

    MAIN = ""
    US = "binance-us"
    SIMULATED = "simulated"


EXCHANGE_URLS: Final[dict[Exchange, tuple[str, str]]] = {
    Exchange.BINANCE: ("wss://stream.binance.com:9443", "https://api.binance.com"),
    Exchange.BINANCE_VISION: ("wss://data-stream.binance.vision", "https://data-api.binance.vision"),
    Exchange.BINANCE_US: ("wss://stream.binance.us:9443", "https://api.binance.us"),
}
"""WebSocket base and REST base of each real exchange."""


class ExchangeSettings(Section):
    """``settings.exchange``."""

    name: Exchange = Field(
        Exchange.AUTO,
        alias="exchange",
        description="auto: whichever of Binance's hosts answers, else (in `make run`) the simulator",
    )
    ws_url: str | None = Field(
        None, description="WebSocket base address of another exchange, such as ws://127.0.0.1:9443"
    )
    rest_url: str | None = Field(
        None, description="REST base address of another exchange, such as http://127.0.0.1:9443"
    )
    silence_seconds: float = Field(
        30, ge=0.1, le=3_600, description="A connection that has brought nothing for so long is replaced"
    )
    lifetime_minutes: float = Field(
        23 * 60 + 30,
        gt=0,
        le=1_440,
        description="A connection is replaced after this; Binance ends it at 24 h",
    )
    max_streams: int = Field(
        1_024, ge=1, le=1_024, description="Streams on one connection; Binance's limit is 1,024"
    )
    fill_hours: float = Field(
        6,
        ge=0,
        le=168,
        alias="fill_hours",
        description="Missing trades are fetched from the exchange's history as far back as this; 0: none are",
    )
    history_hours: float = Field(
        6,
        ge=0,
        le=168,
        alias="history_hours",
        description="Candles before the first trade come from the exchange's klines, as far back; 0: none do",
    )
    archive_url: str = Field(
        "https://data.binance.vision",
        pattern=HTTP_ADDRESS,
        alias="archive_url",
        description="The exchange's public archive, which `backfill` brings a day's trades from",
    )

    @field_validator("ws_url", "rest_url")
    @classmethod
    def _check_url(cls, value: str | None, info: Any) -> str | None:
        if not value:
            return None
        schemes = ("ws", "wss") if info.field_name == "ws_url" else ("http", "https")
        url = urlsplit(value)
        is_good = url.scheme in schemes and has_good_host(value)
        if not is_good or url.query or url.fragment or url.username:
            raise ValueError(
                f"must be an address such as {schemes[0]}://127.0.0.1:9443, without query or user"
            )
        if url.scheme in ("ws", "http") and not is_loopback(url.hostname or ""):
            raise ValueError(f"must be {schemes[1]}:// unless the host is this machine")
        return value.rstrip("/")

    @property
    def venue(self) -> Venue:
        if self.name is Exchange.SIMULATOR:
            return Venue.SIMULATED
        if self.name is Exchange.BINANCE_US and self.ws_url is None:
            return Venue.US
        return Venue.MAIN

    @property
    def is_simulated(self) -> bool:
        return self.venue is Venue.SIMULATED
