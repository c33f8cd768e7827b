"""merge_batch: one batch in one transaction, each trade once, invalid batches refused.

tests/property/test_merge_model.py compares the candles with ``market.candle.fold`` for any order of trades.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from decimal import Decimal, localcontext
from typing import Any

import psycopg2
import pytest

from candleflow.market.trade import EXACT, NOTIONAL_LIMIT, QUANTITY_LIMIT
from candleflow.market.window import ROLL_UPS, SECOND_US, Windows
from candleflow.store import schema
from tests.store.processor import MERGE, Processor, partials_of
from tests.store.trades import BEGINS_AT, FIVE_SECONDS, run_of, trade
from tests.store_fixtures import Database


@pytest.fixture
def processor(database: Database) -> Processor:
    return Processor(database.writer(), FIVE_SECONDS)


def asked(database: Database, query: str) -> list[tuple[Any, ...]]:
    cursor = database.owner().cursor()
    cursor.execute(query)
    return cursor.fetchall()


def everything(database: Database) -> list[list[tuple[Any, ...]]]:
    """Return every row that a batch may change."""
    return [
        asked(database, f"SELECT * FROM {table} ORDER BY 1, 2, 3")  # noqa: S608 - names of tables
        for table in ("candles", "symbols", "record_counts", "topic_offsets")
    ]


def test_a_replayed_batch_changes_nothing(database: Database, processor: Processor) -> None:
    partials = partials_of(run_of(1, 12), FIVE_SECONDS)
    counts = {"received": 12}
    assert processor.send({}, {"0": 12}, partials, counts) == {"status": "merged", "late": 0}
    before = everything(database)
    assert processor.send({}, {"0": 12}, partials, counts) == {"status": "already_merged"}
    assert everything(database) == before


def test_a_batch_replayed_under_a_new_claim_changes_nothing(database: Database) -> None:
    """This happens after a COMMIT whose reply was lost with the connection."""
    partials = partials_of(run_of(1, 12), FIVE_SECONDS)
    connection = database.writer()
    Processor(connection, FIVE_SECONDS).send({}, {"0": 12}, partials)
    connection.close()
    again = Processor(database.writer(), FIVE_SECONDS)
    assert again.send({}, {"0": 12}, partials) == {"status": "already_merged"}


def test_offsets_that_do_not_match_are_refused(database: Database, processor: Processor) -> None:
    processor.merge(run_of(1, 10))
    before = everything(database)
    for expected, reached in (
        ({"0": 5}, {"0": 12}),
        ({"0": 12}, {"0": 14}),
        ({}, {"0": 12}),
        ({"1": 10}, {"1": 12}),
    ):
        with pytest.raises(psycopg2.Error, match='"0": 10') as caught:
            processor.send(expected, reached, partials_of(run_of(11, 12), FIVE_SECONDS))
        assert caught.value.pgcode == "CF003"
    assert everything(database) == before


def test_a_new_partition_may_begin_anywhere(database: Database, processor: Processor) -> None:
    processor.merge(run_of(1, 10))
    answer = processor.send(
        {"0": 10, "1": 500}, {"0": 10, "1": 502}, partials_of(run_of(11, 12), FIVE_SECONDS)
    )
    assert answer["status"] == "merged"
    assert asked(database, "SELECT partition, next_offset FROM topic_offsets ORDER BY 1") == [
        (0, 10),
        (1, 502),
    ]


def test_a_batch_of_only_refused_records_moves_the_offsets(database: Database, processor: Processor) -> None:
    counts = {"received": 3, "rejected": {"not JSON": 2, "price out of range": 1}}
    assert processor.send({}, {"0": 3}, [], counts) == {"status": "merged", "late": 0}
    assert asked(database, "SELECT next_offset FROM topic_offsets") == [(3,)]
    assert dict(asked(database, "SELECT outcome, records FROM record_counts")) == {
        "received": 3,
        "rejected: not JSON": 2,
        "rejected: price out of range": 1,
    }


def test_an_overlap_names_the_ids_and_changes_nothing(database: Database, processor: Processor) -> None:
    processor.merge([*run_of(1, 9), *run_of(3, 4, "ETHUSDT")])
    before = everything(database)
    batch = [*run_of(4, 7), *run_of(9, 11), *run_of(4, 6, "ETHUSDT"), *run_of(1, 2, "SOLUSDT")]
    answer = processor.send({"0": 11}, {"0": 30}, partials_of(batch, FIVE_SECONDS))
    assert answer == {"status": "overlap", "ids": {"BTCUSDT": "{[4,8),[9,10)}", "ETHUSDT": "{[4,5)}"}}
    assert everything(database) == before


@pytest.mark.parametrize(("first", "second"), [(5, 10), (120, 5), (5, 120), (300, 5), (5, 300), (60, 300)])
def test_an_overlap_is_found_with_other_windows_too(database: Database, first: int, second: int) -> None:
    """It is found in the common roll-ups, with and without missing ids, whichever windows came last."""
    connection = database.writer()
    Processor(connection, Windows.of_seconds(first)).merge([*run_of(1, 4), *run_of(6, 9)])
    processor = Processor(connection, Windows.of_seconds(second))  # a session may claim its topic again

    def overlap(*ids: int) -> Any:
        trades = [trade(one, 400 if one > 9 else one) for one in ids]
        at = processor.offsets["0"]
        answer = processor.send({"0": at}, {"0": at + 3}, partials_of(trades, processor.windows))
        return answer.get("ids")

    assert overlap(4, 5, 7) == {"BTCUSDT": "{[4,5),[7,8)}"}
    processor.merge([trade(12, 400), trade(14, 401)])
    assert overlap(12, 13, 14) == {"BTCUSDT": "{[12,13),[14,15)}"}
    assert overlap(7, 5, 4) == {"BTCUSDT": "{[4,5),[7,8)}"}
    processor.merge([trade(5, 5)])
    ids = "SELECT DISTINCT held_ids(candles)::text FROM candles WHERE interval = '1d'"
    assert asked(database, ids) == [("{[1,10),[12,13),[14,15)}",)]


def test_the_rows_of_a_day_do_not_grow_with_the_gaps_in_it(database: Database, processor: Processor) -> None:
    """Each merge rewrites these rows, and a set of 500 id ranges has 5 kB."""
    processor.merge([trade(2 * n, 3 * n) for n in range(500)])
    processor.merge([trade(1_000 + 2 * n, 1_501) for n in range(3)])
    query = """
        SELECT max(pg_column_size(trade_ids)), min(id_count(held_ids(candles))), max(trade_count)
        FROM candles WHERE interval IN ('5m', '15m', '1h', '1d') GROUP BY interval
    """
    assert {sizes for sizes, *_ in asked(database, query)} == {None}
    assert asked(database, query + "HAVING interval = '1d'") == [(None, 503, 503)]


def test_a_batch_looks_each_symbol_up_once_and_writes_no_unchanged_row(database: Database) -> None:
    """While a snapshot is open, each lookup reads all later versions of the row."""
    connection = database.writer()
    connection.autocommit = False  # pg_stat_xact counts this transaction only
    processor = Processor(connection, FIVE_SECONDS)
    processor.merge(run_of(1, 100), partition="0")
    processor.merge(run_of(1, 100, "ETHUSDT"), partition="1")

    def counts() -> tuple[int, int, int]:
        looks, symbols, offsets = processor.call(
            "SELECT json_build_array(sum(idx_scan) FILTER (WHERE relname = 'symbols'),"
            " sum(n_tup_upd) FILTER (WHERE relname = 'symbols'),"
            " sum(n_tup_upd) FILTER (WHERE relname = 'topic_offsets')) FROM pg_stat_xact_user_tables"
        )
        return looks, symbols, offsets

    before = counts()
    processor.merge([*run_of(101, 200), *run_of(101, 200, "ETHUSDT")], partition="1")
    after = counts()
    connection.commit()
    # For each of two symbols, one lookup to read its row and one to update it; the batch has 44 candles.
    assert [now - was for now, was in zip(after, before, strict=True)] == [4, 2, 1]


def test_a_late_trade_does_not_change_its_symbols_row(database: Database, processor: Processor) -> None:
    processor.merge([*run_of(1, 4), *run_of(6, 20)])
    before = asked(database, "SELECT xmin::text, * FROM symbols")
    processor.merge(run_of(5, 5))
    assert asked(database, "SELECT xmin::text, * FROM symbols") == before


def test_the_index_of_open_candles_is_cleaned_though_few_pages_changed(database: Database) -> None:
    """By default VACUUM skips the indexes if under 2% of the pages have dead rows, as in any large table."""
    cursor = database.owner().cursor()
    cursor.execute(
        "INSERT INTO candles (symbol, interval, open_time, end_time, open, high, low, close, volume,"
        " quote_volume, taker_buy_volume, taker_buy_quote_volume, trade_count, first_trade_id, last_trade_id,"
        " is_closed, updated_at) SELECT 'OLD', '5s', opens, opens + interval '5 s', 1, 1, 1, 1, 1, 1, 0, 0,"
        " 1, n, n, true, opens"
        " FROM generate_series(1, 30000) n, LATERAL (SELECT to_timestamp(5 * n) AS opens)"
    )
    cursor.execute("UPDATE candles SET is_closed = false WHERE open_time <= to_timestamp(500)")
    cursor.execute("ANALYZE candles")
    in_index = "SELECT reltuples FROM pg_class WHERE relname = 'candles_open'"
    assert asked(database, in_index) == [(100,)]
    cursor.execute("UPDATE candles SET is_closed = true WHERE NOT is_closed")
    cursor.execute("VACUUM candles")
    assert asked(database, in_index) == [(0,)]


def test_a_name_of_fifty_characters_of_any_alphabet_is_merged(processor: Processor) -> None:
    answer = processor.send({"0": 0}, {"0": 3}, partials_of(run_of(1, 3, "\U00020000" * 50), FIVE_SECONDS))
    assert answer["status"] == "merged"


GARBAGE: list[dict[str, Any]] = [
    {"symbol": None},
    {"symbol": "A" * 51},
    {"open_time": None},
    {"open_time": "soon"},
    {"open_time": BEGINS_AT + 1},
    {"open_time": -5 * SECOND_US},
    {"last_trade_time": None},
    {"open": None},
    {"open": "a lot"},
    {"high": "NaN"},
    {"high": "Infinity"},
    {"high": "0.5"},
    {"low": "0"},
    {"low": "-1"},
    {"volume": "0"},
    {"volume": "NaN"},
    {"taker_buy_volume": "1000000"},
    {"quote_volume": "-1"},
    {"trade_count": 99},
    {"trade_count": 0},
    {"first_trade_id": 0},
    {"last_trade_id": 9},
    {"trade_ids": "{}"},
    {"trade_ids": "{[1,3)}"},
    {"trade_ids": "[1,5)"},
]


@pytest.fixture(scope="module")
def unharmed(make_database: Callable[[], Database]) -> Iterator[Processor]:
    """A processor with one merged batch. Tests send only invalid data; finally nothing may have changed."""
    database = make_database()
    schema.apply(database.settings)
    processor = Processor(database.writer(), FIVE_SECONDS)
    processor.merge(run_of(100, 103, "ETHUSDT"))
    before = everything(database)
    yield processor
    assert everything(database) == before
    database.drop()


@pytest.mark.parametrize("wrong", GARBAGE, ids=repr)
def test_a_garbled_partial_fails_the_batch_and_changes_nothing(
    unharmed: Processor, wrong: dict[str, Any]
) -> None:
    (partial,) = partials_of([trade(1, 1), trade(2, 2), trade(3, 3), trade(4, 4)], FIVE_SECONDS)
    with pytest.raises(psycopg2.Error):
        unharmed.send({"0": 4}, {"0": 8}, [partial._replace(**wrong)])


@pytest.mark.parametrize("partials", ["", "[]", '{"x"}', "{1}", '{"(A,1)"}', "{NULL}", '{"(,,,,,)"}'])
def test_partials_that_are_no_array_of_rows_fail_the_batch(unharmed: Processor, partials: str) -> None:
    windows = '{"interval": "5s", "size_us": 5000000, "slide_us": 5000000}'
    with pytest.raises(psycopg2.Error):
        unharmed.call(MERGE, unharmed.run_id, "trades", '{"0": 4}', '{"0": 5}', partials, "{}", windows)


def test_nothing_may_be_null(unharmed: Processor) -> None:
    arguments = [
        '{"0": 4}',
        '{"0": 5}',
        "{}",
        "{}",
        '{"interval": "5s", "size_us": 5000000, "slide_us": 5000000}',
    ]
    for position in range(len(arguments)):
        with pytest.raises(psycopg2.Error):
            unharmed.call(
                MERGE, unharmed.run_id, "trades", *arguments[:position], None, *arguments[position + 1 :]
            )


def test_candles_without_records_and_batches_that_end_before_they_begin_are_refused(
    processor: Processor,
) -> None:
    processor.merge(run_of(1, 5))
    for reached in ({"0": 5}, {"0": 4}):
        with pytest.raises(psycopg2.Error) as caught:
            processor.send({"0": 5}, reached, partials_of(run_of(6, 7), FIVE_SECONDS))
        assert caught.value.pgcode == "22023"


def test_one_trade_in_two_windows_of_a_batch_is_refused(processor: Processor) -> None:
    partials = partials_of([trade(7, 1)], FIVE_SECONDS) + partials_of([trade(7, 6)], FIVE_SECONDS)
    with pytest.raises(psycopg2.Error, match="their ids don't match their trade counts"):
        processor.send({}, {"0": 2}, partials)


def test_sums_are_exact_at_the_limits(database: Database, processor: Processor) -> None:
    tick = Decimal("0.00000001")
    greatest = QUANTITY_LIMIT - tick
    price = (NOTIONAL_LIMIT / QUANTITY_LIMIT) - tick
    trades = [trade(n, 1, price=str(price), quantity=str(greatest)) for n in range(1, 1_001)]
    trades.append(trade(1_001, 1, price=str(tick), quantity=str(tick)))
    processor.merge(trades[:500])
    processor.merge(trades[500:])
    with localcontext(EXACT):
        expected = [(1_000 * greatest + tick, 1_000 * greatest * price + tick * tick)]
    assert asked(database, "SELECT DISTINCT volume, quote_volume FROM candles") == expected


def test_a_symbol_moves_forward_by_trade_id_only(database: Database, processor: Processor) -> None:
    query = "SELECT last_trade_id, last_price, extract(epoch FROM last_trade_time)::bigint FROM symbols"
    begins = BEGINS_AT // SECOND_US
    processor.merge([trade(10, 3, price="110")])
    processor.merge([trade(9, 7, price="109")])
    assert asked(database, query) == [(10, 110, begins + 3)]
    processor.merge([trade(11, 2, price="111")])
    assert asked(database, query) == [(11, 111, begins + 2)]


def test_a_symbol_that_is_listed_again_continues_with_its_new_ids(
    database: Database, processor: Processor
) -> None:
    query = "SELECT last_trade_id, last_price FROM symbols"
    processor.merge([trade(1_000_000, 3, price="110")])
    processor.merge([trade(1, 7, price="50")])
    assert asked(database, query) == [(1, 50)]
    processor.merge([trade(1_000_001, 4, price="111")])  # an old trade, missed and fetched later
    assert asked(database, query) == [(1, 50)]
    processor.merge([trade(2, 8, price="51")])
    assert asked(database, query) == [(2, 51)]
    processor.merge([trade(1, 90_000, price="70")])  # listed once more, on another day
    assert asked(database, query) == [(1, 70)]


def test_open_and_close_follow_the_trade_ids_in_any_order_of_arrival(
    database: Database, processor: Processor
) -> None:
    query = "SELECT open, close FROM candles WHERE interval = '5s'"
    processor.merge([trade(2, 1, price="102"), trade(3, 1, price="103")])
    processor.merge([trade(1, 1, price="101")])
    assert asked(database, query) == [(101, 103)]
    processor.merge([trade(4, 1, price="104")])
    assert asked(database, query) == [(101, 104)]


def test_a_filled_gap_completes_its_candle_and_the_next(database: Database, processor: Processor) -> None:
    query = "SELECT is_complete, revision FROM candles WHERE interval = '5s' ORDER BY open_time"
    processor.merge([*run_of(1, 7), *run_of(9, 12)])  # 8 is missing, in the second of three candles
    assert asked(database, query) == [(False, 0), (False, 0), (True, 0)]
    processor.merge(run_of(8, 8))
    assert asked(database, query) == [(False, 0), (True, 1), (True, 0)]


def test_a_gap_makes_a_complete_candle_incomplete(database: Database, processor: Processor) -> None:
    query = "SELECT is_complete FROM candles WHERE interval = '5s' ORDER BY open_time DESC LIMIT 1"
    processor.merge(run_of(4, 6))
    assert asked(database, query) == [(True,)]
    processor.merge([*run_of(7, 7), *run_of(9, 9)])
    assert asked(database, query) == [(False,)]
    processor.merge(run_of(8, 8))
    assert asked(database, query) == [(True,)]


def test_a_late_last_trade_completes_the_newest_candle(database: Database, processor: Processor) -> None:
    query = "SELECT is_complete FROM candles WHERE interval = '5s' ORDER BY open_time"
    processor.merge([*run_of(1, 3), *run_of(5, 6)])
    assert asked(database, query) == [(False,), (False,)]
    processor.merge(run_of(4, 4))
    assert asked(database, query) == [(False,), (True,)]


def test_a_late_last_trade_completes_the_next_candle_of_its_own_batch(
    database: Database, processor: Processor
) -> None:
    query = "SELECT is_complete FROM candles WHERE interval = '5s' ORDER BY open_time"
    processor.merge([*run_of(1, 3), *run_of(5, 6), *run_of(10, 10)])
    processor.merge([*run_of(4, 4), *run_of(7, 7)])
    assert asked(database, query) == [(False,), (True,), (False,)]


def test_a_candle_before_the_first_proves_the_first(database: Database, processor: Processor) -> None:
    query = "SELECT is_complete FROM candles WHERE interval = '5s' ORDER BY open_time"
    processor.merge(run_of(5, 9))
    assert asked(database, query) == [(False,)]
    processor.merge(run_of(1, 4))
    assert asked(database, query) == [(False,), (True,)]


def test_quiet_candles_close_and_a_late_trade_is_a_revision(database: Database, processor: Processor) -> None:
    query = "SELECT is_closed, revision FROM candles WHERE interval = '5s'"
    processor.merge(run_of(1, 3))
    assert processor.close_quiet(BEGINS_AT + 5 * SECOND_US - 1) == 0
    assert processor.close_quiet(BEGINS_AT + 5 * SECOND_US) == 1
    assert asked(database, query) == [(True, 0)]
    assert processor.merge(run_of(4, 4)) == 1
    assert asked(database, query) == [(True, 1)]


def test_closing_quiet_candles_records_that_the_processor_has_caught_up(
    database: Database, processor: Processor
) -> None:
    assert asked(database, "SELECT caught_up_at FROM topics") == [(None,)]
    processor.close_quiet(0)
    assert asked(database, "SELECT caught_up_at <= clock_timestamp() FROM topics") == [(True,)]


def test_the_roll_ups_are_those_of_the_market(database: Database) -> None:
    assert dict(asked(database, "SELECT * FROM roll_ups()")) == {
        name: seconds * SECOND_US for name, seconds in ROLL_UPS.items()
    }


def test_a_new_candle_is_written_once_if_the_batch_has_the_one_before(database: Database) -> None:
    connection = database.writer()
    connection.autocommit = False  # pg_stat_xact counts this transaction only
    processor = Processor(connection, FIVE_SECONDS)
    processor.merge(run_of(1, 1_000))
    written = processor.call(
        "SELECT ARRAY[n_tup_ins, n_tup_upd] FROM pg_stat_xact_user_tables WHERE relname = 'candles'"
    )
    connection.commit()
    candles, complete = asked(database, "SELECT count(*), count(*) FILTER (WHERE is_complete) FROM candles")[
        0
    ]
    assert written == [candles, 0]
    first_ones = 1 + len(
        ROLL_UPS
    )  # whether trades are missing before the first candle of each interval is unknown
    assert candles > 200
    assert complete == candles - first_ones


@pytest.mark.parametrize("time_us", [0, 1, 1_722_902_399_999_999, 253_402_300_799_999_999])
def test_every_microsecond_is_kept(database: Database, time_us: int) -> None:
    cursor = database.owner().cursor()
    cursor.execute("SELECT (extract(epoch FROM from_microseconds(%s)) * 1000000)::bigint", (time_us,))
    assert cursor.fetchone() == (time_us,)


def test_times_do_not_depend_on_the_clients_time_zone(database: Database) -> None:
    connection = database.writer()
    connection.cursor().execute("SET timezone = 'America/New_York'")
    # 2026-11-01: New York's day has 25 hours.
    changes_at = (1_793_491_200 * SECOND_US - BEGINS_AT) // SECOND_US
    processor = Processor(connection, FIVE_SECONDS)
    processor.merge(
        [trade(1, changes_at + 10), trade(2, changes_at + 23.9 * 3_600), trade(3, changes_at + 86_400)]
    )
    query = """
        SELECT to_char(open_time AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI'), trade_count, is_complete,
            is_closed
        FROM candles WHERE interval = '1d' ORDER BY 1
    """
    assert asked(database, query) == [
        ("2026-11-01 00:00", 2, False, True),
        ("2026-11-02 00:00", 1, True, False),
    ]


def test_a_reader_never_sees_half_a_batch(database: Database) -> None:
    """In each snapshot all intervals have the same number of trades, which is also that of the counts."""
    processor = Processor(database.writer(), FIVE_SECONDS)
    reader = database.reader()
    seen: set[tuple[Any, ...]] = set()
    wrong: list[tuple[Any, ...]] = []
    done = threading.Event()

    def watch() -> None:
        cursor = reader.cursor()
        while not done.is_set():
            cursor.execute(
                "SELECT (SELECT array_agg(DISTINCT n) FROM (SELECT sum(trade_count) AS n FROM candles"
                " GROUP BY symbol, interval) s), (SELECT array_agg(DISTINCT last_trade_id) FROM symbols),"
                " (SELECT records / 2 FROM record_counts WHERE outcome = 'merged')"
            )
            sums, ids, merged = cursor.fetchone() or ()
            seen.add((merged,))
            if sums is not None and not (sums == ids == [merged]):
                wrong.append((sums, ids, merged))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        for first in range(1, 400, 4):
            processor.merge([*run_of(first, first + 3), *run_of(first, first + 3, "ETHUSDT")])
    finally:
        done.set()
        watcher.join()
    assert wrong == []
    assert len(seen) > 10


def test_a_crash_in_the_middle_of_a_batch_leaves_nothing_of_it(database: Database) -> None:
    connection = database.writer()
    processor = Processor(connection, FIVE_SECONDS)
    processor.merge(run_of(1, 3))
    before = everything(database)
    connection.autocommit = False
    partials = partials_of(run_of(4, 9), FIVE_SECONDS)
    assert processor.send({"0": 3}, {"0": 9}, partials)["status"] == "merged"
    database.superuser().cursor().execute(
        "SELECT pg_terminate_backend(%s, 5000)", (connection.info.backend_pid,)
    )
    assert everything(database) == before
    assert Processor(database.writer(), FIVE_SECONDS).send({"0": 3}, {"0": 9}, partials)["status"] == "merged"
