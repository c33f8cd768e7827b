"""Fetches a page of past trades by id from one address, with whichever request the address supports.

``historicalTrades`` has all trades. Binance's market-data-only hosts don't have that request. From them, the
latest thousand trades come from ``trades``, and older ones from ``aggTrades``. An aggregate is the sum of the
trades that one order took at one price. The single quantities can't be derived from a sum, so only aggregates
of exactly one trade are used.

Source: binance-spot-api-docs, rest-api.md, "Market Data endpoints", and faqs/market_data_only.md for what the
market-data-only hosts have.
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
    """The REST request that trades come from, by Binance's name."""

    HISTORICAL = "historicalTrades"
    RECENT = "trades"
    AGGREGATE = "aggTrades"


@dataclass(frozen=True, slots=True)
class Page:
    """Past trades of one symbol from the requested id on, in the order of their ids."""

    trades: Sequence[Trade]
    end: int
    """The first id after the page. Ids below it without a trade here can't be fetched."""
    begins_at: int
    """The time of the page's first trade or aggregate, in microseconds; 0 if the page is empty."""
    origin: Origin


async def full_page(rest: ExchangeRest, symbol: str, from_id: int, limit: int) -> Page:
    """Return up to ``limit`` trades from ``historicalTrades``; raises as ``ExchangeRest`` does."""
    trades = await rest.historical_trades(symbol, from_id, min(limit, MAX_LIMIT))
    return _page(symbol, from_id, trades, Origin.HISTORICAL)


async def page_by_other_means(rest: ExchangeRest, symbol: str, from_id: int, limit: int) -> Page:
    """Return up to ``limit`` trades without ``historicalTrades``; raises as ``ExchangeRest`` does."""
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
        rows, from_id, min(limit, behind - _LEFT_TO_TRADES) if behind >= MAX_LIMIT else limit
    )


def is_absent(error: ExchangeRefusalError) -> bool:
    """Return whether the address doesn't have this request at all."""
    return error.status == HTTPStatus.NOT_FOUND


_LEFT_TO_TRADES: Final = 800
"""A page of aggregates ends this many trades before the latest one. The next page then gets these from
``trades``, which has the latest thousand, unless more than 200 new trades are made before that request."""


def _page(symbol: str, from_id: int, trades: Sequence[Trade], origin: Origin) -> Page:
    ids = [from_id - 1, *(trade.trade_id for trade in trades)]
    if any(before >= after for before, after in pairwise(ids)):
        raise ExchangeError(f"the exchange returned {origin} of {symbol} from {from_id} on out of order")
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
        raise ExchangeError(f"{Origin.AGGREGATE} has an invalid trade: {error}") from error


async def _aggregates_from(
    rest: ExchangeRest, symbol: str, trade_id: int, latest: AggregateTrade
) -> Sequence[AggregateTrade]:
    """Return a page of aggregates that starts with the trade's; empty if the exchange no longer has it.

    Aggregates are requested by their own ids. Each aggregate has at least one trade, so going back as many
    aggregates as trades is far enough. From there, interpolation and bisection alternate until the trade's
    aggregate is found.
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
"""How far before the estimated aggregate a page starts, so that it has the trade even if the estimate is off
in either direction."""
