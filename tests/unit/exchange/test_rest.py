"""The REST client with the simulator, and with a server that gives wrong answers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

import pytest

from candleflow.errors import ExchangeError, ExchangeRefusalError, RateLimitError
from candleflow.exchange.rest import ExchangeRest
from candleflow.market.trade import Trade
from candleflow.simulator.audience import Faults
from candleflow.simulator.market import SeededMarket
from candleflow.simulator.server import Simulator

MARKET: Final = SeededMarket(1, 100, ["BTCUSDT"])


@pytest.fixture
async def simulator() -> AsyncIterator[Simulator]:
    async with Simulator(SeededMarket(1, 100, ["BTCUSDT"])) as simulator:
        yield simulator


@pytest.fixture
async def rest(simulator: Simulator) -> AsyncIterator[ExchangeRest]:
    async with ExchangeRest(simulator.rest_url) as rest:
        yield rest


async def test_the_servers_time_is_now_in_microseconds(rest: ExchangeRest) -> None:
    before = time.time_ns() // 1_000_000
    assert before <= await rest.server_time() // 1_000 <= time.time_ns() // 1_000_000


async def test_symbols_are_listed_with_their_status(rest: ExchangeRest) -> None:
    symbols = await rest.symbols()
    assert symbols["BTCUSDT"] == symbols["ETHUSDT"] == "TRADING"
    assert list(symbols) == sorted(symbols)


async def test_trades_are_those_of_the_market(rest: ExchangeRest) -> None:
    latest = await rest.historical_trades("BTCUSDT", limit=5)
    assert len(latest) == 5
    start = latest[0].trade_id - 2_000
    trades = await rest.historical_trades("BTCUSDT", start)
    expected = MARKET.trades("BTCUSDT", (start, start + 1_000))
    assert trades == [
        Trade(
            one.symbol, one.trade_id, one.price, one.quantity,
            one.trade_time // 1_000 * 1_000, one.buyer_is_maker,
        )
        for one in expected
    ]  # fmt: skip


async def test_aggregates_come_by_id_and_by_time(rest: ExchangeRest) -> None:
    latest = await rest.agg_trades("BTCUSDT", limit=50)
    again = await rest.agg_trades("BTCUSDT", from_id=latest[0].aggregate_id, limit=50)
    assert again == latest
    assert sum(one.trade_count for one in latest) == latest[-1].last_trade_id - latest[0].first_trade_id + 1
    start = latest[10].trade_time
    since = await rest.agg_trades("BTCUSDT", start_time=start)
    assert since[0].trade_time == start
    assert latest[20] in since


async def test_klines_have_all_their_fields(rest: ExchangeRest) -> None:
    klines = await rest.klines("BTCUSDT", "1s", limit=20)
    assert len(klines) == 20
    for kline in klines:
        assert kline.close_time - kline.open_time == 999_000
        assert kline.low <= min(kline.open, kline.close) <= max(kline.open, kline.close) <= kline.high
        assert kline.taker_buy_volume <= kline.volume
        assert kline.taker_buy_quote_volume <= kline.quote_volume
    same = await rest.klines("BTCUSDT", "1s", start_time=klines[3].open_time, end_time=klines[5].open_time)
    assert same == klines[3:6]


async def test_last_trade_ids_of_several_symbols_are_returned_at_once(rest: ExchangeRest) -> None:
    latest = (await rest.recent_trades("BTCUSDT", limit=1))[0].trade_id
    found = await rest.last_trade_ids(["BTCUSDT", "ETHUSDT"])
    assert list(found) == ["BTCUSDT", "ETHUSDT"]
    assert latest <= found["BTCUSDT"] <= latest + 5_000
    assert found.keys() <= (await rest.last_trade_ids()).keys()


async def test_a_refusal_carries_the_exchanges_own_code(rest: ExchangeRest) -> None:
    with pytest.raises(ExchangeRefusalError, match="Illegal characters") as raised:
        await rest.klines("btcusdt", "1m")
    assert (raised.value.status, raised.value.code) == (400, -1100)


@pytest.mark.parametrize("status", [429, 418, 503])
async def test_a_rate_limit_beyond_the_patience_is_an_error_and_nothing_more_is_requested(
    simulator: Simulator, rest: ExchangeRest, status: int
) -> None:
    simulator.faults = Faults(throttle_requests=1, throttle_status=status, retry_after_seconds=17)
    with pytest.raises(RateLimitError, match=f"HTTP {status}") as raised:
        await rest.server_time()
    assert raised.value.wait_seconds == 17.0
    with pytest.raises(RateLimitError, match="no request for 17 s"):
        await rest.server_time()
    assert len(simulator.rest_requests) == 1


async def test_weights_over_the_limit_are_refused_until_the_next_minute() -> None:
    async with (
        Simulator(SeededMarket(1, 1, ["BTCUSDT"]), weight_limit=30) as simulator,
        ExchangeRest(simulator.rest_url) as rest,
    ):

        async def ask_too_often() -> None:
            for _ in range(4):  # two in a minute are too many, and of four at least two are in one minute
                await rest.historical_trades("BTCUSDT", limit=1)

        with pytest.raises(RateLimitError) as raised:
            await ask_too_often()
        assert 0 < raised.value.wait_seconds <= 60


async def test_an_unreachable_exchange_raises_an_exchange_error() -> None:
    async with Simulator(SeededMarket(1, 1, ["BTCUSDT"])) as simulator:
        url = simulator.rest_url
    async with ExchangeRest(url) as rest:
        with pytest.raises(ExchangeError, match="can't be reached"):
            await rest.server_time()


@asynccontextmanager
async def answering(body: bytes, status: str = "200 OK", headers: str = "") -> AsyncIterator[ExchangeRest]:
    """A client of a server that gives the same answer to every request."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        head = f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n{headers}\r\n"
        writer.write(head.encode() + body)
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with ExchangeRest(f"http://127.0.0.1:{port}", timeout_seconds=5) as rest:
            yield rest


Call = Callable[[ExchangeRest], Awaitable[Any]]
TIME: Final[Call] = lambda rest: rest.server_time()  # noqa: E731 - a row of the table below
SYMBOLS: Final[Call] = lambda rest: rest.symbols()  # noqa: E731
TRADES: Final[Call] = lambda rest: rest.historical_trades("BTCUSDT")  # noqa: E731
AGGREGATES: Final[Call] = lambda rest: rest.agg_trades("BTCUSDT")  # noqa: E731
KLINES: Final[Call] = lambda rest: rest.klines("BTCUSDT", "1m")  # noqa: E731

ROW: Final = b'{"id":1,"price":"1.0","qty":"1.0","time":1723161255343,"isBuyerMaker":true}'
AGGREGATE: Final = b'{"a":1,"p":"1","q":"1","f":1,"l":2,"T":1723161255343,"m":true}'


@pytest.mark.parametrize(
    ("call", "body"),
    [
        (TIME, b""),
        (TIME, b"<html>"),
        (TIME, b"[]"),
        (TIME, b"{}"),
        (TIME, b'{"serverTime":"now"}'),
        (TIME, b'{"serverTime":true}'),
        (TIME, b"[" * 100_000),
        (TIME, b'{"serverTime":' + b"9" * 5_000 + b"}"),
        (SYMBOLS, b'{"symbols":null}'),
        (SYMBOLS, b'{"symbols":[{"symbol":"BTCUSDT"}]}'),
        (SYMBOLS, b'{"symbols":[{"symbol":5,"status":"TRADING"}]}'),
        (TRADES, b'{"a":1}'),
        (TRADES, b"null"),
        (TRADES, b"[1]"),
        (TRADES, b"[" + ROW.replace(b'"1.0"', b"1.0", 1) + b"]"),
        (TRADES, b"[" + ROW.replace(b'"1.0"', b'"NaN"', 1) + b"]"),
        (TRADES, b"[" + ROW.replace(b'"1.0"', b'"-1"', 1) + b"]"),
        (TRADES, b"[" + ROW.replace(b"true", b'"true"') + b"]"),
        (TRADES, b"[" + ROW.replace(b'"id":1', b'"id":1.5') + b"]"),
        (AGGREGATES, b"[" + AGGREGATE.replace(b'"f":1', b'"f":3') + b"]"),
        (AGGREGATES, b"[" + AGGREGATE.replace(b'"p":"1"', b'"p":"x"') + b"]"),
        (KLINES, b"[[1,2,3]]"),
        (KLINES, b'[[1,"1","1","1","1","Infinity",2,"1",1,"1","1","0"]]'),
        (KLINES, b'["abcdefghijkl"]'),
    ],
)
async def test_an_undocumented_answer_raises_an_exchange_error(call: Call, body: bytes) -> None:
    async with answering(body) as rest:
        with pytest.raises(ExchangeError, match="answered"):
            await call(rest)


async def test_valid_rows_are_accepted() -> None:
    async with answering(b"[" + ROW + b"]") as rest:
        assert [trade.trade_time for trade in await rest.historical_trades("BTCUSDT")] == [1723161255343000]
    async with answering(b"[" + AGGREGATE + b"]") as rest:
        assert [one.trade_count for one in await rest.agg_trades("BTCUSDT")] == [2]
    async with answering(b'{"symbols":[{"symbol":"LUNAUSDT","status":"BREAK"}]}') as rest:
        assert await rest.symbols() == {"LUNAUSDT": "BREAK"}


@pytest.mark.parametrize(
    ("status", "headers", "words"),
    [
        ("451 Unavailable", "", "451: not served to this country"),
        ("500 Internal Server Error", "", "500: hello"),
        ("301 Moved Permanently", "Location: http://127.0.0.1:1/\r\n", "301: hello"),
    ],
)
async def test_other_statuses_are_explained_in_words(status: str, headers: str, words: str) -> None:
    async with answering(b"hello", status, headers) as rest:
        with pytest.raises(ExchangeRefusalError, match=words):
            await rest.server_time()


@pytest.mark.parametrize(("status", "seconds"), [("429 Too Many Requests", 60), ("418 I'm a teapot", 120)])
@pytest.mark.parametrize("headers", ["", "Retry-After: soon\r\n", "Retry-After: -1\r\n"])
async def test_without_a_usable_retry_after_the_wait_is_the_documented_one(
    status: str, seconds: float, headers: str
) -> None:
    async with answering(b"", status, headers) as rest:
        with pytest.raises(RateLimitError) as raised:
            await rest.server_time()
    assert raised.value.wait_seconds == seconds


async def test_a_server_that_never_answers_is_given_up() -> None:
    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async with await asyncio.start_server(hang, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with ExchangeRest(f"http://127.0.0.1:{port}", timeout_seconds=0.2) as rest:
            with pytest.raises(ExchangeError, match="ReadTimeout"):
                await rest.server_time()
