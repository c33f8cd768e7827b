"""A page of past trades by their ids, from one address, by whichever of its requests can tell them.

``historicalTrades`` tells all. Hosts for market data only don't have it: there the latest thousand come from
``trades``, and older ones from ``aggTrades``, which adds up the trades that one order took at one price. Of
such a sum of several trades no single quantity can be told, so only an aggregate of one trade is a trade.

Source: binance-spot-api-docs, rest-api.md, "Market Data endpoints", and faqs/market_data_only.md for what the
hosts for market data have.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from http import HTTPStatus
from itertools import pairwise
from typing import Final

from candleflow.errors import ExchangeError, ExchangeRefusalError, MarketError
from candleflow.exchange.rest import MAX_LIMIT, AggregateTrade, ExchangeRest
from candleflow.market.trade import Trade, check


class Origin(StrEnum):
    """The request that trades come from, by Binance's name."""

    HISTORICAL = "historicalTrades"
    RECENT = "trades"
    AGGREGATE = "aggTrades"


@dataclass(frozen=True, slots=True)
class Page:
    """Past trades of one symbol, in the order of their ids, from the id that was asked for on."""

    trades: Sequence[Trade]
    end: int
    """The first id that the page tells nothing of. Those below it that have no trade here can't be had."""
    begins_at: int
    """The time of the page's beginning, in microseconds; 0 where it tells of no id."""
    origin: Origin


async def full_page(rest: ExchangeRest, symbol: str, from_id: int, limit: int) -> Page:
    """Up to ``limit`` trades by ``historicalTrades``; raises as ``ExchangeRest`` does."""
    trades = await rest.historical_trades(symbol, from_id, min(limit, MAX_LIMIT))
    return _page(symbol, from_id, trades, Origin.HISTORICAL)


async def page_by_other_means(rest: ExchangeRest, symbol: str, from_id: int, limit: int) -> Page:
    """Up to ``limit`` trades without ``historicalTrades``; raises as ``ExchangeRest`` does."""
    latest = await rest.agg_trades(symbol, limit=1)
    if not latest or latest[-1].last_trade_id < from_id:
        return Page((), from_id, 0, Origin.RECENT)
    behind = latest[-1].last_trade_id - from_id
    if behind < MAX_LIMIT:
        recent = await rest.recent_trades(symbol)
        if recent and recent[0].trade_id <= from_id:
            asked = [trade for trade in recent if from_id <= trade.trade_id < from_id + limit]
            return _page(symbol, from_id, asked, Origin.RECENT)
    rows = await _aggregates_from(rest, symbol, from_id, latest[-1])
    return _aggregate_page(
        rows, from_id, min(limit, behind - _TOLD_ONE_BY_ONE) if behind >= MAX_LIMIT else limit
    )


def is_absent(error: ExchangeRefusalError) -> bool:
    """Whether the address refused as it has no such request at all."""
    return error.status == HTTPStatus.NOT_FOUND


_TOLD_ONE_BY_ONE: Final = 800
"""A page of aggregates ends this many trades before the latest one. The next page then gets them from
``trades``, which tells the latest thousand, unless more than 200 are traded until then."""


def _page(symbol: str, from_id: int, trades: Sequence[Trade], origin: Origin) -> Page:
    ids = [from_id - 1, *(trade.trade_id for trade in trades)]
    if any(before >= after for before, after in pairwise(ids)):
        raise ExchangeError(f"{origin} of {symbol} from {from_id} on came out of order")
    return Page(trades, ids[-1] + 1, trades[0].trade_time if trades else 0, origin)


def _aggregate_page(rows: Sequence[AggregateTrade], from_id: int, limit: int) -> Page:
    if not rows:
        return Page((), from_id, 0, Origin.AGGREGATE)
    until = from_id + limit
    alone = [row for row in rows if row.trade_count == 1 and from_id <= row.first_trade_id < until]
    end = min(until, rows[-1].last_trade_id + 1)
    return Page([_trade(row) for row in alone], end, rows[0].trade_time, Origin.AGGREGATE)


def _trade(row: AggregateTrade) -> Trade:
    trade = Trade(row.symbol, row.first_trade_id, row.price, row.quantity, row.trade_time, row.buyer_is_maker)
    try:
        return check(trade)
    except MarketError as error:
        raise ExchangeError(f"{Origin.AGGREGATE} has what can't be a trade: {error}") from error


async def _aggregates_from(
    rest: ExchangeRest, symbol: str, trade_id: int, latest: AggregateTrade
) -> Sequence[AggregateTrade]:
    """A page of aggregates from the one that holds the trade on; none where the exchange has it no longer.

    They are asked for by ids of their own, of which each stands for a trade at least: as many aggregates back
    as trades is far enough. From there the way is guessed by proportion and by halves in turn.
    """
    low, low_trade = max(0, latest.aggregate_id - (latest.last_trade_id - trade_id)), 0
    high, high_trade = latest.aggregate_id + 1, latest.last_trade_id + 1
    guess, by_halves = low, False
    while low < high:
        rows = await rest.agg_trades(symbol, from_id=guess)
        if not rows or rows[0].first_trade_id > trade_id:
            high, high_trade = guess, rows[0].first_trade_id if rows else high_trade
        elif rows[-1].last_trade_id < trade_id:
            low, low_trade = rows[-1].aggregate_id + 1, rows[-1].last_trade_id + 1
        else:
            return [row for row in rows if row.last_trade_id >= trade_id]
        share = (high - low) // 2
        if not by_halves and low_trade < high_trade:
            share = (high - low) * (trade_id - low_trade) // (high_trade - low_trade)
        guess = max(low, min(high - 1, low + share - _MARGIN))
        by_halves = not by_halves
    return []


_MARGIN: Final = MAX_LIMIT // 2
"""A guess is aimed to be so far before: the page that begins there then holds the trade, either way."""
