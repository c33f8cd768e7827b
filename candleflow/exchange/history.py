"""Fetches past trades by id, and klines, over REST, from the first address that answers.

``past_trades`` chooses the requests. When the rate limit is reached (``rate_limit``), a request waits as long
as needed and then asks the same address. A page of 1,000 trades costs a weight of 25, so gap filling can
fetch 120,000 trades a minute.

Source: binance-spot-api-docs, rest-api.md, "Old trade lookup".
"""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Final, Self, TypeVar

from candleflow.errors import ExchangeError, ExchangeRefusalError
from candleflow.exchange.past_trades import Page, full_page, is_absent, page_by_other_means
from candleflow.exchange.rest import ExchangeRest
from candleflow.market.kline import Kline

_log = logging.getLogger(__name__)
_T = TypeVar("_T")

LOT: Final = 20
"""Symbols per request for last trade ids. 20 symbols cost a weight of 2, but 21 cost 40."""
_LOT_WEIGHT: Final = 2
_ALL_WEIGHT: Final = 80
_INVALID_SYMBOL: Final = -1121
_ID_ATTEMPTS: Final = 3
_REQUEST_SECONDS: Final = 15.0


class TradeHistory:
    """Asks the first of ``base_urls`` that answers; an async context manager."""

    def __init__(self, base_urls: Sequence[str]) -> None:
        self._clients = [
            ExchangeRest(url, timeout_seconds=_REQUEST_SECONDS, patience_seconds=math.inf)
            for url in base_urls
        ]
        self._without_history: set[ExchangeRest] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for client in self._clients:
            await client.close()

    async def page(self, symbol: str, from_id: int, limit: int) -> Page:
        """Return up to ``limit`` trades (at most 1,000) from ``from_id`` on, in the order of their ids.

        Raises ExchangeError if no address answers.
        """
        return await self._ask(lambda rest: self._page(rest, symbol, from_id, limit))

    async def first_id_since(self, symbol: str, time_us: int) -> int | None:
        """Return the id of the first trade at ``time_us`` or later, or None. Raises as ``page`` does."""
        rows = await self._ask(lambda rest: rest.agg_trades(symbol, start_time=time_us, limit=1))
        return rows[0].first_trade_id if rows else None

    async def id_at(self, symbol: str, time_us: int) -> int | None:
        """Return the id of the first trade at ``time_us`` or later, or the id that it will have.

        Returns None if the symbol has never been traded. Raises as ``page`` does.
        """
        for _ in range(_ID_ATTEMPTS):
            found = await self.first_id_since(symbol, time_us)
            if found is not None:
                return found
            latest = await self._ask(lambda rest: rest.agg_trades(symbol, limit=1))
            if not latest:
                return None
            if latest[0].trade_time < time_us:
                return latest[0].last_trade_id + 1
            # The first such trade was made between the two requests: ask again.
        since = datetime.fromtimestamp(time_us / 1_000_000, UTC)
        raise ExchangeError(
            f"{symbol} has trades since {since:%Y-%m-%d %H:%M:%S} UTC, but the exchange returns none"
        )

    async def klines(self, symbol: str, interval: str, since: int, until: int) -> list[Kline]:
        """Return the klines that open within [since, until), in microseconds; oldest first, at most 1,000.

        Raises as ``page`` does.
        """
        return await self._ask(
            lambda rest: rest.klines(symbol, interval, start_time=since, end_time=until - 1)
        )

    async def first_kline_time(self, symbol: str, interval: str, since: int) -> int | None:
        """Return the open time of the first kline that opens at ``since`` or later, or None."""
        rows = await self._ask(lambda rest: rest.klines(symbol, interval, start_time=since, limit=1))
        return rows[0].open_time if rows else None

    async def last_trade_ids(self, symbols: Sequence[str]) -> dict[str, int]:
        """Return the id of each symbol's last trade, or -1 if it had none within 24 h.

        Uses the requests with the lowest weight. A symbol that the exchange doesn't list has no entry. Raises
        as ``page`` does.
        """
        lots = [symbols[at : at + LOT] for at in range(0, len(symbols), LOT)]
        if len(lots) * _LOT_WEIGHT > _ALL_WEIGHT:
            lots = [()]  # every symbol of the exchange
        found: dict[str, int] = {}
        for lot in lots:
            found |= await self._ask(partial(_last_trade_ids, lot))
        return {symbol: found[symbol] for symbol in symbols if symbol in found}

    async def server_time(self) -> int:
        """Return the exchange's time in microseconds. Raises as ``page`` does."""
        return await self._ask(lambda rest: rest.server_time())

    async def _page(self, rest: ExchangeRest, symbol: str, from_id: int, limit: int) -> Page:
        if rest not in self._without_history:
            try:
                return await full_page(rest, symbol, from_id, limit)
            except ExchangeRefusalError as error:
                if not is_absent(error):
                    raise
                _log.info("%s; trades are fetched by other requests from now on", error)
                self._without_history.add(rest)
        return await page_by_other_means(rest, symbol, from_id, limit)

    async def _ask(self, question: Callable[[ExchangeRest], Awaitable[_T]]) -> _T:
        problems = []
        for client in self._clients:
            try:
                return await question(client)
            except ExchangeError as error:
                problems.append(str(error))
        raise ExchangeError(
            "; ".join(problems) or "no REST address of the exchange is set (CANDLEFLOW_EXCHANGE_REST_URL)"
        )


async def _last_trade_ids(symbols: Sequence[str], rest: ExchangeRest) -> dict[str, int]:
    """Return the symbols' last trade ids without unlisted symbols, which are found by bisection.

    A single unlisted symbol makes the exchange refuse the whole request.
    """
    try:
        return await rest.last_trade_ids(symbols)
    except ExchangeRefusalError as error:
        if error.code != _INVALID_SYMBOL or not symbols:
            raise
    if len(symbols) == 1:
        return {}
    middle = len(symbols) // 2
    return await _last_trade_ids(symbols[:middle], rest) | await _last_trade_ids(symbols[middle:], rest)
