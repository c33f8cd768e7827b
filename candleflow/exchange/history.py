"""Past trades by their ids, and klines, over REST, from the first address that answers.

Which requests tell them is ``past_trades``' business. However long the rate limit asks to wait
(``rate_limit``), the same address is asked again then. A page of 1,000 trades weighs 25, so filling may fetch
120,000 trades a minute.

Source: binance-spot-api-docs, rest-api.md, "Old trade lookup".
"""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Final, Self, TypeVar

from candleflow.errors import ExchangeError, ExchangeRefusalError
from candleflow.exchange.past_trades import Page, full_page, is_absent, page_by_other_means
from candleflow.exchange.rest import ExchangeRest
from candleflow.market.kline import Kline

_log = logging.getLogger(__name__)
_T = TypeVar("_T")

LOT: Final = 20
"""So many symbols' last trade ids in one request are the cheapest: they weigh 2, and 21 weigh 40."""
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
        """Up to ``limit`` trades, a thousand at most, from ``from_id`` on, in the order of their ids.

        Raises ExchangeError where no address answers.
        """
        return await self._ask(lambda rest: self._page(rest, symbol, from_id, limit))

    async def first_id_since(self, symbol: str, time_us: int) -> int | None:
        """The id of the first trade at ``time_us`` or later, None where there is none. Raises as above."""
        rows = await self._ask(lambda rest: rest.agg_trades(symbol, start_time=time_us, limit=1))
        return rows[0].first_trade_id if rows else None

    async def id_at(self, symbol: str, time_us: int) -> int | None:
        """The id of the first trade at ``time_us`` or later; while there is none, the id that it will have.

        None where the symbol has never been traded. Raises as above.
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
            # The first one came in between.
        raise ExchangeError(
            f"{symbol} has trades since {time_us}, and the exchange doesn't give the first one"
        )

    async def klines(self, symbol: str, interval: str, since: int, until: int) -> list[Kline]:
        """The klines that open in [since, until), microseconds, oldest first; a thousand at most.

        Raises as above.
        """
        return await self._ask(
            lambda rest: rest.klines(symbol, interval, start_time=since, end_time=until - 1)
        )

    async def first_kline_time(self, symbol: str, interval: str, since: int) -> int | None:
        """When the first kline that opens at ``since`` or later opens, None where there is none."""
        rows = await self._ask(lambda rest: rest.klines(symbol, interval, start_time=since, limit=1))
        return rows[0].open_time if rows else None

    async def last_trade_ids(self, symbols: Sequence[str]) -> dict[str, int]:
        """The id of each symbol's last trade, -1 where it had none within 24 h, in the cheapest requests.

        A symbol that the exchange doesn't list is left out. Raises as above.
        """
        lots = [symbols[at : at + LOT] for at in range(0, len(symbols), LOT)]
        if len(lots) * _LOT_WEIGHT > _ALL_WEIGHT:
            lots = [()]  # every symbol of the exchange
        found: dict[str, int] = {}
        for lot in lots:
            found |= await self._ask(partial(_last_trade_ids, lot))
        return {symbol: found[symbol] for symbol in symbols if symbol in found}

    async def server_time(self) -> int:
        """The exchange's clock, in microseconds. Raises as above."""
        return await self._ask(lambda rest: rest.server_time())

    async def _page(self, rest: ExchangeRest, symbol: str, from_id: int, limit: int) -> Page:
        if rest not in self._without_history:
            try:
                return await full_page(rest, symbol, from_id, limit)
            except ExchangeRefusalError as error:
                if not is_absent(error):
                    raise
                _log.info("%s; what other requests tell is used in place of it", error)
                self._without_history.add(rest)
        return await page_by_other_means(rest, symbol, from_id, limit)

    async def _ask(self, question: Callable[[ExchangeRest], Awaitable[_T]]) -> _T:
        problems = []
        for client in self._clients:
            try:
                return await question(client)
            except ExchangeError as error:
                problems.append(str(error))
        raise ExchangeError("; ".join(problems) or "the exchange has no REST address")


async def _last_trade_ids(symbols: Sequence[str], rest: ExchangeRest) -> dict[str, int]:
    """As ``ExchangeRest`` has them, without those that it doesn't list: halves find which ones."""
    try:
        return await rest.last_trade_ids(symbols)
    except ExchangeRefusalError as error:
        if error.code != _INVALID_SYMBOL or not symbols:
            raise
    if len(symbols) == 1:
        return {}
    middle = len(symbols) // 2
    return await _last_trade_ids(symbols[:middle], rest) | await _last_trade_ids(symbols[middle:], rest)
