"""Where the exchange is: its WebSocket and REST addresses, as the settings have them."""

from __future__ import annotations

from typing import Final, NamedTuple

from candleflow.exchange.rate_limit import RateLimiter, RestAddress, Share
from candleflow.settings import EXCHANGE_URLS, Exchange, Settings

_ADVICE: Final = (
    "neither of Binance's hosts can be reached from here. CANDLEFLOW_EXCHANGE=binance-us names another "
    "exchange, CANDLEFLOW_EXCHANGE=simulator the simulator (start it by: python -m candleflow simulate), "
    "CANDLEFLOW_EXCHANGE_WS_URL any address"
)


class Addresses(NamedTuple):
    """Base addresses, the preferred first. Without REST addresses REST is off."""

    websocket: tuple[str, ...]
    rest: tuple[RestAddress, ...]
    advice: str = ""


def addresses(settings: Settings, share: Share = Share.AUDITING) -> Addresses:
    """Where the settings say the exchange is, and ``share``: what of its REST's rate limit is ours.

    ``auto`` means either door to Binance's main market: never another market, nor the simulator, as their
    trades must not come into the same topic.
    """

    def limited(*urls: str) -> tuple[RestAddress, ...]:
        folder = settings.stack.run_dir
        return tuple(RestAddress(url, RateLimiter(url, share=share, folder=folder)) for url in urls)

    if settings.exchange.ws_url is not None:
        rest = settings.exchange.rest_url
        return Addresses((settings.exchange.ws_url,), () if rest is None else limited(rest))
    if settings.exchange.name is Exchange.SIMULATOR:
        place = f"127.0.0.1:{settings.simulator.port}"
        return Addresses((f"ws://{place}",), limited(settings.exchange.rest_url or f"http://{place}"))
    is_auto = settings.exchange.name is Exchange.AUTO
    doors = (Exchange.BINANCE, Exchange.BINANCE_VISION) if is_auto else (settings.exchange.name,)
    websocket, rest_urls = zip(*(EXCHANGE_URLS[door] for door in doors), strict=True)
    rest_urls = rest_urls if settings.exchange.rest_url is None else (settings.exchange.rest_url,)
    return Addresses(websocket, limited(*rest_urls), _ADVICE if is_auto else "")
