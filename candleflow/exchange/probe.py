"""Finds out which of Binance's hosts can be reached, by the same WebSocket handshake that the stream uses."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from websockets.exceptions import InvalidHandshake, InvalidStatus, InvalidURI, ProxyError

from candleflow.exchange import tls
from candleflow.exchange.sockets import connect
from candleflow.settings import EXCHANGE_URLS, Exchange

WITHIN_SECONDS: Final = 10.0

PREFERENCE: Final = (Exchange.BINANCE, Exchange.BINANCE_VISION, Exchange.BINANCE_US)

_STATUS_WORDS: Final = {
    403: "refused by its firewall",
    418: "this address is banned for a while",
    429: "too many requests from this address",
    451: "not served to this country",
}


@dataclass(frozen=True, slots=True)
class Answer:
    """How one host answered; ``problem`` is None if it can be used."""

    exchange: Exchange
    host: str
    problem: str | None


async def probe(
    urls: Mapping[Exchange, tuple[str, str]] = EXCHANGE_URLS,
    preference: Sequence[Exchange] = PREFERENCE,
    within_seconds: float = WITHIN_SECONDS,
) -> list[Answer]:
    """Ask all hosts at once; return the answers in order of preference, up to the first usable host.

    Takes at most ``within_seconds`` in all. It waits for a preferred host even if another one has answered.
    Raises SettingError if a proxy variable is wrong.
    """
    asked = [asyncio.create_task(_ask(one, urls[one][0], within_seconds)) for one in preference]
    answers = []
    try:
        for task in asked:
            answers.append(await task)
            if answers[-1].problem is None:
                break
    finally:
        for task in asked:
            task.cancel()
        await asyncio.gather(*asked, return_exceptions=True)
    return answers


async def _ask(exchange: Exchange, ws_url: str, within_seconds: float) -> Answer:
    host = urlsplit(ws_url).hostname or ws_url
    problem = None
    try:
        async with asyncio.timeout(within_seconds):
            connection = await connect(ws_url, "/ws", open_timeout=None, close_timeout=0)
            connection.transport.abort()
    except (OSError, InvalidHandshake, InvalidURI, EOFError) as error:  # TimeoutError is an OSError
        problem = explain(error, within_seconds)
    return Answer(exchange, host, problem)


def explain(error: BaseException, within_seconds: float = WITHIN_SECONDS) -> str:
    """Return in a few words why a host can't be used."""
    if isinstance(error, InvalidStatus):
        status = error.response.status_code
        return f"HTTP {status}" + (f": {_STATUS_WORDS[status]}" if status in _STATUS_WORDS else "")
    if (failure := tls.failure(error)) is not None:
        return failure
    if isinstance(error, TimeoutError):
        return f"no answer within {within_seconds:.0f} s"
    if isinstance(error, socket.gaierror):
        return "no network: the host name can't be resolved"
    if isinstance(error, OSError):
        return f"no network: {error.strerror or str(error) or 'the connection was dropped'}"
    if isinstance(error, ProxyError):
        return f"the proxy failed: {error}"
    return f"it has no WebSocket at that address: {error}"
