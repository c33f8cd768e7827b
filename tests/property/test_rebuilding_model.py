"""Damage stored candles at random, rebuild the wrong ones, and compare the table with the one before."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from candleflow.market.candle import CandleKey
from candleflow.market.trade import Trade
from candleflow.market.trade_ids import TradeIds
from candleflow.market.window import SECOND_US, Windows, floor_time
from candleflow.store import schema
from candleflow.store.rebuilds import CandleRebuilds
from tests.property.test_merge_model import MIDNIGHT, WINDOWS, Row, Store, deliveries
from tests.store.processor import Processor
from tests.store.rebuilder import ListRebuilder
from tests.store_fixtures import Database

SPAN_US = 7_200 * SECOND_US
PRICES = {
    "open": "CASE WHEN open = high THEN low ELSE high END",
    "high": "high + 1",
    "low": "low / 2",
    "close": "CASE WHEN close = low THEN high ELSE low END",
}
FIELDS = PRICES | {
    "volume": "volume * 2",
    "quote_volume": "quote_volume + 0.0000000000000001",
    "taker_buy_volume": "volume - taker_buy_volume",
    "taker_buy_quote_volume": "quote_volume - taker_buy_quote_volume",
    "trade_count": "CASE WHEN trade_count = 1 THEN last_trade_id - first_trade_id + 1 ELSE 1 END",
    "end_time": "end_time + interval '1 second'",
    "is_complete": "NOT is_complete",
}
SUMS = "volume = volume * 2, quote_volume = quote_volume * 2, taker_buy_volume = taker_buy_volume * 2"
IDS = "trade_ids = CASE WHEN trade_ids IS NOT NULL THEN %s::int8multirange END"
OF_ONE = "WHERE symbol = %s AND interval = %s AND open_time = to_timestamp(%s::numeric / 1000000)"

Harm = Callable[[Any, CandleKey, Row], None]


def delete(owner: Any, key: CandleKey, _: Row) -> None:
    owner.execute(f"DELETE FROM candles {OF_ONE}", key)  # noqa: S608 - constants of this module


def double(owner: Any, key: CandleKey, _: Row) -> None:
    owner.execute(f"UPDATE candles SET {SUMS} {OF_ONE}", key)  # noqa: S608


def forget_an_id(owner: Any, key: CandleKey, row: Row) -> None:
    """Remove the first trade from the ids and the count, but not from the amounts."""
    ids = TradeIds()
    for lower, upper in row.candle.trade_ids.ranges:
        ids.add_range(lower, upper)
    ids.remove_range(row.candle.first_trade_id, row.candle.first_trade_id + 1)
    if ids:
        owner.execute(
            f"UPDATE candles SET {IDS}, first_trade_id = %s, trade_count = %s {OF_ONE}",  # noqa: S608
            (str(ids), ids.ranges[0][0], len(ids), *key),
        )


def change(field: str) -> Harm:
    def harm(owner: Any, key: CandleKey, _: Row) -> None:
        owner.execute(f"UPDATE candles SET {field} = {FIELDS[field]} {OF_ONE}", key)  # noqa: S608

    return harm


HARMS: list[Harm] = [delete, delete, double, forget_an_id, *map(change, FIELDS.keys() - PRICES.keys())]
PRICE_HARMS: list[Harm] = [change(field) for field in PRICES]


def do_harm(
    store: Store, before: dict[CandleKey, Row], windows: Windows, data: st.DataObject
) -> set[CandleKey]:
    """Damage some candles and return their keys; only damage that another stored candle can show.

    No stored candle can show damage to sliding windows that are in no roll-up, or to the prices of one of
    several finest candles in a minute: only the exchange's klines can.
    """
    witnessed = [key for key in before if key[1] != windows.interval or key[2] % windows.size_us == 0]
    of_minute = Counter(_minute(key) for key in witnessed if key[1] == windows.interval)
    kinds = data.draw(st.sampled_from([HARMS, PRICE_HARMS]))
    if kinds is PRICE_HARMS:
        witnessed = [key for key in witnessed if key[1] != windows.interval or of_minute[_minute(key)] == 1]
    if not witnessed:
        return set()
    harmed = data.draw(st.sets(st.sampled_from(witnessed), max_size=1 if kinds is PRICE_HARMS else 3))
    for key in sorted(harmed):
        data.draw(st.sampled_from(kinds))(store.owner, key, before[key])
    return harmed


def _minute(key: CandleKey) -> tuple[str, int]:
    return key[0], floor_time(key[2], 60 * SECOND_US)


@pytest.fixture(scope="module")
def database(make_database: Callable[[], Database]) -> Iterator[Database]:
    made = make_database()
    schema.apply(made.settings)
    yield made
    made.drop()


@pytest.fixture(scope="module")
def store(database: Database) -> Store:
    return Store(database.writer(), database.owner().cursor())


@settings(max_examples=10)
@given(batches=deliveries(), windows=st.sampled_from(WINDOWS), data=st.data())
def test_damage_of_any_kind_is_rebuilt(
    database: Database, store: Store, batches: list[list[Trade]], windows: Windows, data: st.DataObject
) -> None:
    store.empty()
    processor = Processor(store.writer, windows)
    for batch in batches:
        processor.merge(batch)
    processor.close_quiet(MIDNIGHT + 20 * SPAN_US)
    before = store.rows()
    harmed = do_harm(store, before, windows, data)
    trades = [trade for batch in batches for trade in batch]
    own = database.settings_with(
        window_seconds=windows.size_us // SECOND_US, slide_seconds=windows.slide_us // SECOND_US
    )
    with closing(CandleRebuilds.from_settings(own)) as rebuilds:
        rebuilder = ListRebuilder(own, rebuilds, trades)
        for symbol in ("BTCUSDT", "ETHUSDT"):
            rebuilder.repair(symbol, MIDNIGHT - SPAN_US, MIDNIGHT + SPAN_US)
            assert rebuilder.find_suspect_ranges(symbol, MIDNIGHT - SPAN_US, MIDNIGHT + SPAN_US) == []
    processor.close_quiet(MIDNIGHT + 20 * SPAN_US)
    after = store.rows()
    assert {key: replace(row, revision=0) for key, row in after.items()} == {
        key: replace(row, revision=0) for key, row in before.items()
    }
    assert [key for key in before.keys() - harmed if after[key].revision != before[key].revision] == []
