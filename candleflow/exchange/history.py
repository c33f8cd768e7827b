"""Past trades by their ids, over REST, with the exchange's limits kept: what fills a gap.

Which requests tell them is ``past_trades``' business; here is whom to ask, and when.

Binance allows 6,000 weight a minute and counts it by address, so others may use it too: above half of that
this waits for the next minute. A page of 1,000 trades weighs 25, so that is 120,000 trades a minute.

Source: binance-spot-api-docs, rest-api.md, "Old trade lookup", "LIMITS".
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from types import TracebackType
from typing import Final, Self, TypeVar

from candleflow.errors import ExchangeError, ExchangeRefusalError, RateLimitError
from candleflow.exchange.past_trades import Page, full_page, is_absent, page_by_other_means
from candleflow.exchange.rest import ExchangeRest

_log = logging.getLogger(__name__)
_T = TypeVar("_T")

WEIGHT_SHARE: Final = 3_000
_MINUTE_SECONDS: Final = 60.0
_REQUEST_SECONDS: Final = 15.0


class TradeHistory:
    """Asks the first of ``base_urls`` that answers; an async context manager.

    ``sleep`` and ``now`` (seconds since the epoch) are for tests.
    """

    def __init__(
        self,
        base_urls: Sequence[str],
        *,
        weight_share: int = WEIGHT_SHARE,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._clients = [ExchangeRest(url, timeout_seconds=_REQUEST_SECONDS) for url in base_urls]
        self._without_history: set[ExchangeRest] = set()
        self._weight_share = weight_share
        self._sleep = sleep
        self._now = now

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
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
                return await self._patiently(client, question)
            except ExchangeError as error:
                problems.append(str(error))
        raise ExchangeError("; ".join(problems) or "the exchange has no REST address")

    async def _patiently(self, client: ExchangeRest, question: Callable[[ExchangeRest], Awaitable[_T]]) -> _T:
        """Ask as soon as the exchange lets us."""
        while True:
            if (client.used_weight or 0) >= self._weight_share:
                await self._sleep(_MINUTE_SECONDS - self._now() % _MINUTE_SECONDS)
                client.forget_used_weight()
            try:
                return await question(client)
            except RateLimitError as error:
                _log.warning("filling gaps waits %.0f s: %s", error.wait_seconds, error)
                await self._sleep(error.wait_seconds)
