"""Past trades by id, from the simulator's REST and from one that answers out of order."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import replace

import pytest

from candleflow.errors import ExchangeError
from candleflow.exchange.history import TradeHistory
from candleflow.exchange.past_trades import Origin
from candleflow.exchange.rate_limit import RestAddress
from candleflow.exchange.rest import ExchangeRest
from candleflow.market.trade import Trade
from candleflow.simulator.audience import Faults
from candleflow.simulator.market import SeededMarket
from candleflow.simulator.server import Simulator
from candleflow.simulator.source import Listing
from candleflow.stack.process import free_port
from tests.unit.exchange.virtual_clock import Clock

MARKET = SeededMarket(1, 100, ["BTCUSDT"])


async def trades_of(history: TradeHistory, symbol: str, from_id: int, limit: int) -> Sequence[Trade]:
    return (await history.page(symbol, from_id, limit)).trades


async def latest_id(simulator: Simulator) -> int:
    async with ExchangeRest(simulator.rest_url) as rest:
        return (await rest.last_trade_ids(["BTCUSDT"]))["BTCUSDT"]


async def test_trades_come_from_an_id_on_as_many_as_asked_for() -> None:
    async with Simulator(MARKET) as simulator, TradeHistory([simulator.rest_url]) as history:
        first = await latest_id(simulator) - 5_000
        trades = await trades_of(history, "BTCUSDT", first, 5_000)
        assert [trade.trade_id for trade in trades] == list(range(first, first + 1_000)), "a page at most"
        assert [trade.trade_id for trade in await trades_of(history, "BTCUSDT", first, 2)] == [
            first,
            first + 1,
        ]


class Listed(SeededMarket):
    """A market that lists only a few symbols."""

    def listing(self, symbol: str) -> Listing | None:
        return None if symbol.startswith("OLD") else super().listing(symbol)


async def test_last_trade_ids_come_in_the_cheapest_requests_without_what_is_not_listed() -> None:
    symbols = [f"SYM{number}USDT" for number in range(30)]
    market = Listed(1, 0.1, symbols)
    async with Simulator(market) as simulator, TradeHistory([simulator.rest_url]) as history:
        before = {symbol: market.id_at(symbol, time.time_ns() // 1_000) for symbol in symbols}
        found = await history.last_trade_ids([*symbols[:7], "OLDUSDT", *symbols[7:], "OLDBTC"])
        assert list(found) == symbols
        assert all(found[symbol] >= before[symbol] - 1 for symbol in symbols)
        asked = len(simulator.rest_requests)
        many = [*symbols, *(f"MORE{number}USDT" for number in range(800))]
        assert list(await history.last_trade_ids(many)) == symbols, "of all that are listed"
        assert len(simulator.rest_requests) == asked + 1, "one request for all, of weight 80"


async def test_the_first_trade_since_a_time() -> None:
    async with Simulator(MARKET) as simulator, TradeHistory([simulator.rest_url]) as history:
        first = await latest_id(simulator) - 1_000
        (trade,) = await trades_of(history, "BTCUSDT", first, 1)
        found = await history.first_id_since("BTCUSDT", trade.trade_time)
        assert found is not None
        before, at = await trades_of(history, "BTCUSDT", found - 1, 2)
        assert before.trade_time < trade.trade_time <= at.trade_time
        assert await history.first_id_since("BTCUSDT", trade.trade_time + 10**12) is None


async def test_the_id_at_a_time_is_known_before_its_trade_has_come() -> None:
    now = time.time_ns() // 1_000
    async with Simulator(MARKET) as simulator, TradeHistory([simulator.rest_url]) as history:
        ago = now - 10**7
        assert await history.id_at("BTCUSDT", ago) == MARKET.id_at("BTCUSDT", ago)
        ahead = await history.id_at("BTCUSDT", now + 10**9)
        assert ahead is not None
        assert MARKET.id_at("BTCUSDT", now) <= ahead <= await latest_id(simulator) + 1


async def test_klines_are_those_that_open_within_the_times() -> None:
    since = time.time_ns() // 10**9 * 10**6 - 10**9
    async with Simulator(MARKET) as simulator, TradeHistory([simulator.rest_url]) as history:
        klines = await history.klines("BTCUSDT", "1s", since, since + 900 * 10**6)
        assert [one.open_time for one in klines] == list(range(since, since + 900 * 10**6, 10**6))
        assert await history.first_kline_time("BTCUSDT", "1s", since) == since
        assert await history.first_kline_time("BTCUSDT", "1s", since + 10**12) is None
        assert abs(await history.server_time() - time.time_ns() // 1_000) < 10**7


async def test_the_next_minute_is_waited_for_once_our_share_is_used() -> None:
    clock = Clock(1_000_045.5)
    async with Simulator(MARKET) as simulator:
        url = RestAddress(simulator.rest_url, clock.limiter(simulator.rest_url, share=50))
        async with TradeHistory([url]) as history:
            for _ in range(3):
                await history.page("BTCUSDT", 10**9, 1)
    assert clock.slept == [60 - 1_000_045.5 % 60]


async def test_a_limit_is_waited_out_as_long_as_the_exchange_says() -> None:
    clock = Clock(1_000_045.5)
    faults = Faults(throttle_requests=2, retry_after_seconds=777)
    async with Simulator(MARKET, faults=faults) as simulator:
        url = RestAddress(simulator.rest_url, clock.limiter(simulator.rest_url))
        async with TradeHistory([url]) as history:
            assert await trades_of(history, "BTCUSDT", 10**9, 1)
    assert clock.slept == [777, 777]


async def test_the_second_address_answers_where_the_first_is_away() -> None:
    async with Simulator(MARKET) as simulator:
        away = f"http://127.0.0.1:{free_port()}"
        async with TradeHistory([away, simulator.rest_url]) as history:
            assert await trades_of(history, "BTCUSDT", 10**9, 1)
        async with TradeHistory([away]) as history:
            with pytest.raises(ExchangeError, match=away):
                await trades_of(history, "BTCUSDT", 10**9, 1)
        async with TradeHistory([]) as history:
            with pytest.raises(ExchangeError, match="no REST address"):
                await trades_of(history, "BTCUSDT", 10**9, 1)


async def test_what_comes_out_of_order_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    async def backwards(_: ExchangeRest, symbol: str, from_id: int, limit: int) -> list[Trade]:
        return list(MARKET.trades(symbol, (from_id, from_id + limit)))[::-1]

    monkeypatch.setattr(ExchangeRest, "historical_trades", backwards)
    async with TradeHistory(["http://127.0.0.1:1"]) as history:
        with pytest.raises(ExchangeError, match="out of order"):
            await trades_of(history, "BTCUSDT", 10**9, 3)


async def test_a_refusal_is_reported() -> None:
    async with Simulator(MARKET) as simulator, TradeHistory([simulator.rest_url]) as history:
        with pytest.raises(ExchangeError, match="Illegal characters"):
            await trades_of(history, "btcusdt", 1, 1)


@pytest.fixture
async def limited() -> AsyncIterator[Simulator]:
    """A host without ``historicalTrades``."""
    async with Simulator(MARKET) as simulator:
        simulator.faults.has_historical_trades = False
        yield simulator


@pytest.fixture
async def past(limited: Simulator) -> AsyncIterator[tuple[TradeHistory, int]]:
    """The history of that host, and its latest trade id."""
    async with TradeHistory([limited.rest_url]) as history:
        yield history, await latest_id(limited)


async def test_the_latest_thousand_come_whole_without_historical_trades(
    past: tuple[TradeHistory, int],
) -> None:
    history, last = past
    page = await history.page("BTCUSDT", last - 500, 400)
    assert page.origin is Origin.RECENT
    assert page.end == last - 100
    assert page.trades == in_milliseconds(MARKET.trades("BTCUSDT", (last - 500, last - 100)))


@pytest.mark.parametrize("back", [1_001, 5_000, 300_000])
async def test_older_ones_come_where_they_are_an_aggregate_of_their_own(
    past: tuple[TradeHistory, int], back: int
) -> None:
    history, last = past
    first = last - back
    page = await history.page("BTCUSDT", first, 1_000)
    assert page.origin is Origin.AGGREGATE
    assert first < page.end <= first + 1_000
    alone = [
        trade
        for trade in MARKET.trades("BTCUSDT", (first, page.end))
        if len({MARKET.aggregate_of("BTCUSDT", trade.trade_id + step) for step in (-1, 0, 1)}) == 3
    ]
    assert page.trades == in_milliseconds(alone)
    assert 0 < len(page.trades) < page.end - first
    assert page.begins_at <= page.trades[0].trade_time


@pytest.mark.parametrize("back", [1_050, 1_150, 1_250, 1_500])
async def test_older_ones_leave_the_latest_to_the_page_that_has_them_whole(
    limited: Simulator, past: tuple[TradeHistory, int], back: int
) -> None:
    history, last = past
    first = last - back
    while True:
        page = await history.page("BTCUSDT", first, last + 1 - first)
        if page.origin is Origin.RECENT:
            break
        assert first < page.end < await latest_id(limited) - 700
        first = page.end
    assert [trade.trade_id for trade in page.trades] == list(range(first, last + 1))


async def test_future_trades_are_on_no_page(past: tuple[TradeHistory, int]) -> None:
    history, last = past
    page = await history.page("BTCUSDT", last + 10**6, 10)
    assert (page.trades, page.end) == ((), last + 10**6)


def in_milliseconds(trades: Iterable[Trade]) -> list[Trade]:
    """Return the trades with times in milliseconds, as REST has them."""
    return [replace(one, trade_time=one.trade_time // 1_000 * 1_000) for one in trades]
