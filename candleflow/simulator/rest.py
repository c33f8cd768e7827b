"""The simulator's REST API: takes a path with its query, returns a status and JSON. No socket, no clock.

All answers come from the source's history. So trades, aggregate trades and klines agree with each other and
with the WebSocket; ``candleflow.market`` computes klines from the same trades. Errors have Binance's format,
``{"code":-1121,"msg":"Invalid symbol."}`` (binance-spot-api-docs, rest-api.md and errors.md).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from itertools import groupby
from typing import Any, Final
from urllib.parse import parse_qsl, urlsplit

from candleflow.exchange import rate_limit
from candleflow.exchange.rest import MAX_LIMIT, TRADING
from candleflow.market.candle import Candle, CandleFold
from candleflow.market.symbol import is_symbol
from candleflow.market.trade import DECIMAL_PLACES, EXACT, Trade, to_microseconds
from candleflow.market.window import SECOND_US
from candleflow.simulator.source import Listing, Source

DEFAULT_LIMIT: Final = 500
MAX_FOLDED_TRADES: Final = 1_000_000
"""Requests for klines of more trades than this are refused. They would take about 10 s."""

INTERVALS_US: Final[dict[str, int]] = {
    f"{count}{unit}": count * seconds * SECOND_US
    for unit, seconds, counts in (
        ("s", 1, (1,)),
        ("m", 60, (1, 3, 5, 15, 30)),
        ("h", 3_600, (1, 2, 4, 6, 8, 12)),
        ("d", 86_400, (1, 3)),
        ("w", 604_800, (1,)),
    )
    for count in counts
}
"""Binance's kline intervals in microseconds, without ``1M``, as months differ in length."""

_MONDAY_US: Final = 4 * 86_400 * SECOND_US
"""The first Monday after the epoch, a Thursday. Weekly klines open on Mondays."""

TICKER_TRADES: Final = 20
"""A ticker's high, low and volumes cover only the last trades, as many as this. Its ids, count, times, first
and last price cover the whole day. The seeded market stores nothing, so it would have to compute a day's
trades for each request."""

_DAY_US: Final = 86_400 * SECOND_US
_TICKER: Final = "/api/v3/ticker/24hr"
_SMALLEST_STEP: Final = Decimal(1).scaleb(-DECIMAL_PLACES)


class RestError(Exception):
    """A request that is answered with an error: HTTP status, and Binance's code and message."""

    def __init__(self, code: int, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message

    @property
    def body(self) -> bytes:
        return _compact({"code": self.code, "msg": self.message})


class Stopped(Exception):  # noqa: N818 - no error: the simulator is being stopped
    """The computation of a long answer was stopped, as the simulator is shutting down."""


def weight(path: str) -> int:
    """Return the rate-limit weight of a request."""
    url = urlsplit(path)
    return rate_limit.weight(url.path, dict(parse_qsl(url.query)))


def answer(
    source: Source,
    path: str,
    now: int,
    *,
    in_microseconds: bool = False,
    is_stopping: Callable[[], bool] = lambda: False,
) -> bytes:
    """Return the JSON answer to a GET of ``path`` at time ``now``.

    Raises RestError for a wrong request, and Stopped as soon as ``is_stopping()``.
    """
    url = urlsplit(path)
    handler = _HANDLERS.get(url.path)
    if handler is None:
        raise RestError(-1000, f"Path {url.path}, Method GET is invalid", status=404)
    query = dict(parse_qsl(url.query, keep_blank_values=True))
    return _compact(handler(_Request(source, query, now, in_microseconds, is_stopping)))


@dataclass(frozen=True, slots=True)
class _Request:
    """One request's parameters, each checked when it is read."""

    source: Source
    query: dict[str, str]
    now: int
    in_microseconds: bool
    is_stopping: Callable[[], bool]

    @property
    def symbol(self) -> str:
        symbol = self.query.get("symbol", "")
        if not symbol:
            raise RestError(-1102, "Mandatory parameter 'symbol' was not sent, was empty/null, or malformed.")
        self.listing(symbol)
        return symbol

    @property
    def limit(self) -> int:
        """The requested number of rows; 500 by default, 1,000 at most."""
        limit = self.integer("limit")
        return DEFAULT_LIMIT if limit is None else min(MAX_LIMIT, max(1, limit))

    @property
    def ids(self) -> tuple[int, int]:
        """The range of ids of the symbol's trades until now."""
        return self.source.id_range(self.symbol, self.now)

    def listing(self, symbol: str) -> Listing:
        if not is_symbol(symbol):
            raise RestError(
                -1100,
                r"Illegal characters found in parameter 'symbol'; legal range is '^[\w\-._&&[^a-z]]{1,50}$'.",
            )
        listing = self.source.listing(symbol)
        if listing is None:
            raise RestError(-1121, "Invalid symbol.")
        return listing

    def integer(self, name: str) -> int | None:
        text = self.query.get(name)
        if text is None:
            return None
        if not re.fullmatch("[0-9]{1,19}", text):
            raise RestError(
                -1100, f"Illegal characters found in parameter '{name}'; legal range is '^[0-9]{{1,20}}$'."
            )
        return int(text)

    def time(self, name: str) -> int | None:
        """Return a time parameter in microseconds; it may be given in milliseconds or microseconds."""
        units = self.integer(name)
        return None if units is None else to_microseconds(units)

    def units(self, time: int) -> int:
        """Return a time in the unit that the client requested."""
        return time if self.in_microseconds else time // 1_000


def _ping(request: _Request) -> dict[str, Any]:
    return {}


def _time(request: _Request) -> dict[str, Any]:
    return {"serverTime": request.units(request.now)}


def _exchange_info(request: _Request) -> dict[str, Any]:
    return {
        "timezone": "UTC",
        "serverTime": request.units(request.now),
        "rateLimits": [
            {"rateLimitType": "REQUEST_WEIGHT", "interval": "MINUTE", "intervalNum": 1, "limit": 6_000}
        ],
        "exchangeFilters": [],
        "symbols": [_symbol_info(listing) for listing in _asked_listings(request)],
    }


def _asked_listings(request: _Request) -> list[Listing]:
    if "symbol" in request.query and "symbols" in request.query:
        raise RestError(-1128, "Combination of optional parameters invalid.")
    if "symbol" in request.query:
        return [request.listing(request.symbol)]
    if "symbols" not in request.query:
        return list(request.source.listings())
    try:
        names = json.loads(request.query["symbols"])
    except (ValueError, RecursionError):
        names = None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise RestError(-1100, "Illegal characters found in parameter 'symbols'.")
    return [request.listing(name) for name in names]


def _symbol_info(listing: Listing) -> dict[str, Any]:
    return {
        "symbol": listing.symbol,
        "status": TRADING,
        "baseAsset": listing.base_asset,
        "baseAssetPrecision": DECIMAL_PLACES,
        "quoteAsset": listing.quote_asset,
        "quotePrecision": DECIMAL_PLACES,
        "quoteAssetPrecision": DECIMAL_PLACES,
        "orderTypes": ["LIMIT", "MARKET"],
        "isSpotTradingAllowed": True,
        "isMarginTradingAllowed": False,
        "filters": [
            {"filterType": "PRICE_FILTER", "tickSize": _step(listing.price_places)},
            {"filterType": "LOT_SIZE", "stepSize": _step(listing.quantity_places)},
        ],
        "permissions": ["SPOT"],
    }


def _tickers(request: _Request) -> list[dict[str, Any]] | dict[str, Any]:
    if request.query.get("type") != "MINI":
        raise RestError(-1130, "Data sent for parameter 'type' is not valid: only MINI is served here.")
    rows = [_ticker(request, listing.symbol) for listing in _asked_listings(request)]
    return rows[0] if "symbol" in request.query else rows


def _ticker(request: _Request, symbol: str) -> dict[str, Any]:
    """Return a symbol's ticker of the last 24 h."""
    source, present = request.source, request.source.present(request.now)
    begin, end = source.id_range(symbol, request.now)
    first = min(end, max(begin, source.id_at(symbol, present - _DAY_US)))
    latest = list(source.trades(symbol, (max(begin, end - TICKER_TRADES), end)))
    opening = next(source.trades(symbol, (first, min(end, first + 1))), latest[-1] if latest else None)
    members = [trade for trade in latest if trade.trade_id >= first]
    prices = [trade.price for trade in (*members, *latest[-1:])] or [Decimal(0)]
    return {
        "symbol": symbol,
        "openPrice": decimal_text(opening.price if opening else prices[-1]),
        "highPrice": decimal_text(max(prices)),
        "lowPrice": decimal_text(min(prices)),
        "lastPrice": decimal_text(prices[-1]),
        "volume": decimal_text(sum((trade.quantity for trade in members), Decimal(0))),
        "quoteVolume": decimal_text(sum((trade.notional for trade in members), Decimal(0))),
        "openTime": request.units(present - _DAY_US),
        "closeTime": request.units(present),
        "firstId": first if first < end else -1,
        "lastId": end - 1 if first < end else -1,
        "count": end - first,
    }


def _trades(request: _Request) -> list[dict[str, Any]]:
    first, end = request.ids
    return _trade_rows(request, max(first, end - request.limit), end)


def _historical_trades(request: _Request) -> list[dict[str, Any]]:
    from_id = request.integer("fromId")
    if from_id is None:
        return _trades(request)
    first, end = request.ids
    start = max(first, from_id)
    return _trade_rows(request, start, min(end, start + request.limit))


def _trade_rows(request: _Request, start: int, end: int) -> list[dict[str, Any]]:
    return [
        {
            "id": trade.trade_id,
            "price": decimal_text(trade.price),
            "qty": decimal_text(trade.quantity),
            "quoteQty": decimal_text(trade.notional),
            "time": request.units(trade.trade_time),
            "isBuyerMaker": trade.buyer_is_maker,
            "isBestMatch": True,
        }
        for trade in request.source.trades(request.symbol, (start, end))
    ]


def _agg_trades(request: _Request) -> list[dict[str, Any]]:
    source, symbol, (first, end) = request.source, request.symbol, request.ids
    from_id, start, until = request.integer("fromId"), request.time("startTime"), request.time("endTime")
    if from_id is not None and (start is not None or until is not None):
        raise RestError(-1128, "Combination of optional parameters invalid.")
    if first == end:
        return []
    until_id = end if until is None else min(end, source.id_at(symbol, _next_unit(until)))
    if from_id is not None:
        start_id = source.aggregate_start(symbol, from_id)
    elif start is not None:
        start_id = source.id_at(symbol, start)
    else:  # the latest
        last = source.aggregate_of(symbol, max(first, until_id - 1))
        start_id = source.aggregate_start(symbol, max(0, last - request.limit + 1))
    rows = []
    trades = source.trades(symbol, (max(first, start_id), until_id))
    for aggregate_id, members in groupby(trades, lambda one: source.aggregate_of(symbol, one.trade_id)):
        rows.append(_aggregate_row(request, aggregate_id, list(members)))
        if len(rows) == request.limit:
            break
    return rows


def _aggregate_row(request: _Request, aggregate_id: int, trades: list[Trade]) -> dict[str, Any]:
    quantity = Decimal(0)
    for trade in trades:
        quantity = EXACT.add(quantity, trade.quantity)
    return {
        "a": aggregate_id,
        "p": decimal_text(trades[0].price),
        "q": decimal_text(quantity),
        "f": trades[0].trade_id,
        "l": trades[-1].trade_id,
        "T": request.units(trades[0].trade_time),
        "m": trades[0].buyer_is_maker,
        "M": True,
    }


def _klines(request: _Request) -> list[list[Any]]:
    symbol, interval = request.symbol, request.query.get("interval", "")
    if interval not in INTERVALS_US:
        raise RestError(-1120, "Invalid interval.")
    first, end = request.ids
    if first == end:
        return []
    opens = _kline_opens(request, interval, first)
    if not opens:
        return []
    bounds = [request.source.id_at(symbol, at) for at in (opens[0], opens.stop)]
    ids = (max(first, bounds[0]), min(end, bounds[1]))
    if ids[1] - ids[0] > MAX_FOLDED_TRADES:
        raise RestError(-1127, "Lookup interval is too big: too many trades to fold. Ask for fewer klines.")
    folded = _fold(request, symbol, interval, ids)
    before = next(request.source.trades(symbol, (ids[0] - 1, ids[0])), None) if ids[0] > first else None
    close = before.price if before else None
    rows = []
    for open_time in opens:
        candle = folded.get(open_time)
        if candle is not None:
            close = candle.close
            rows.append(_kline_row(request, open_time, opens.step, candle))
        elif close is not None:
            rows.append(_flat_row(request, open_time, opens.step, close))
    return rows


def _kline_opens(request: _Request, interval: str, first_id: int) -> range:
    """Return the open times of the requested klines within history, as a range with the interval as step."""
    size = INTERVALS_US[interval]
    offset = _MONDAY_US if interval == "1w" else 0
    first = next(request.source.trades(request.symbol, (first_id, first_id + 1)))
    earliest = _floor(first.trade_time, size, offset)
    latest = _floor(request.source.present(request.now), size, offset)
    start, until = request.time("startTime"), request.time("endTime")
    if until is not None:
        latest = min(latest, _floor(until, size, offset))
    if start is not None:
        earliest = max(earliest, -_floor(-start, size, -offset))  # the first open at start or later
        latest = min(latest, earliest + (request.limit - 1) * size)
    else:
        earliest = max(earliest, latest - (request.limit - 1) * size)
    return range(earliest, latest + size, size)


def _fold(request: _Request, symbol: str, interval: str, ids: tuple[int, int]) -> dict[int, Candle]:
    """Return the candles of the trades in the range ``ids``, by open time."""
    size = INTERVALS_US[interval]
    offset = _MONDAY_US if interval == "1w" else 0
    folds: dict[int, CandleFold] = {}
    for trade in _until_stopped(request, request.source.trades(symbol, ids)):
        open_time = _floor(trade.trade_time, size, offset)
        if open_time not in folds:
            folds[open_time] = CandleFold(symbol, interval, open_time)
        folds[open_time].add(trade)
    return {open_time: fold.candle() for open_time, fold in folds.items()}


def _until_stopped(request: _Request, trades: Iterator[Trade]) -> Iterator[Trade]:
    for number, trade in enumerate(trades):
        if number % 1_000 == 0 and request.is_stopping():
            raise Stopped
        yield trade


def _kline_row(request: _Request, open_time: int, size: int, candle: Candle) -> list[Any]:
    return [
        request.units(open_time),
        decimal_text(candle.open),
        decimal_text(candle.high),
        decimal_text(candle.low),
        decimal_text(candle.close),
        decimal_text(candle.volume),
        request.units(open_time + size) - 1,
        decimal_text(candle.quote_volume),
        candle.trade_count,
        decimal_text(candle.taker_buy_volume),
        decimal_text(candle.taker_buy_quote_volume),
        "0",
    ]


def _flat_row(request: _Request, open_time: int, size: int, close: Decimal) -> list[Any]:
    """Return a kline without trades: all prices are the close before it, as Binance has it."""
    price, zero = decimal_text(close), decimal_text(Decimal(0))
    close_time = request.units(open_time + size) - 1
    return [request.units(open_time), *(price,) * 4, zero, close_time, zero, 0, zero, zero, "0"]


def decimal_text(value: Decimal) -> str:
    """Return a number with eight decimal places as Binance writes it, or with more if needed to be exact."""
    whole = EXACT.normalize(value)
    exponent = whole.as_tuple().exponent
    if isinstance(exponent, int) and exponent >= -DECIMAL_PLACES:
        whole = EXACT.quantize(whole, _SMALLEST_STEP)
    return format(whole, "f")


def _step(places: int) -> str:
    return decimal_text(Decimal(1).scaleb(-places))


def _floor(time: int, size: int, offset: int) -> int:
    return time - (time - offset) % size


def _next_unit(time: int) -> int:
    """Return the first microsecond after an inclusive end, which may have been given in milliseconds."""
    return time + (1 if time % 1_000 else 1_000)


def _compact(content: Any) -> bytes:
    return json.dumps(content, separators=(",", ":")).encode()


_HANDLERS: Final[dict[str, Callable[[_Request], Any]]] = {
    "/api/v3/ping": _ping,
    "/api/v3/time": _time,
    "/api/v3/exchangeInfo": _exchange_info,
    _TICKER: _tickers,
    "/api/v3/trades": _trades,
    "/api/v3/historicalTrades": _historical_trades,
    "/api/v3/aggTrades": _agg_trades,
    "/api/v3/klines": _klines,
}
