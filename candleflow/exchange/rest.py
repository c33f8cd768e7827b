"""A client of Binance's REST API for market data: the time, the symbols, and history by trade id or time.

Every answer is validated: an undocumented answer or an invalid trade raises ExchangeError. Every request goes
through the host's ``rate_limit``. A request that was refused by the rate limit is repeated after the wait.
Nothing else is retried here.

Source: binance-spot-api-docs, rest-api.md, "General endpoints" and "Market Data endpoints".
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from http import HTTPStatus
from typing import Any, Final, Self, TypeVar

import httpx2 as httpx

from candleflow.errors import ExchangeError, ExchangeRefusalError, MarketError, RateLimitError
from candleflow.exchange import tls
from candleflow.exchange.rate_limit import RestAddress, weight
from candleflow.exchange.reconnect import ban_seconds
from candleflow.market.kline import Kline
from candleflow.market.trade import MICROSECONDS_FROM, Trade, check, to_microseconds
from candleflow.proxies import proxy_for

MAX_LIMIT: Final = 1_000
"""Maximum number of rows per request."""
TRADING: Final = "TRADING"
"""The status of a symbol whose trading isn't suspended."""

_TIMEOUT_SECONDS: Final = 10.0
_PATIENCE_SECONDS: Final = 10.0
_SHOWN_CHARACTERS: Final = 200

_Row = TypeVar("_Row")


@dataclass(frozen=True, slots=True)
class AggregateTrade:
    """The trades ``first_trade_id`` to ``last_trade_id`` of one order at one price, as one; time in us."""

    symbol: str
    aggregate_id: int
    price: Decimal
    quantity: Decimal
    first_trade_id: int
    last_trade_id: int
    trade_time: int
    buyer_is_maker: bool

    @property
    def trade_count(self) -> int:
        return self.last_trade_id - self.first_trade_id + 1


class ExchangeRest:
    """A REST client of one exchange; an async context manager.

    ``base_url`` is an address such as https://api.binance.com. Clients of one RestAddress share its rate
    limiter; a plain ``str`` gets its own. ``patience_seconds``: a request's longest total wait for the rate
    limit. Times are microseconds since the epoch, UTC, in arguments and results.

    Raises SettingError if a proxy environment variable is wrong. Every method raises:

    - ExchangeError if the exchange can't be reached, or its answer isn't as documented;
    - ExchangeRefusalError if it refuses the request;
    - RateLimitError if the wait for the rate limit would be longer than ``patience_seconds``.
    """

    def __init__(
        self,
        base_url: str,
        *,
        timeout_seconds: float = _TIMEOUT_SECONDS,
        patience_seconds: float = _PATIENCE_SECONDS,
    ) -> None:
        self._base_url = base_url
        self._limiter = (base_url if isinstance(base_url, RestAddress) else RestAddress(base_url)).limiter
        self._patience_seconds = patience_seconds
        self._answer_seconds = 2 * timeout_seconds
        self._client = httpx.AsyncClient(
            base_url=base_url,
            timeout=timeout_seconds,
            headers={"Accept": "application/json"},
            trust_env=False,
            proxy=proxy_for(base_url),
            verify=tls.context(),
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        await self._client.aclose()

    async def server_time(self) -> int:
        """Return the exchange's time, read about halfway between request and answer."""
        answer = await self._get("/api/v3/time")
        return self._checked(answer, lambda fields: _time(fields["serverTime"]))

    async def symbols(self) -> dict[str, str]:
        """Return all listed symbols, sorted by name, with their status, such as ``TRADING``. Weight 20.

        The answer has several megabytes.
        """
        answer = await self._get("/api/v3/exchangeInfo")
        return self._checked(
            answer,
            lambda fields: dict(
                sorted((_text(one["symbol"]), _text(one["status"])) for one in fields["symbols"])
            ),
        )

    async def historical_trades(
        self, symbol: str, from_id: int | None = None, limit: int = MAX_LIMIT
    ) -> list[Trade]:
        """Return up to ``limit`` trades from ``from_id`` on, by id; if None, the latest ones. Weight 25."""
        rows = await self._get("/api/v3/historicalTrades", symbol=symbol, fromId=from_id, limit=limit)
        return self._rows(rows, lambda row: _trade(symbol, row))

    async def recent_trades(self, symbol: str, limit: int = MAX_LIMIT) -> list[Trade]:
        """Return the latest ``limit`` trades, by id. Weight 25."""
        rows = await self._get("/api/v3/trades", symbol=symbol, limit=limit)
        return self._rows(rows, lambda row: _trade(symbol, row))

    async def agg_trades(
        self,
        symbol: str,
        *,
        from_id: int | None = None,
        start_time: int | None = None,
        limit: int = MAX_LIMIT,
    ) -> list[AggregateTrade]:
        """Return up to ``limit`` aggregates, from the aggregate id ``from_id`` or from ``start_time`` on.

        Without either, returns the latest ones. Weight 4.
        """
        rows = await self._get(
            "/api/v3/aggTrades", symbol=symbol, fromId=from_id, startTime=_written(start_time), limit=limit
        )
        return self._rows(rows, lambda row: _aggregate(symbol, row))

    async def klines(
        self,
        symbol: str,
        interval: str,
        *,
        start_time: int | None = None,
        end_time: int | None = None,
        limit: int = MAX_LIMIT,
    ) -> list[Kline]:
        """Return up to ``limit`` klines that open between the times, both included.

        They start at ``start_time`` if it is given; otherwise they are the latest ones. The last kline may
        still be open. Weight 2.
        """
        rows = await self._get(
            "/api/v3/klines",
            symbol=symbol,
            interval=interval,
            startTime=_written(start_time),
            endTime=_written(end_time),
            limit=limit,
        )
        return self._rows(rows, lambda row: _kline(symbol, interval, row))

    async def last_trade_ids(self, symbols: Sequence[str] = ()) -> dict[str, int]:
        """Return the id of each symbol's last trade, or -1 if it had none within 24 h.

        Without ``symbols``, returns those of all symbols. An answer may be slightly old: the true id is this
        or a greater one. Weight 2 for up to 20 symbols, 40 for up to 100, 80 for more or all (rest-api.md,
        "24hr ticker price change statistics"). If a symbol isn't listed, the exchange refuses the whole
        request with code -1121.
        """
        named = json.dumps(list(symbols), separators=(",", ":"), ensure_ascii=False) if symbols else None
        rows = await self._get("/api/v3/ticker/24hr", symbols=named, type="MINI")
        return dict(self._rows(rows, lambda row: (_text(row["symbol"]), _whole(row["lastId"]))))

    async def _get(self, path: str, **parameters: str | int | None) -> Any:
        given = {name: value for name, value in parameters.items() if value is not None}
        cost, patience = weight(path, given), self._patience_seconds
        while True:
            patience = await self._limiter.turn(cost, patience)
            response = await self._send(path, given, cost)
            if response.status_code == HTTPStatus.OK:
                break
            self._refuse(response, patience)
        try:
            # In a thread: the list of all symbols has megabytes, and the event loop must answer pings.
            return await asyncio.to_thread(json.loads, response.content)
        except (ValueError, RecursionError) as error:
            raise ExchangeError(f"{self._base_url}{path} answered something other than JSON") from error

    async def _send(self, path: str, given: dict[str, str | int], cost: int) -> httpx.Response:
        used: int | None = None
        asked_at = self._limiter.now()
        try:
            async with asyncio.timeout(self._answer_seconds):  # httpx's own timeout is per socket read
                response = await self._client.get(path, params=given)
            used = _used_weight(response)
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            words = tls.failure(error) or str(error) or type(error).__name__
            raise ExchangeError(f"{self._base_url} can't be reached: {words}") from error
        else:
            return response
        finally:
            self._limiter.answered(cost, used, asked_at)

    def _refuse(self, response: httpx.Response, patience: float) -> None:
        """Raise ExchangeRefusalError; or, for a rate limit, record the wait.

        Raises RateLimitError if the wait is longer than ``patience``, in seconds.
        """
        status = response.status_code
        code, words = _error_fields(response)
        message = f"{self._base_url} answered HTTP {status}: {words}"
        wait = ban_seconds(status, response.headers.get("Retry-After"), self._limiter.now())
        if not wait:
            raise ExchangeRefusalError(message, status, code)
        self._limiter.refused(wait)
        if wait > patience:
            raise RateLimitError(message, wait)

    def _rows(self, rows: Any, read: Callable[[Any], _Row]) -> list[_Row]:
        return self._checked(rows, lambda rows: [read(row) for row in rows])

    def _checked(self, answer: Any, read: Callable[[Any], _Row]) -> _Row:
        try:
            return read(answer)
        except (KeyError, IndexError, TypeError, ValueError, InvalidOperation, MarketError) as error:
            shown = str(answer)[:_SHOWN_CHARACTERS]
            raise ExchangeError(
                f"{self._base_url} answered something undocumented ({error!r}): {shown}"
            ) from error


def _trade(symbol: str, row: Any) -> Trade:
    return check(
        Trade(
            symbol,
            _whole(row["id"]),
            _decimal(row["price"]),
            _decimal(row["qty"]),
            _time(row["time"]),
            _flag(row["isBuyerMaker"]),
        )
    )


def _aggregate(symbol: str, row: Any) -> AggregateTrade:
    first, last = _whole(row["f"]), _whole(row["l"])
    if first > last:
        raise ValueError(f"trades {first} to {last}")
    return AggregateTrade(
        symbol,
        _whole(row["a"]),
        _decimal(row["p"]),
        _decimal(row["q"]),
        first,
        last,
        _time(row["T"]),
        _flag(row["m"]),
    )


def _kline(symbol: str, interval: str, row: Any) -> Kline:
    opens, open_, high, low, close, volume, closes, quote_volume, count, taker, taker_quote = row[:11]
    return Kline(
        symbol=symbol,
        interval=interval,
        open_time=_time(opens),
        close_time=_time(closes),
        open=_decimal(open_),
        high=_decimal(high),
        low=_decimal(low),
        close=_decimal(close),
        volume=_decimal(volume),
        quote_volume=_decimal(quote_volume),
        trade_count=_whole(count),
        taker_buy_volume=_decimal(taker),
        taker_buy_quote_volume=_decimal(taker_quote),
    )


def _whole(value: Any) -> int:
    if type(value) is not int:
        raise ValueError(f"{value!r} is not a whole number")
    return value


def _time(value: Any) -> int:
    return to_microseconds(_whole(value))


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is not a text")  # noqa: TRY004 - reported like all faults of an answer
    return value


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{value!r} is neither true nor false")  # noqa: TRY004 - as above
    return value


def _decimal(value: Any) -> Decimal:
    number = Decimal(_text(value))
    if not number.is_finite():
        raise ValueError(f"{value!r} is not finite")
    return number


def _written(time_us: int | None) -> int | None:
    """Return a time for a query: in milliseconds if below ``MICROSECONDS_FROM``, otherwise unchanged.

    Binance would take a smaller number for milliseconds (rest-api.md, "General API Information").
    """
    if time_us is None or time_us >= MICROSECONDS_FROM:
        return time_us
    return time_us // 1_000


def _error_fields(response: httpx.Response) -> tuple[int | None, str]:
    """Return Binance's error code and message, or None and the beginning of any other answer."""
    try:
        fields = response.json()
        return _whole(fields["code"]), _text(fields["msg"])
    except (ValueError, RecursionError, KeyError, TypeError):
        if response.status_code == HTTPStatus.UNAVAILABLE_FOR_LEGAL_REASONS:
            return None, "not served to this country"
        return None, response.text[:_SHOWN_CHARACTERS] or response.reason_phrase


def _used_weight(response: httpx.Response) -> int | None:
    """Return the weight used this minute by all programs at our IP address; None if not given."""
    used = response.headers.get("X-MBX-USED-WEIGHT-1M", "")
    return int(used) if used.isascii() and used.isdigit() and len(used) < 10 else None
