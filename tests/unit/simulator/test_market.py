"""The seeded market is a pure function, and its live feed, history and aggregates agree."""

from __future__ import annotations

from collections import Counter
from decimal import Decimal
from itertools import islice, pairwise
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from candleflow.exchange.messages import TradeMessage, decode
from candleflow.market.candle import fold
from candleflow.market.trade import Trade, rejection_reason
from candleflow.market.window import SECOND_US, Windows
from candleflow.simulator.market import SeededMarket, _Feed
from candleflow.simulator.symbol import ORIGIN_US, PAGE, Era, SymbolEra, SymbolMarket

NOW: Final = 1_790_000_000_123_456
MINUTE_US: Final = 60 * SECOND_US


@pytest.fixture(scope="module")
def market() -> SymbolMarket:
    return SymbolMarket("BTCUSDT", [Era(ORIGIN_US, 7, 20)])


@pytest.fixture(scope="module")
def hour() -> list[Trade]:
    """The trades of the hour up to NOW."""
    source = SeededMarket(7, 20, ["BTCUSDT"])
    ids = source.id_at("BTCUSDT", NOW - 3_600 * SECOND_US), source.id_at("BTCUSDT", NOW)
    return list(source.trades("BTCUSDT", ids))


@given(st.integers(0, 10**10))
def test_a_trade_is_the_same_alone_and_in_a_stretch(market: SymbolMarket, trade_id: int) -> None:
    alone = next(market.from_id(trade_id))
    assert alone.trade_id == trade_id
    first = max(0, trade_id - 300)
    assert list(islice(market.from_id(first), trade_id - first + 1))[-1] == alone


@given(st.integers(0, 10**10))
def test_a_trade_is_found_by_its_time(market: SymbolMarket, trade_id: int) -> None:
    at = next(market.from_id(trade_id)).time
    found = market.id_at(at)
    assert found <= trade_id < market.id_at(at + 1)
    assert next(market.from_id(found)).time == at


@given(st.integers(0, 10**10))
def test_an_aggregate_begins_where_it_says(market: SymbolMarket, trade_id: int) -> None:
    aggregate = market.aggregate_of(trade_id)
    start, end = market.aggregate_start(aggregate), market.aggregate_start(aggregate + 1)
    assert start <= trade_id < end <= start + PAGE
    first, *rest = islice(market.from_id(start), end - start)
    for other in rest:
        assert (other.time, other.price, other.buyer_is_maker) == (
            first.time,
            first.price,
            first.buyer_is_maker,
        )


def test_a_restarted_simulator_goes_on_in_the_same_market(hour: list[Trade]) -> None:
    again = SeededMarket(7, 20, ["BTCUSDT"])
    ids = hour[1_000].trade_id, hour[1_500].trade_id
    assert list(again.trades("BTCUSDT", ids)) == hour[1_000:1_500]


def test_other_seeds_and_symbols_are_other_markets(market: SymbolMarket) -> None:
    trades = [
        tuple(islice(SymbolEra(seed, symbol, 20).from_id(5_000), 20))
        for seed, symbol in ((7, "BTCUSDT"), (8, "BTCUSDT"), (7, "BTCUSDC"))
    ]
    assert len(set(trades)) == 3
    assert trades[0] == tuple(islice(market.from_id(5_000), 20))


def test_ids_have_no_hole_and_times_never_go_back(hour: list[Trade]) -> None:
    for one, next_one in pairwise(hour):
        assert next_one.trade_id == one.trade_id + 1
        assert next_one.trade_time >= one.trade_time
    assert NOW - 3_600 * SECOND_US <= hour[0].trade_time <= hour[-1].trade_time < NOW


def test_every_trade_is_one_that_can_be_counted(hour: list[Trade]) -> None:
    assert {rejection_reason(trade) for trade in hour} == {None}
    assert all(trade.price % Decimal("0.01") == 0 for trade in hour)
    assert all(trade.quantity % Decimal("0.00001") == 0 for trade in hour)


def test_there_are_quiet_and_busy_spells_and_bursts(hour: list[Trade]) -> None:
    assert 0.6 < len(hour) / (20 * 3_600) < 1.4
    a_minute = Counter(trade.trade_time // MINUTE_US for trade in hour[2_000:-2_000])
    assert max(a_minute.values()) > 1.3 * min(a_minute.values())
    a_second = Counter(trade.trade_time // SECOND_US for trade in hour)
    assert max(a_second.values()) > 4 * min(a_second.values())
    a_millisecond = Counter(trade.trade_time // 1_000 for trade in hour)
    share = sum(count for count in a_millisecond.values() if count > 1) / len(hour)
    assert share > 0.5  # recorded BTCUSDT: 64 % share their millisecond with the one before
    assert max(a_millisecond.values()) >= 25


def test_prices_move_as_prices_do(hour: list[Trade]) -> None:
    closes = [float(candle.close) for candle in fold(hour, Windows.of_seconds(60)).values()]
    moves = [abs(after / before - 1) for before, after in pairwise(closes)]
    assert 1e-5 < sum(moves) / len(moves) < 5e-3
    assert 0.45 < sum(trade.buyer_is_maker for trade in hour) / len(hour) < 0.55


def test_prices_stay_within_bounds_for_years() -> None:
    source = SeededMarket(3, 0.01, ["BTCUSDT"])
    end = source.id_range("BTCUSDT", NOW)[1]
    prices = [
        next(source.market("BTCUSDT").from_id(trade_id)).price / 10**8
        for trade_id in range(0, end, end // 500)
    ]
    assert 0.8 * 61_000 < min(prices) < max(prices) < 1.25 * 61_000
    assert max(prices) / min(prices) > 1.05


@pytest.mark.parametrize("rate", [1e-3, 0.3, 50, 20_000, 1_000_000])
def test_any_rate_has_its_mean(rate: float) -> None:
    market = SymbolEra(1, "ETHUSDT", rate)
    seconds = max(100_000, int(3_000 / rate))
    count = market.id_at(NOW) - market.id_at(NOW - seconds * SECOND_US)
    assert 0.9 < count / (rate * seconds) < 1.1
    trades = list(islice(market.from_id(market.id_at(NOW)), 100))
    assert [trade.trade_id for trade in trades] == list(range(trades[0].trade_id, trades[0].trade_id + 100))
    assert trades[0].time >= NOW


CHANGES: Final = [
    Era(ORIGIN_US, 7, 20),
    Era(NOW - 3_000 * SECOND_US, 7, 200),
    Era(NOW - 2_000 * SECOND_US, 8, 0.5),
    Era(NOW - 2_000 * SECOND_US, 8, 3_000),
    Era(NOW - 1_999 * SECOND_US, 9, 40),
    Era(NOW - 5_000 * SECOND_US, 9, 7),  # after the clock was set back
]


@pytest.fixture(scope="module")
def changed() -> SymbolMarket:
    return SymbolMarket("BTCUSDT", CHANGES)


def test_ids_and_times_go_on_through_every_change_of_seed_and_rate(changed: SymbolMarket) -> None:
    first = changed.id_at(NOW - 3_100 * SECOND_US)
    last = changed.id_at(NOW)
    trades = list(islice(changed.from_id(first), last - first))
    assert [trade.trade_id for trade in trades] == list(range(first, last))
    assert all(before.time <= after.time for before, after in pairwise(trades))
    assert max(after.time - before.time for before, after in pairwise(trades)) < 60 * SECOND_US
    a_minute = Counter((trade.time - NOW) // MINUTE_US for trade in trades)
    assert a_minute[-51] < 3_000 < 6_000 < a_minute[-48]


def test_the_past_stays_as_it_was_when_a_new_era_begins(changed: SymbolMarket, market: SymbolMarket) -> None:
    change = CHANGES[1].since
    first, last = market.id_at(change - 600 * SECOND_US), market.id_at(change)
    assert list(islice(changed.from_id(first), last - first)) == list(
        islice(market.from_id(first), last - first)
    )


@given(st.integers(-3_100, 0), st.integers(0, 100))
def test_every_era_finds_its_trades_by_id_and_time(changed: SymbolMarket, seconds: int, further: int) -> None:
    trade_id = changed.id_at(NOW + seconds * SECOND_US) + further
    trade = next(changed.from_id(trade_id))
    assert trade.trade_id == trade_id
    assert changed.id_at(trade.time) <= trade_id < changed.id_at(trade.time + 1)
    aggregate = changed.aggregate_of(trade_id)
    assert changed.aggregate_start(aggregate) <= trade_id < changed.aggregate_start(aggregate + 1)
    assert changed.aggregate_of(changed.aggregate_start(aggregate)) == aggregate


def test_aggregates_are_consecutive_through_every_change(changed: SymbolMarket) -> None:
    first, last = changed.id_at(NOW - 2_010 * SECOND_US), changed.id_at(NOW - 1_990 * SECOND_US)
    aggregates = [changed.aggregate_of(trade_id) for trade_id in range(first, last)]
    assert {after - before for before, after in pairwise(aggregates)} == {0, 1}


def test_before_its_beginning_the_market_has_no_trade() -> None:
    source = SeededMarket(1, 10, ["BTCUSDT"])
    assert source.id_range("BTCUSDT", ORIGIN_US - 1) == (0, 0)
    assert source.id_at("BTCUSDT", 0) == 0
    assert list(source.trades("BTCUSDT", (0, 0))) == []


@pytest.mark.parametrize(
    "symbol",
    ["BTCUSDT", "SHIBUSDT", "ETHBTC", "BTCJPY", "NEVERHEARDOF", "A", "1000SATS.X-1_2", "币安人生USDT"],
)
def test_any_symbol_trades_at_its_own_steps(symbol: str) -> None:
    source = SeededMarket(1, 10, ["BTCUSDT"])
    listing = source.listing(symbol)
    assert listing is not None
    assert listing.price_places + listing.quantity_places <= 8
    end = source.id_at(symbol, NOW)
    trades = list(source.trades(symbol, (end - 200, end)))
    assert {rejection_reason(trade) for trade in trades} == {None}
    assert all(trade.price * 10**listing.price_places % 1 == 0 for trade in trades)
    assert all(trade.quantity * 10**listing.quantity_places % 1 == 0 for trade in trades)


def test_what_has_no_symbols_form_is_no_symbol() -> None:
    source = SeededMarket(1, 10, ["BTCUSDT"])
    assert [source.listing(name) for name in ("", "btcusdt", "../X", "A" * 51)] == [None] * 4


def test_the_followed_symbols_are_listed_first_and_once() -> None:
    names = [listing.symbol for listing in SeededMarket(1, 10, ["ZZZUSDT", "BTCUSDT"]).listings()]
    assert names[:2] == ["ZZZUSDT", "BTCUSDT"]
    assert len(names) == len(set(names)) >= 12


def test_the_rate_is_shared_by_the_symbols() -> None:
    alone = SeededMarket(1, 90, ["BTCUSDT"]).id_range("BTCUSDT", NOW)[1]
    one_of_three = SeededMarket(1, 90, ["BTCUSDT", "ETHUSDT", "BNBUSDT"]).id_range("BTCUSDT", NOW)[1]
    assert 2.99 < alone / one_of_three < 3.01


def test_the_feed_sends_what_history_has_in_both_units() -> None:
    source = SeededMarket(5, 300, ["BTCUSDT", "ETHUSDT"])
    feed = _Feed(source)
    feed.follow(frozenset({"btcusdt@trade", "ethusdt@trade", "btcusdt@depth"}), NOW)
    until = NOW + 3 * SECOND_US
    events = feed.due(until)
    symbols = {"BTCUSDT", "ETHUSDT"}
    sent = [decode(event.text_us.encode(), symbols, until, 0) for event in events]
    times = [message.trade.trade_time for message in sent if isinstance(message, TradeMessage)]
    assert times == sorted(times)
    for symbol in symbols:
        ids = source.id_at(symbol, NOW), source.id_at(symbol, until + 1)
        live = [one.trade for one in sent if isinstance(one, TradeMessage) and one.trade.symbol == symbol]
        assert live == list(source.trades(symbol, ids))
    for event in events:
        message = decode(event.text.encode(), symbols, until, 0)
        assert isinstance(message, TradeMessage)
        assert (message.trade.symbol, message.trade.trade_id) == (event.symbol, event.trade_id)
        assert message.trade.trade_time % 1_000 == 0


def test_the_feed_forgets_what_is_not_followed_any_more() -> None:
    feed = _Feed(SeededMarket(5, 300, ["BTCUSDT", "ETHUSDT"]))
    feed.follow(frozenset({"btcusdt@trade", "ethusdt@trade"}), NOW)
    feed.follow(frozenset({"ethusdt@trade", "notasymbol/@trade"}), NOW)
    assert {event.symbol for event in feed.due(NOW + SECOND_US)} == {"ETHUSDT"}
    feed.follow(frozenset(), NOW)
    assert feed.due(NOW + 2 * SECOND_US) == []


def test_a_feed_that_was_stopped_for_long_says_so() -> None:
    feed = _Feed(SeededMarket(5, 300, ["BTCUSDT"]))
    assert not feed.is_behind(NOW)
    feed.follow(frozenset({"btcusdt@trade"}), NOW)
    assert not feed.is_behind(NOW + 5 * SECOND_US)
    assert feed.is_behind(NOW + 20 * SECOND_US)
