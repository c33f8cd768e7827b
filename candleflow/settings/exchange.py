"""Settings of the exchange: which one, how it is connected to, and how far back trades are fetched."""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Final

from pydantic import Field, field_validator

from candleflow.settings.checks import HTTP_ADDRESS, address, encrypted
from candleflow.settings.section import Section


class Exchange(StrEnum):
    """The values of ``CANDLEFLOW_EXCHANGE``."""

    AUTO = "auto"
    BINANCE = "binance"
    BINANCE_VISION = "binance-vision"
    BINANCE_US = "binance-us"
    SIMULATOR = "simulator"


class Venue(StrEnum):
    """A market with its own trade ids. Each venue has its own topics and database, so ids never mix.

    ``binance`` and ``binance-vision`` are two hosts of one market. An exchange given by explicit addresses
    counts as the main venue.
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
    name: Exchange = Field(
        Exchange.AUTO,
        alias="exchange",
        description="Where trades come from. auto: the first of Binance's hosts that answers; `up` and "
        "`make run` fall back to the simulator. Name one to use no other",
    )
    ws_url: str | None = Field(
        None,
        description="WebSocket base address, such as ws://127.0.0.1:9443. Set it with the REST address to "
        "use another server that speaks Binance's protocol",
    )
    rest_url: str | None = Field(
        None,
        description="REST base address, such as http://127.0.0.1:9443. Set it with the WebSocket address",
    )
    silence_seconds: float = Field(
        30,
        ge=0.1,
        le=3_600,
        description="Replace a connection that delivers nothing for this many seconds. Raise it if you "
        "follow only symbols that seldom trade",
    )
    lifetime_minutes: float = Field(
        23 * 60 + 30,
        gt=0,
        le=1_440,
        description="Replace a connection after this many minutes, before Binance ends it at 24 h",
    )
    max_streams: int = Field(
        1_024,
        ge=1,
        le=1_024,
        description="Maximum number of streams per connection; Binance's limit is 1,024. Lower it to spread "
        "many symbols over more connections",
    )
    fill_hours: float = Field(
        6,
        ge=0,
        le=168,
        alias="fill_hours",
        description="Fill gaps by fetching missing trades up to this many hours old. Raise it if outages "
        "may last longer; 0 fills none",
    )
    history_hours: float = Field(
        6,
        ge=0,
        le=168,
        alias="history_hours",
        description="Load this many hours of candles before the first trade from the exchange's klines. "
        "Raise it for a longer chart at once; 0 loads none",
    )
    archive_url: str = Field(
        "https://data.binance.vision",
        pattern=HTTP_ADDRESS,
        alias="archive_url",
        description="Address of the exchange's public archive, which `backfill` downloads from. Change it "
        "to use a mirror",
    )

    @field_validator("ws_url", "rest_url")
    @classmethod
    def _check_url(cls, value: str | None, info: Any) -> str | None:
        if not value:
            return None
        schemes = ("ws", "wss") if info.field_name == "ws_url" else ("http", "https")
        example = f"{schemes[0]}://127.0.0.1:9443, without query or user"
        return encrypted(address(value, example, schemes=schemes, may_have_path=True))

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
