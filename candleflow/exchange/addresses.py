"""The exchange's WebSocket and REST addresses, from the settings."""

from __future__ import annotations

from typing import Final, NamedTuple

from candleflow.exchange.rate_limit import RateLimiter, RestAddress, Share
from candleflow.settings import EXCHANGE_URLS, Exchange, Settings

_ADVICE: Final = (
    "neither of Binance's hosts can be reached from here; trying again. To use another exchange, set "
    "CANDLEFLOW_EXCHANGE=binance-us. For made-up trades, set CANDLEFLOW_EXCHANGE=simulator (start it with: "
    "python -m candleflow simulate). For any other address, set CANDLEFLOW_EXCHANGE_WS_URL"
)


class Addresses(NamedTuple):
    """Base addresses, in order of preference. Without REST addresses, REST is off.

    ``advice`` is text to log if no address can be reached.
    """

    websocket: tuple[str, ...]
    rest: tuple[RestAddress, ...]
    advice: str = ""


def addresses(settings: Settings, share: Share = Share.AUDITING) -> Addresses:
    """Return the addresses that the settings select; ``share`` is the caller's part of the rate limit.

    ``auto`` selects the two hosts of Binance's main market. It never selects another market or the simulator,
    as their trades must not get into the same topic.
    """

    def limited(*urls: str) -> tuple[RestAddress, ...]:
        folder = settings.stack.run_dir
        return tuple(RestAddress(url, RateLimiter(url, share=share, folder=folder)) for url in urls)

    if settings.exchange.ws_url is not None:
        rest = settings.exchange.rest_url
        return Addresses((settings.exchange.ws_url,), () if rest is None else limited(rest))
    if settings.exchange.name is Exchange.SIMULATOR:
        place = f"{settings.simulator.host}:{settings.simulator.port}"
        return Addresses((f"ws://{place}",), limited(settings.exchange.rest_url or f"http://{place}"))
    is_auto = settings.exchange.name is Exchange.AUTO
    hosts = (Exchange.BINANCE, Exchange.BINANCE_VISION) if is_auto else (settings.exchange.name,)
    websocket, rest_urls = zip(*(EXCHANGE_URLS[host] for host in hosts), strict=True)
    rest_urls = rest_urls if settings.exchange.rest_url is None else (settings.exchange.rest_url,)
    return Addresses(websocket, limited(*rest_urls), _ADVICE if is_auto else "")
