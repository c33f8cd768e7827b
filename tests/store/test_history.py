"""load_history: candles from klines or the archive, before live candles and among them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import psycopg2
import pytest

from candleflow.market.candle import fold
from candleflow.market.partial import encode
from candleflow.market.trade import Trade
from candleflow.market.window import SECOND_US, Windows
from candleflow.store import credentials, schema
from candleflow.store.credentials import Dsn, Role
from candleflow.store.history import HistoryStore, Source
from candleflow.store.reader import CandleReader
from candleflow.store.rebuilds import CandleRebuilds, Replaced
from tests.store.processor import Processor, partials_of
from tests.store.trades import BEGINS_AT, FIVE_SECONDS, run_of
from tests.store_fixtures import Database

SLIDING = Windows.of_seconds(5, 1)


@pytest.fixture
def store(database: Database) -> Iterator[HistoryStore]:
    one = HistoryStore.from_settings(database.settings)
    yield one
    one.close()


def load(
    store: HistoryStore,
    trades: Sequence[Trade],
    source: Source = Source.KLINE,
    until: float = 0,
    windows: Windows = FIVE_SECONDS,
) -> Any:
    partials = [encode(one) for one in partials_of(trades, windows)]
    return store.load(partials, source, BEGINS_AT + round(until * SECOND_US))


def asked(database: Database, query: str) -> list[tuple[Any, ...]]:
    cursor = database.owner().cursor()
    cursor.execute(query)
    return cursor.fetchall()


def candles(database: Database) -> list[tuple[Any, ...]]:
    """Return the columns that depend only on the trades, not on their source."""
    return asked(
        database,
        "SELECT symbol, interval, open_time, open, high, low, close, volume, quote_volume, taker_buy_volume,"
        " taker_buy_quote_volume, held_ids(candles), is_complete FROM candles ORDER BY 1, 2, 3",
    )


@pytest.mark.parametrize("windows", [FIVE_SECONDS, SLIDING], ids=["tumbling", "sliding"])
def test_history_before_and_after_live_trades_makes_the_same_candles(
    database: Database, make_database: Callable[[], Database], windows: Windows
) -> None:
    other = make_database()
    schema.apply(other.settings)
    trades = run_of(1, 200)
    Processor(other.writer(), windows).merge(trades)
    expected = candles(other)

    store = HistoryStore(auditor(database), windows)
    Processor(database.writer(), windows).merge(trades[140:])
    assert load(store, trades[60:140], until=141, windows=windows) is None
    assert load(store, trades[:60], until=61, windows=windows) is None
    store.close()
    assert candles(database) == expected


def auditor(database: Database) -> Dsn:
    return credentials.dsn(database.settings, Role.AUDITOR)


def test_loaded_history_decides_whether_the_first_live_candle_is_complete(
    database: Database, store: HistoryStore
) -> None:
    trades = run_of(1, 100)
    Processor(database.writer(), FIVE_SECONDS).merge(trades[54:])

    def incomplete() -> list[tuple[Any, ...]]:
        query = "SELECT interval, first_trade_id FROM candles WHERE NOT is_complete AND interval = '5s'"
        return asked(database, query)

    assert incomplete() == [("5s", 55)]
    load(store, trades[:54], until=55)
    assert incomplete() == [("5s", 1)], "nothing shows whether trades are missing before the very first one"


def test_ids_that_are_in_candles_change_nothing_and_are_returned(
    database: Database, store: HistoryStore
) -> None:
    Processor(database.writer(), FIVE_SECONDS).merge(run_of(50, 60))
    before = asked(database, "SELECT * FROM candles ORDER BY 1, 2, 3")
    assert load(store, run_of(40, 52)) == {"BTCUSDT": "{[50,53)}"}
    assert asked(database, "SELECT * FROM candles ORDER BY 1, 2, 3") == before


def test_a_repeated_load_returns_all_its_ids(store: HistoryStore) -> None:
    assert load(store, run_of(1, 20)) is None
    assert load(store, run_of(1, 20)) == {"BTCUSDT": "{[1,21)}"}


def test_live_trades_that_were_loaded_before_are_left_out(database: Database, store: HistoryStore) -> None:
    load(store, run_of(1, 20))
    Processor(database.writer(), FIVE_SECONDS).merge(run_of(15, 30))
    assert asked(database, "SELECT sum(trade_count) FROM candles WHERE interval = '5s'") == [(30,)]


def test_loaded_candles_that_have_ended_are_closed(database: Database, store: HistoryStore) -> None:
    load(store, run_of(1, 130), until=131)
    open_ = "SELECT interval, extract(epoch FROM open_time)::bigint FROM candles WHERE NOT is_closed"
    assert asked(database, f"{open_} AND interval IN ('5s', '1m') ORDER BY 1") == [
        ("1m", BEGINS_AT // SECOND_US + 120),
        ("5s", BEGINS_AT // SECOND_US + 130),
    ]
    load(store, run_of(131, 134), until=135)
    assert asked(database, f"{open_} AND interval = '5s'") == []


def test_the_symbol_has_the_last_trade_of_its_history_until_a_later_one_comes(
    database: Database, store: HistoryStore
) -> None:
    def state() -> tuple[Any, ...]:
        (found,) = asked(database, "SELECT last_trade_id, last_price FROM symbols")
        return tuple(map(int, found))

    load(store, run_of(50, 60))
    assert state() == (60, 160)
    load(store, run_of(10, 20))
    assert state() == (60, 160)
    Processor(database.writer(), FIVE_SECONDS).merge(run_of(70, 71))
    assert state() == (71, 171)


def test_only_a_change_of_a_finished_candle_raises_its_revision(
    database: Database, store: HistoryStore
) -> None:
    """A day loaded hour by hour was never final. A closed minute was shown, so its change is a revision."""

    def revisions() -> dict[tuple[str, str], int]:
        found = asked(database, "SELECT interval, source, max(revision) FROM candles GROUP BY 1, 2")
        return {(interval, source): revision for interval, source, revision in found}

    Processor(database.writer(), FIVE_SECONDS).merge(run_of(3_690, 3_800))
    for first in range(1, 3_600, 900):
        load(store, run_of(first, first + 899))
    assert {one for one in revisions().items() if one[1]} == set()
    assert revisions()["1h", "kline"] == 0
    load(store, run_of(3_601, 3_689))
    assert revisions()["1m", "mixed"] == 1
    assert revisions()["1h", "mixed"] == 0, "the day is not loaded to its end yet"
    assert max(value for (_, source), value in revisions().items() if source != "mixed") == 0


def test_history_changes_no_record_counts(database: Database, store: HistoryStore) -> None:
    Processor(database.writer(), FIVE_SECONDS).merge(run_of(100, 200))
    before = asked(database, "SELECT * FROM record_counts ORDER BY 1, 2")
    load(store, run_of(1, 99), until=100)
    assert asked(database, "SELECT * FROM record_counts ORDER BY 1, 2") == before


def test_a_bucket_of_several_sources_says_so(database: Database, store: HistoryStore) -> None:
    load(store, run_of(1, 14))
    load(store, run_of(15, 29), Source.ARCHIVE)
    Processor(database.writer(), FIVE_SECONDS).merge(run_of(30, 59))
    reader = CandleReader.from_settings(database.settings)
    try:
        finest = reader.candles("BTCUSDT", 5, None, 100)
        folded = reader.candles("BTCUSDT", 15, None, 100)
        minute = reader.candles("BTCUSDT", 60, None, 100)
    finally:
        reader.close()
    assert [one.source for one in finest] == ["kline"] * 3 + ["archive"] * 3 + ["trades"] * 6
    assert [one.source for one in folded] == ["kline", "archive", "trades", "trades"]
    assert [one.source for one in minute] == ["mixed"]


@pytest.mark.parametrize("source", ["trades", "mixed", "", None])
def test_only_known_sources_are_accepted(database: Database, source: str | None) -> None:
    with pytest.raises(psycopg2.Error, match="load history of the source"):
        asked_as_auditor(database, "SELECT load_history('{}', '{}', %s, 0)", source)


def asked_as_auditor(database: Database, query: str, *arguments: Any) -> Any:
    connection = auditor(database).connect()
    try:
        with connection.cursor() as cursor:
            cursor.execute(query, arguments)
            return cursor.fetchall()
    finally:
        connection.close()


@pytest.mark.parametrize("source", list(Source))
def test_a_rebuild_keeps_loaded_trades_that_the_topic_lacks(
    database: Database, store: HistoryStore, source: Source
) -> None:
    """Also not in a candle that has live trades too, whose source is ``mixed``."""
    load(store, run_of(1, 32), source)
    Processor(database.writer(), FIVE_SECONDS).merge(run_of(33, 70))
    before = asked(database, "SELECT * FROM candles ORDER BY 1, 2, 3")
    rebuilds = CandleRebuilds.from_settings(database.settings)
    try:
        until = BEGINS_AT + 35 * SECOND_US
        seen = {one.open_time: one.ids for one in rebuilds.candle_ids("BTCUSDT", BEGINS_AT, until)}
        live = fold(run_of(33, 34), FIVE_SECONDS).values()
        answer = rebuilds.replace("BTCUSDT", BEGINS_AT, until, seen, list(live))
    finally:
        rebuilds.close()
    assert (answer.status, answer.candles) == (Replaced.REPLACED, 0)
    assert answer.kept >= 7
    assert asked(database, "SELECT * FROM candles ORDER BY 1, 2, 3") == before
