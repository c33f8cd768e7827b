"""The simulator's REST without a socket: its rows agree with the trades and with each other."""

from __future__ import annotations

import json
from collections.abc import Sequence
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

import pytest

from candleflow.market.trade import Trade
from candleflow.simulator import rest as simulator_rest
from candleflow.simulator.market import SeededMarket
from candleflow.simulator.recording import Recording
from candleflow.simulator.rest import INTERVALS_US, RestError, Stopped, answer, decimal_text, weight
from candleflow.simulator.source import Source
from candleflow.simulator.symbol import ORIGIN_US
from tests import oracle
from tests.unit.simulator.test_recording import played

NOW: Final = 1_790_000_000_123_456
NOW_MS: Final = NOW // 1_000
SECOND_MS: Final = 1_000


@pytest.fixture(scope="module")
def market() -> SeededMarket:
    return SeededMarket(11, 30, ["BTCUSDT", "ETHUSDT"])


def ask(source: Source, path: str, **query: Any) -> Any:
    return json.loads(answer(source, f"/api/v3/{path}?{urlencode(query)}", NOW))


def trades_until_now(market: SeededMarket, seconds: int) -> list[Trade]:
    ids = market.id_at("BTCUSDT", NOW - seconds * 1_000_000), market.id_at("BTCUSDT", NOW)
    return list(market.trades("BTCUSDT", ids))


def test_ping_and_time(market: SeededMarket) -> None:
    assert ask(market, "ping") == {}
    assert ask(market, "time") == {"serverTime": NOW_MS}
    in_us = answer(market, "/api/v3/time", NOW, in_microseconds=True)
    assert json.loads(in_us) == {"serverTime": NOW}


def test_exchange_info_lists_all_or_those_asked_for(market: SeededMarket) -> None:
    everything = ask(market, "exchangeInfo")["symbols"]
    assert {"BTCUSDT", "ETHUSDT", "BNBUSDT"} <= {one["symbol"] for one in everything}
    assert {one["status"] for one in everything} == {"TRADING"}
    (bitcoin,) = ask(market, "exchangeInfo", symbol="BTCUSDT")["symbols"]
    assert (bitcoin["baseAsset"], bitcoin["quoteAsset"]) == ("BTC", "USDT")
    assert {"filterType": "PRICE_FILTER", "tickSize": "0.01000000"} in bitcoin["filters"]
    two = ask(market, "exchangeInfo", symbols='["ETHUSDT","FOOBAR"]')["symbols"]
    assert [one["symbol"] for one in two] == ["ETHUSDT", "FOOBAR"]


def test_the_latest_trades_are_the_last_that_happened(market: SeededMarket) -> None:
    rows = ask(market, "trades", symbol="BTCUSDT", limit=20)
    expected = trades_until_now(market, 60)[-20:]
    assert [row["id"] for row in rows] == [trade.trade_id for trade in expected]
    assert [Decimal(row["price"]) for row in rows] == [trade.price for trade in expected]
    assert [Decimal(row["qty"]) for row in rows] == [trade.quantity for trade in expected]
    assert [Decimal(row["quoteQty"]) for row in rows] == [trade.notional for trade in expected]
    assert [row["time"] for row in rows] == [trade.trade_time // 1_000 for trade in expected]
    assert [row["isBuyerMaker"] for row in rows] == [trade.buyer_is_maker for trade in expected]
    assert ask(market, "historicalTrades", symbol="BTCUSDT", limit=20) == rows


def test_history_is_paged_by_id_without_hole_or_overlap(market: SeededMarket) -> None:
    expected = trades_until_now(market, 100)
    start = expected[0].trade_id
    ids: list[int] = []
    while rows := ask(market, "historicalTrades", symbol="BTCUSDT", fromId=start, limit=700):
        ids.extend(row["id"] for row in rows)
        start = rows[-1]["id"] + 1
    assert ids == [trade.trade_id for trade in expected]


def test_limits_are_those_of_the_documentation(market: SeededMarket) -> None:
    assert len(ask(market, "trades", symbol="BTCUSDT")) == 500
    assert len(ask(market, "trades", symbol="BTCUSDT", limit=5_000)) == 1_000
    assert len(ask(market, "klines", symbol="BTCUSDT", interval="1s", limit=1_000)) == 1_000
    assert len(ask(market, "aggTrades", symbol="BTCUSDT")) == 500


def check_aggregates(rows: Sequence[dict[str, Any]], trades: Sequence[Trade]) -> None:
    """Check that each row is the sum of its trades, and that the rows cover all trades."""
    by_id = {trade.trade_id: trade for trade in trades}
    assert [row["a"] for row in rows] == list(range(rows[0]["a"], rows[0]["a"] + len(rows)))
    covered = []
    for row in rows:
        members = [by_id[trade_id] for trade_id in range(row["f"], row["l"] + 1)]
        covered.extend(members)
        assert {(one.price, one.trade_time // 1_000, one.buyer_is_maker) for one in members} == {
            (Decimal(row["p"]), row["T"], row["m"])
        }
        assert sum(one.quantity for one in members) == Decimal(row["q"])
    assert covered == list(trades)


def test_aggregates_within_times_sum_up_exactly_the_trades_of_these_times(market: SeededMarket) -> None:
    start, end = NOW_MS - 30_000, NOW_MS - 20_000
    rows = ask(market, "aggTrades", symbol="BTCUSDT", startTime=start, endTime=end, limit=1_000)
    trades = [one for one in trades_until_now(market, 60) if start <= one.trade_time // 1_000 <= end]
    check_aggregates(rows, trades)
    assert any(row["l"] > row["f"] for row in rows)


def test_aggregates_are_paged_by_their_own_ids(market: SeededMarket) -> None:
    latest = ask(market, "aggTrades", symbol="BTCUSDT", limit=300)
    again: list[Any] = []
    start = latest[0]["a"]
    while rows := ask(market, "aggTrades", symbol="BTCUSDT", fromId=start, limit=70):
        again.extend(rows)
        start = rows[-1]["a"] + 1
    assert again == latest


@pytest.mark.parametrize("interval", ["1s", "1m", "5m"])
def test_klines_are_what_the_oracle_makes_of_the_trades(market: SeededMarket, interval: str) -> None:
    rows = ask(market, "klines", symbol="BTCUSDT", interval=interval, limit=4)
    size_ms = INTERVALS_US[interval] // 1_000
    assert [row[0] for row in rows] == [NOW_MS // size_ms * size_ms - size_ms * back for back in (3, 2, 1, 0)]
    trades = trades_until_now(market, 4 * size_ms // 1_000 + 1)
    for row in rows:
        members = [one for one in trades if row[0] <= one.trade_time // 1_000 <= row[6]]
        bought = [one for one in members if not one.buyer_is_maker]
        if not members:
            assert row[8] == 0
            continue
        assert [Decimal(field) for field in row[1:6]] == [
            members[0].price, max(one.price for one in members), min(one.price for one in members),
            members[-1].price, sum(one.quantity for one in members),
        ]  # fmt: skip
        assert row[8] == len(members)
        assert Decimal(row[7]) == sum(one.price * one.quantity for one in members)
        assert Decimal(row[9]) == sum(one.quantity for one in bought)
        assert Decimal(row[10]) == sum(one.price * one.quantity for one in bought)
        assert (row[6], row[11]) == (row[0] + size_ms - 1, "0")


def test_five_klines_of_a_second_make_five_seconds(market: SeededMarket) -> None:
    minute = ask(market, "klines", symbol="BTCUSDT", interval="1m", endTime=NOW_MS - 60_000, limit=1)[0]
    seconds = ask(market, "klines", symbol="BTCUSDT", interval="1s", startTime=minute[0], endTime=minute[6])
    assert len(seconds) == 60
    assert sum(Decimal(row[5]) for row in seconds) == Decimal(minute[5])
    assert sum(row[8] for row in seconds) == minute[8]
    assert (seconds[0][1], seconds[-1][4]) == (minute[1], minute[4])


def test_a_quiet_second_is_flat_at_the_close_before_it() -> None:
    market = SeededMarket(1, 0.2, ["BTCUSDT"])
    rows = ask(market, "klines", symbol="BTCUSDT", interval="1s", limit=200)
    assert len(rows) == 200
    quiet = [(before, row) for before, row in pairwise(rows) if row[8] == 0]
    assert len(quiet) > 100
    for before, row in quiet:
        close, zero = before[4], "0.00000000"
        assert row == [row[0], close, close, close, close, zero, row[6], zero, 0, zero, zero, "0"]


@pytest.mark.parametrize(
    ("query", "first", "last"),
    [
        ({"startTime": NOW_MS - 10_000}, -9, 0),
        ({"startTime": NOW_MS - 10_000, "limit": 2}, -9, -8),
        ({"endTime": NOW_MS - 10_000, "limit": 2}, -11, -10),
        ({"startTime": NOW - 10_000_000, "limit": 1}, -9, -9),
    ],
)
def test_klines_open_within_the_times_asked_for(
    market: SeededMarket, query: dict[str, int], first: int, last: int
) -> None:
    rows = ask(market, "klines", symbol="BTCUSDT", interval="1s", **query)
    present = NOW_MS // SECOND_MS
    assert (rows[0][0] // SECOND_MS - present, rows[-1][0] // SECOND_MS - present) == (first, last)


def test_weeks_begin_on_mondays() -> None:
    market = SeededMarket(1, 0.01, ["BTCUSDT"])
    (week,) = ask(market, "klines", symbol="BTCUSDT", interval="1w", limit=1)
    assert week[0] % (7 * 86_400_000) == 4 * 86_400_000


def test_there_is_nothing_before_the_beginning_nor_after_now(market: SeededMarket) -> None:
    before = ORIGIN_US // 1_000 - 10_000
    assert ask(market, "klines", symbol="BTCUSDT", interval="1s", startTime=0, endTime=before) == []
    assert ask(market, "klines", symbol="BTCUSDT", interval="1s", startTime=NOW_MS + 1_000) == []
    assert ask(market, "historicalTrades", symbol="BTCUSDT", fromId=10**15) == []
    assert ask(market, "aggTrades", symbol="BTCUSDT", fromId=10**15) == []
    assert ask(market, "aggTrades", symbol="BTCUSDT", startTime=NOW_MS + 1_000) == []
    first = ask(market, "historicalTrades", symbol="BTCUSDT", fromId=0, limit=1)
    assert first[0]["id"] == 0
    assert len(ask(market, "klines", symbol="BTCUSDT", interval="1s", startTime=0, limit=5)) == 5


@pytest.mark.parametrize(
    ("path", "query", "code", "status"),
    [
        ("trades", {}, -1102, 400),
        ("trades", {"symbol": ""}, -1102, 400),
        ("trades", {"symbol": "btcusdt"}, -1100, 400),
        ("trades", {"symbol": "A" * 51}, -1100, 400),
        ("trades", {"symbol": "BTCUSDT", "limit": "many"}, -1100, 400),
        ("trades", {"symbol": "BTCUSDT", "limit": "-1"}, -1100, 400),
        ("historicalTrades", {"symbol": "BTCUSDT", "fromId": "x"}, -1100, 400),
        ("aggTrades", {"symbol": "BTCUSDT", "fromId": 1, "startTime": 1}, -1128, 400),
        ("klines", {"symbol": "BTCUSDT"}, -1120, 400),
        ("klines", {"symbol": "BTCUSDT", "interval": "5s"}, -1120, 400),
        ("klines", {"symbol": "BTCUSDT", "interval": "1d"}, -1127, 400),
        ("exchangeInfo", {"symbol": "BTCUSDT", "symbols": "[]"}, -1128, 400),
        ("exchangeInfo", {"symbols": "BTCUSDT"}, -1100, 400),
        ("exchangeInfo", {"symbols": "[1]"}, -1100, 400),
        ("exchangeInfo", {"symbols": "[" * 5_000}, -1100, 400),
        ("ticker/24hr", {"symbol": "BTCUSDT"}, -1130, 400),
        ("ticker/24hr", {"symbol": "BTCUSDT", "symbols": "[]", "type": "MINI"}, -1128, 400),
        ("depth", {"symbol": "BTCUSDT"}, -1000, 404),
    ],
)
def test_each_wrong_request_has_its_error(
    market: SeededMarket, path: str, query: dict[str, Any], code: int, status: int
) -> None:
    with pytest.raises(RestError) as raised:
        ask(market, path, **query)
    assert (raised.value.code, raised.value.status) == (code, status)
    assert json.loads(raised.value.body) == {"code": code, "msg": raised.value.message}


def test_a_long_answer_is_given_up_when_the_simulator_stops(market: SeededMarket) -> None:
    with pytest.raises(Stopped):
        answer(market, "/api/v3/klines?symbol=BTCUSDT&interval=1m", NOW, is_stopping=lambda: True)


def test_a_ticker_has_the_trade_ids_of_the_last_day() -> None:
    market = SeededMarket(3, 0.002, ["BTCUSDT", "ETHUSDT"])
    rows = ask(market, "ticker/24hr", symbols='["ETHUSDT","BTCUSDT"]', type="MINI")
    assert [row["symbol"] for row in rows] == ["ETHUSDT", "BTCUSDT"]
    day = [market.id_at("BTCUSDT", at) for at in (NOW - 86_400_000_000, NOW)]
    trades = list(market.trades("BTCUSDT", (day[0], day[1])))
    assert rows[1] == ask(market, "ticker/24hr", symbol="BTCUSDT", type="MINI")
    last = trades[-simulator_rest.TICKER_TRADES :]
    assert {name: rows[1][name] for name in ("firstId", "lastId", "count", "openTime", "closeTime")} == {
        "firstId": day[0], "lastId": day[1] - 1, "count": len(trades),
        "openTime": NOW_MS - 86_400_000, "closeTime": NOW_MS,
    }  # fmt: skip
    prices = (trades[0].price, max(one.price for one in last), min(one.price for one in last), last[-1].price)
    shown = [rows[1][f"{name}Price"] for name in ("open", "high", "low", "last")]
    assert [Decimal(price) for price in shown] == list(prices)
    assert Decimal(rows[1]["volume"]) == sum(one.quantity for one in last)
    assert Decimal(rows[1]["quoteVolume"]) == sum(one.notional for one in last)
    everything = ask(market, "ticker/24hr", type="MINI")
    assert {"BTCUSDT", "ETHUSDT", "BNBUSDT"} <= {row["symbol"] for row in everything}


def test_a_ticker_of_a_day_without_trades_has_no_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simulator_rest, "_DAY_US", 1)
    row = ask(SeededMarket(3, 0.002, ["BTCUSDT"]), "ticker/24hr", symbol="BTCUSDT", type="MINI")
    assert (row["firstId"], row["lastId"], row["count"], row["volume"]) == (-1, -1, 0, "0.00000000")


def test_a_request_weighs_what_the_documentation_says() -> None:
    paths = ["ping", "historicalTrades?symbol=X", 'ticker/24hr?symbols=["X","Y"]', "ticker/24hr"]
    assert [weight(f"/api/v3/{path}") for path in paths] == [1, 25, 2, 80]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("0", "0.00000000"),
        ("61837.63", "61837.63000000"),
        ("1E+3", "1000.00000000"),
        ("1.0000000000", "1.00000000"),
        ("0.0000000001", "0.0000000001"),
        ("123456789012345678901234567890.5", "123456789012345678901234567890.50000000"),
    ],
)
def test_numbers_have_eight_places_and_more_only_where_they_need_them(value: str, text: str) -> None:
    assert decimal_text(Decimal(value)) == text


@pytest.fixture(scope="module")
def recorded() -> Recording:
    if not oracle.TRADES_ONLY.exists():
        pytest.skip(oracle.ABSENT)
    return Recording(Path(oracle.TRADES_ONLY), speed=0)


async def test_a_recordings_klines_are_those_that_binance_published(recorded: Recording) -> None:
    assert ask(recorded, "klines", symbol="BTCUSDT", interval="1m") == []
    assert ask(recorded, "trades", symbol="BTCUSDT") == []
    assert ask(recorded, "aggTrades", symbol="BTCUSDT") == []
    await played(recorded)
    published = oracle.published_klines()
    assert len(published) == 20
    for (symbol, interval, open_time), kline in published.items():
        (row,) = ask(
            recorded, "klines",
            symbol=symbol, interval=interval, startTime=int(open_time.timestamp()) * 1_000, limit=1,
        )  # fmt: skip
        names = dict(zip(("open", "high", "low", "close", "volume"), row[1:6], strict=True))
        assert {name: Decimal(names[name]) for name in kline} == kline
    rows = ask(recorded, "aggTrades", symbol="ETHUSDT", limit=1_000)
    ids = rows[0]["f"], rows[-1]["l"] + 1
    check_aggregates(rows, list(recorded.trades("ETHUSDT", ids)))
    with pytest.raises(RestError) as raised:
        ask(recorded, "trades", symbol="BNBUSDT")
    assert json.loads(raised.value.body) == {"code": -1121, "msg": "Invalid symbol."}
