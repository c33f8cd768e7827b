"""CandleReader: exact candles of any bucket from few rows; a prompt error while PostgreSQL is away."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from candleflow.dashboard import choice
from candleflow.errors import MarketError, StoreError
from candleflow.market.candle import Candle, fold
from candleflow.market.stored import StoredCandle
from candleflow.market.trade import Trade
from candleflow.market.window import SECOND_US, Windows
from candleflow.settings import load
from candleflow.stack.postgres import PostgresServer
from candleflow.store import credentials, pool, reader, schema
from candleflow.store.reader import CandleReader
from tests.store.processor import Processor
from tests.store.trades import BEGINS_AT, FIVE_SECONDS, run_of, trade
from tests.store_fixtures import Database

BUCKETS = tuple(choice.BUCKETS.values())
"""Every candle length that the page offers, in seconds."""
EVERY = 20_000
"""A limit above the number of candles."""
KLINE_FIELDS = [name for name in Candle.__dataclass_fields__ if name not in ("interval", "trade_ids")]


def market() -> list[Trade]:
    """Two hours of uneven trading, then sixteen hours of little; the ids have one gap."""
    trades = []
    second = 0.0
    for trade_id in range(1, 520):
        second += (trade_id * 7919 % 97) / 3 * (1 if trade_id < 400 else 30)
        if trade_id != 200:
            price, quantity = str(100 + trade_id * 31 % 17), f"0.{trade_id:08}"
            trades.append(trade(trade_id, second, price=price, quantity=quantity))
    return trades


@pytest.fixture(scope="module", params=[FIVE_SECONDS, Windows.of_seconds(5, 1)], ids=["tumbling", "sliding"])
def filled(
    request: pytest.FixtureRequest, make_database: Callable[[], Database]
) -> Iterator[tuple[CandleReader, list[Trade]]]:
    database = make_database()
    schema.apply(database.settings)
    windows: Windows = request.param
    trades = market()
    Processor(database.writer(), windows).merge([*trades, *run_of(1, 7, "ETHUSDT")])
    slide = windows.slide_us // SECOND_US
    candle_reader = CandleReader.from_settings(database.settings_with(slide_seconds=slide))
    yield candle_reader, trades
    candle_reader.close()
    database.drop()


def kline(candle: Candle | StoredCandle) -> dict[str, Any]:
    return {name: getattr(candle, name) for name in KLINE_FIELDS}


@pytest.mark.parametrize("bucket", BUCKETS)
def test_every_bucket_is_the_fold_over_its_windows(
    filled: tuple[CandleReader, list[Trade]], bucket: int
) -> None:
    candle_reader, trades = filled
    expected = [one for _, one in sorted(fold(trades, Windows.of_seconds(bucket)).items())]
    shown = candle_reader.candles("BTCUSDT", bucket, None, EVERY)
    found = [one for one in shown if one.source != "quiet"]
    assert [kline(one) for one in found] == [kline(one) for one in expected]
    before: list[Candle | None] = [None, *expected[:-1]]
    complete = [one.is_complete_after(last) for one, last in zip(expected, before, strict=True)]
    assert [one.is_complete for one in found] == complete
    assert [one.is_closed for one in found] == [True] * (len(found) - 1) + [False]
    assert {one.source for one in found} == {"trades"}


def test_candles_of_four_hours_are_made_of_stored_ones_of_an_hour(
    filled: tuple[CandleReader, list[Trade]],
) -> None:
    candle_reader, _ = filled
    parts, arguments = candle_reader._parts("BTCUSDT", 14_400, None, EVERY)
    rows = candle_reader._pool.rows(f"SELECT DISTINCT interval FROM ({parts}) part", arguments)  # noqa: S608
    assert rows == [("1h",)]
    assert len(candle_reader.candles("BTCUSDT", 14_400, None, EVERY)) > 3


@settings(max_examples=40)
@given(
    bucket=st.sampled_from(BUCKETS),
    since=st.none()
    | st.integers(BEGINS_AT - 10 * SECOND_US, BEGINS_AT + 8_000 * SECOND_US)
    | st.integers(BEGINS_AT, BEGINS_AT + 80_000 * SECOND_US),
    limit=st.integers(1, 60),
)
def test_the_newest_that_open_in_time_are_read(
    filled: tuple[CandleReader, list[Trade]], bucket: int, since: int | None, limit: int
) -> None:
    candle_reader, _ = filled
    whole = candle_reader.candles("BTCUSDT", bucket, None, EVERY)
    in_time = [one for one in whole if since is None or one.open_time >= since]
    # Whether windows before the first trade since then were quiet is not queried.
    first = next((at for at, one in enumerate(in_time) if one.trade_count), len(in_time))
    assert candle_reader.candles("BTCUSDT", bucket, since, limit) == in_time[first:][-limit:]


@settings(max_examples=40)
@given(
    is_finest=st.booleans(),
    since=st.integers(BEGINS_AT - 10 * SECOND_US, BEGINS_AT + 8_000 * SECOND_US),
    span=st.integers(0, 1_000 * SECOND_US),
)
def test_stored_candles_are_read_unchanged_with_the_next_one_after(
    filled: tuple[CandleReader, list[Trade]], is_finest: bool, since: int, span: int
) -> None:
    candle_reader, trades = filled
    windows = candle_reader._windows if is_finest else Windows.of_seconds(60)
    interval = windows.interval if is_finest else "1m"
    expected = [kline(one) for _, one in sorted(fold(trades, windows).items())]
    after = [one for one in expected if one["open_time"] >= since + span][:1]
    inside = [one for one in expected if since <= one["open_time"] < since + span]
    found = candle_reader.within("BTCUSDT", interval, since, since + span)
    assert [kline(one) for one in found] == inside + after
    assert {one.interval for one in found} <= {interval}
    assert candle_reader.first_open_time("BTCUSDT", interval) == expected[0]["open_time"]


def test_a_symbol_without_candles_has_no_first(filled: tuple[CandleReader, list[Trade]]) -> None:
    candle_reader, _ = filled
    assert candle_reader.first_open_time("XRPUSDT", "1m") is None
    assert candle_reader.within("XRPUSDT", "1m", BEGINS_AT, BEGINS_AT + SECOND_US) == []


def test_a_bucket_that_no_stored_interval_divides_is_an_error(database: Database) -> None:
    ten = CandleReader.from_settings(database.settings_with(window_seconds=10))
    assert not ten.has_bucket(5)
    assert not ten.has_bucket(15)
    assert ten.has_bucket(30)
    assert ten.has_bucket(60)
    with pytest.raises(MarketError, match="10s"):
        ten.candles("BTCUSDT", 15, None, 10)


def test_a_folded_bucket_closes_with_its_last_part(database: Database) -> None:
    processor = Processor(database.writer(), FIVE_SECONDS)
    candle_reader = CandleReader.from_settings(database.settings)
    processor.merge(run_of(1, 12))

    def closed() -> list[bool]:
        return [one.is_closed for one in candle_reader.candles("BTCUSDT", 15, None, 9)]

    assert closed() == [False]
    processor.close_quiet(BEGINS_AT + 10 * SECOND_US)
    assert closed() == [False]
    processor.close_quiet(BEGINS_AT + 15 * SECOND_US)
    assert closed() == [True]
    processor.merge(
        run_of(31, 31)
    )  # the bucket in between has no trade, nor has the last part of the first bucket
    assert closed() == [True, False]


def test_a_late_trade_shows_as_a_revision(database: Database) -> None:
    processor = Processor(database.writer(), FIVE_SECONDS)
    processor.merge([*run_of(1, 3), *run_of(5, 20)])
    processor.merge(run_of(4, 4))
    candle_reader = CandleReader.from_settings(database.settings)
    assert [one.revision for one in candle_reader.candles("BTCUSDT", 15, None, 9)] == [1, 0]


def test_symbols_have_their_last_trade_and_their_price_a_day_before(database: Database) -> None:
    day = 86_400
    processor = Processor(database.writer(), FIVE_SECONDS)
    processor.merge([trade(1, 0, price="1"), trade(2, 3_600, price="50"), trade(3, day + 60, price="60")])
    processor.merge([trade(1, 5, "ETHUSDT", price="7")])
    bitcoin, ether = CandleReader.from_settings(database.settings).symbols()
    assert (bitcoin.symbol, bitcoin.last_trade_id, bitcoin.last_price) == ("BTCUSDT", 3, Decimal(60))
    assert bitcoin.last_trade_time == BEGINS_AT + (day + 60) * SECOND_US
    assert (bitcoin.day_open, bitcoin.day_change) == (Decimal(50), Decimal("0.2"))
    assert bitcoin.day_opens_at == BEGINS_AT + 3_600 * SECOND_US
    assert (ether.symbol, ether.day_change) == ("ETHUSDT", Decimal(0))


def test_a_day_is_made_of_quarter_hours_up_to_each_symbols_last_trade(database: Database) -> None:
    quarter, day = 900, 86_400
    processor = Processor(database.writer(), FIVE_SECONDS)
    processor.merge(
        [trade(1, 0, price="1"), trade(2, quarter, price="50"), trade(3, quarter + 9, price="51")]
    )
    processor.merge([trade(4, 3 * quarter, price="52"), trade(5, day + quarter - 1, price="60")])
    processor.merge([trade(1, 5, "ETHUSDT", price="7")])
    bitcoin, ether = CandleReader.from_settings(database.settings).days()
    times = [(one - BEGINS_AT) // SECOND_US for one in bitcoin.open_times]
    assert (bitcoin.symbol, times) == ("BTCUSDT", [quarter, 3 * quarter, day])
    assert (bitcoin.first_open, [*bitcoin.closes]) == (Decimal(50), [Decimal(51), Decimal(52), Decimal(60)])
    assert (ether.symbol, ether.open_times, [*ether.closes]) == ("ETHUSDT", (BEGINS_AT,), [Decimal(7)])


def test_days_read_few_rows_by_the_index(database: Database) -> None:
    """Of 1,000 stored candles of 15 min for each of 40 symbols, it reads only the newest 96."""
    cursor = database.owner().cursor()
    cursor.execute(
        "INSERT INTO candles (symbol, interval, open_time, end_time, open, high, low, close, volume,"
        " quote_volume, taker_buy_volume, taker_buy_quote_volume, trade_count, first_trade_id, last_trade_id,"
        " trade_ids, updated_at) SELECT 'S' || s, '15m', opens, opens + interval '15 min', 1, 1, 1, 1, 1, 1,"
        " 0, 0, 1, n, n, int8multirange(int8range(n, n + 1)), opens FROM generate_series(1, 1000) n,"
        " generate_series(1, 40) s,"
        " LATERAL (SELECT timestamptz '2026-01-01 00:00Z' + n * interval '15 min' AS opens)"
    )
    cursor.execute(
        "INSERT INTO symbols SELECT symbol, 1, 1, max(open_time), max(open_time), now()"
        " FROM candles GROUP BY symbol"
    )
    for _ in range(2):  # before the first ANALYZE, and after
        cursor.execute("EXPLAIN (ANALYZE, FORMAT JSON) " + reader._DAYS)
        plan = (cursor.fetchone() or ([{}],))[0][0]
        (scan,) = [node for node in _nodes(plan["Plan"]) if node.get("Relation Name") == "candles"]
        assert scan["Node Type"] == "Index Scan"
        assert (scan["Actual Loops"], scan["Actual Rows"]) == (40, 96)
        cursor.execute("ANALYZE")


def test_counts_are_by_outcome(database: Database) -> None:
    processor = Processor(database.writer(), FIVE_SECONDS)
    candle_reader = CandleReader.from_settings(database.settings)
    assert candle_reader.counts() == {}
    processor.merge([*run_of(1, 3), *run_of(2, 3)])
    processor.send({"0": 5}, {"0": 6}, [], {"received": 1, "rejected": {"not JSON": 1}})
    assert candle_reader.counts() == {"received": 6, "merged": 3, "duplicate": 2, "rejected: not JSON": 1}


def test_nothing_stored_is_no_error(database: Database) -> None:
    candle_reader = CandleReader.from_settings(database.settings)
    for bucket in BUCKETS:
        assert candle_reader.candles("BTCUSDT", bucket, None, 100) == []
    assert candle_reader.candles("x'; DROP TABLE candles; --", 5, -5, 1) == []
    assert candle_reader.symbols() == []


def test_no_schema_yet_is_an_error_that_goes_away(empty_database: Database) -> None:
    candle_reader = CandleReader.from_settings(empty_database.settings)
    with pytest.raises(StoreError):
        candle_reader.symbols()
    schema.apply(empty_database.settings)
    assert candle_reader.symbols() == []


def test_twenty_viewers_share_a_few_connections(filled: tuple[CandleReader, list[Trade]]) -> None:
    candle_reader, _ = filled
    expected = candle_reader.candles("BTCUSDT", 15, None, 100)
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda _: candle_reader.candles("BTCUSDT", 15, None, 100), range(100)))
    assert all(answer == expected for answer in answers)
    assert len(candle_reader._pool._idle) <= reader.CONNECTIONS


@pytest.mark.parametrize("bucket", BUCKETS)
def test_open_gaps_are_the_ids_that_candles_lack(
    filled: tuple[CandleReader, list[Trade]], bucket: int
) -> None:
    candle_reader, trades = filled
    times = {one.trade_id: one.trade_time for one in trades}
    found = candle_reader.open_gaps("BTCUSDT", bucket, None, EVERY, newest=5)
    assert (found.count, found.trades, len(found.newest)) == (1, 1, 1)
    (gap,) = found.newest
    assert (gap.first_trade_id, gap.last_trade_id) == (200, 200)
    assert times[199] - bucket * SECOND_US < gap.after <= times[199]
    assert times[201] < gap.before <= times[201] + bucket * SECOND_US
    assert candle_reader.open_gaps("ETHUSDT", bucket, None, EVERY, newest=5).count == 0
    assert candle_reader.open_gaps("BTCUSDT", bucket, max(times.values()) + 1, EVERY, newest=5).count == 0


def test_of_many_gaps_the_newest_are_listed_one_by_one(database: Database) -> None:
    trades = [one for one in run_of(1, 90) if one.trade_id % 10]
    Processor(database.writer(), FIVE_SECONDS).merge(trades)
    with closing(CandleReader.from_settings(database.settings)) as candle_reader:
        found = candle_reader.open_gaps("BTCUSDT", 5, BEGINS_AT + 15 * SECOND_US, 100, newest=2)
    assert (found.count, found.trades) == (7, 7)
    assert [gap.first_trade_id for gap in found.newest] == [80, 70]


@pytest.mark.parametrize("windows", [FIVE_SECONDS, Windows.of_seconds(5, 1)], ids=["tumbling", "sliding"])
def test_a_long_look_back_reads_few_rows_by_the_index(database: Database, windows: Windows) -> None:
    """Of 100,000 candles, it reads only the parts of the newest 500 buckets of 15 s."""
    cursor = database.owner().cursor()
    cursor.execute(
        "INSERT INTO candles (symbol, interval, open_time, end_time, open, high, low, close, volume,"
        " quote_volume, taker_buy_volume, taker_buy_quote_volume, trade_count, first_trade_id, last_trade_id,"
        " trade_ids, updated_at) SELECT 'BTCUSDT', %s, opens, opens + interval '5 s', 1, 1, 1, 1, 1, 1, 0,"
        " 0, 1, n, n, int8multirange(int8range(n, n + 1)), opens FROM generate_series(1, 100000) n,"
        " LATERAL (SELECT timestamptz '2026-01-01 00:00Z' + n * make_interval(secs => %s) AS opens)",
        (windows.interval, windows.slide_us // SECOND_US),
    )
    candle_reader = CandleReader(credentials.dsn(database.settings, credentials.Role.READER), windows)
    query, arguments = candle_reader._question("BTCUSDT", 15, None, 500)
    per_part = windows.size_us // windows.slide_us
    for _ in range(2):  # before the first ANALYZE, and after
        cursor.execute("EXPLAIN (ANALYZE, FORMAT JSON) " + query, arguments)
        plan = (cursor.fetchone() or ([{}],))[0][0]
        (scan,) = [node for node in _nodes(plan["Plan"]) if node.get("Relation Name") == "candles"]
        assert scan["Node Type"] == "Index Scan"
        assert scan["Actual Rows"] + scan.get("Rows Removed by Filter", 0) <= 1_500 * per_part
        cursor.execute("ANALYZE candles")


def _nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", []):
        yield from _nodes(child)


@pytest.fixture
def own_reader(own_server: PostgresServer, tmp_path: Path) -> CandleReader:
    url = f"postgresql://candleflow@127.0.0.1:{own_server.port}/candleflow"
    own = load(postgres_url=url, data_dir=tmp_path)
    own_server.provide("candleflow", "candleflow")
    schema.apply(own)
    with closing(credentials.dsn(own, credentials.Role.WRITER).connect()) as connection:
        connection.autocommit = True
        Processor(connection, FIVE_SECONDS).merge(run_of(1, 3))
    return CandleReader.from_settings(own)


def answers_within(candle_reader: CandleReader, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            return len(candle_reader.symbols()) == 1
        except StoreError:
            threading.Event().wait(0.05)
    return False


def test_a_restart_between_two_questions_goes_unnoticed(
    own_server: PostgresServer, own_reader: CandleReader
) -> None:
    assert len(own_reader.symbols()) == 1
    own_server.kill()
    own_server.start()
    own_server.wait_until_ready()
    assert len(own_reader.symbols()) == 1


def test_a_server_that_is_away_is_an_error_at_once_and_is_found_again(
    own_server: PostgresServer, own_reader: CandleReader
) -> None:
    assert len(own_reader.symbols()) == 1
    own_server.stop()
    for _ in range(3):
        began = time.monotonic()
        with pytest.raises(StoreError, match=r"127\.0\.0\.1"):
            own_reader.candles("BTCUSDT", 5, None, 10)
        assert time.monotonic() - began < pool.CONNECT_SECONDS
    own_server.start()
    assert answers_within(own_reader, 60)


def test_a_server_that_hangs_is_an_error_and_is_found_again(
    own_server: PostgresServer, own_reader: CandleReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "QUERY_SECONDS", 0.5)
    monkeypatch.setattr(pool, "CONNECT_SECONDS", 0.5)
    assert len(own_reader.symbols()) == 1
    assert own_server.process is not None
    server = psutil.Process(own_server.process.pid)
    stopped = [server, *server.children()]
    for process in stopped:
        process.suspend()
    try:
        for _ in range(2):  # first its open connection, then a new one
            with pytest.raises(StoreError, match=r"no answer in 0\.5 s"):
                own_reader.symbols()
    finally:
        for process in stopped:
            process.resume()
    assert answers_within(own_reader, 60)


def test_windows_without_trades_are_flat_if_no_id_is_missing_and_else_absent(
    database: Database,
) -> None:
    processor = Processor(database.writer(), FIVE_SECONDS)
    processor.merge([trade(1, 0, price="100"), trade(2, 12, price="90"), trade(4, 27, price="95")])
    with closing(CandleReader.from_settings(database.settings)) as candle_reader:
        found = candle_reader.candles("BTCUSDT", 5, None, 100)
        newest = candle_reader.candles("BTCUSDT", 5, None, 3)
    seconds = [(one.open_time - BEGINS_AT) // SECOND_US for one in found]
    assert seconds == [0, 5, 10, 25], "trade 3 may have been in seconds 15 to 25"
    assert newest == found[1:]
    quiet = found[1]
    assert (quiet.open, quiet.high, quiet.low, quiet.close) == (Decimal(100),) * 4
    assert not any((quiet.trade_count, quiet.volume, quiet.quote_volume))
    assert (quiet.is_closed, quiet.is_complete, quiet.source) == (True, True, "quiet")
    assert quiet.last_trade_id == quiet.first_trade_id - 1 == 1, "the next candle starts with the id after it"
