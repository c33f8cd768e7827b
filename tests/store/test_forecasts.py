"""Forecasts in PostgreSQL: stored once, before their windows begin; scored once; never changed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from decimal import Decimal
from typing import Any

import psycopg2
import pytest

from candleflow.forecast.features import LOOK_BACK
from candleflow.forecast.process import Forecaster
from candleflow.forecast.race import AHEAD, VERSION, forecasts
from candleflow.market.trade import Trade
from candleflow.market.window import DAY_US, SECOND_US, floor_time
from candleflow.store.credentials import Role
from candleflow.store.forecasts import Close, ForecastStore, NewForecast
from tests.store.processor import Processor
from tests.store.trades import BEGINS_AT, FIVE_SECONDS, trade
from tests.store_fixtures import Database

SIZE_US = FIVE_SECONDS.size_us
SOON = floor_time(time.time_ns() // 1_000 + 3_600 * SECOND_US, SIZE_US)
"""An hour from now: a window that has not begun, even if the test is slow."""


@pytest.fixture
def store(database: Database) -> Iterator[ForecastStore]:
    one = ForecastStore.from_settings(database.settings, Role.FORECASTER)
    yield one
    one.close()


def trades(first: int, last: int, begins_at: int = SOON) -> list[Trade]:
    """Return one trade a second. The price follows a fixed rule with different returns."""
    return [
        replace(trade(one, one, price=f"{100 + one * 7 % 13}"), trade_time=begins_at + (one - 1) * SECOND_US)
        for one in range(first, last + 1)
    ]


def made(open_time: int, forecast: float = 100.0, symbol: str = "BTCUSDT") -> NewForecast:
    return NewForecast(symbol, open_time, "drift", VERSION, forecast, forecast - 1, forecast + 1, 100.0)


def rows(database: Database, query: str) -> list[tuple[Any, ...]]:
    cursor = database.owner().cursor()
    cursor.execute(query)
    return cursor.fetchall()


def past(database: Database, *open_times: int) -> None:
    """Store forecasts made a second before their windows; the windows have ended."""
    database.owner().cursor().execute(
        "INSERT INTO forecasts SELECT 'BTCUSDT', '5s', at, at - interval '1 s', 'drift', 1, 100, 99, 101, 100"
        " FROM unnest(%s::bigint[]) us, from_microseconds(us) at",
        (list(open_times),),
    )


def test_a_forecast_is_kept_once_and_never_changed(database: Database, store: ForecastStore) -> None:
    Processor(database.writer(), FIVE_SECONDS).merge(trades(1, 3))
    assert store.keep([made(SOON + SIZE_US)]) == 1
    assert store.keep([made(SOON + SIZE_US, 200.0)]) == 0
    (kept,) = store.recent("BTCUSDT", 0, 10)
    assert (kept.forecast, kept.lower, kept.upper, kept.model) == (100.0, 99.0, 101.0, "drift")
    assert kept.last_close == Decimal(100)
    assert kept.made_at < kept.open_time == SOON + SIZE_US
    assert kept.actual is None


def test_a_forecast_of_a_window_that_has_begun_is_refused(database: Database, store: ForecastStore) -> None:
    """It has begun by the clock, or because one of its trades is stored; without trades by the clock only."""
    Processor(database.writer(), FIVE_SECONDS).merge(trades(1, 8))
    assert store.keep([made(SOON + SIZE_US), made(BEGINS_AT), made(SOON + SIZE_US, symbol="NEWUSDT")]) == 0
    assert store.keep([made(SOON + 2 * SIZE_US)]) == 1


def test_not_even_the_owner_can_keep_one_that_was_made_too_late(database: Database) -> None:
    with pytest.raises(psycopg2.errors.CheckViolation):
        database.owner().cursor().execute(
            "INSERT INTO forecasts VALUES ('BTCUSDT', '5s', now(), now(), 'drift', 1, 1, 1, 1, 1)"
        )


def test_an_actual_value_is_stored_once(database: Database, store: ForecastStore) -> None:
    past(database, BEGINS_AT)
    assert store.score([Close("BTCUSDT", BEGINS_AT, Decimal("100.50"))]) == 1
    assert store.score([Close("BTCUSDT", BEGINS_AT, Decimal(7))]) == 0
    (kept,) = store.recent("BTCUSDT", 0, 10)
    assert kept.actual == Decimal("100.50")


def test_a_window_that_has_not_ended_has_no_actual_value(database: Database, store: ForecastStore) -> None:
    Processor(database.writer(), FIVE_SECONDS).merge(trades(1, 3))
    store.keep([made(SOON + SIZE_US)])
    assert store.score([Close("BTCUSDT", SOON + SIZE_US, Decimal(1))]) == 0


def test_old_forecasts_are_deleted_and_others_stay(database: Database, store: ForecastStore) -> None:
    for day in range(4):
        past(database, BEGINS_AT + day * DAY_US)
    assert store.drop_before(BEGINS_AT + 2 * DAY_US, 10) == 2
    assert [one.open_time for one in store.recent("BTCUSDT", 0, 10)] == [
        BEGINS_AT + 2 * DAY_US,
        BEGINS_AT + 3 * DAY_US,
    ]


def test_the_page_reads_forecasts_and_may_not_write_them(database: Database, store: ForecastStore) -> None:
    past(database, BEGINS_AT)
    with closing(ForecastStore.from_settings(database.settings, Role.READER)) as reader:
        assert reader.recent("BTCUSDT", 0, 10) == store.recent("BTCUSDT", 0, 10)
        assert reader.recent("BTCUSDT", BEGINS_AT + 1, 10) == []


def test_the_process_forecasts_from_stored_candles(database: Database, store: ForecastStore) -> None:
    """Each stored forecast equals the pure code's forecast from all candles, also after a restart."""
    processor = Processor(database.writer(), FIVE_SECONDS)
    processor.merge([replace(trade(1), trade_time=SOON - SECOND_US), *trades(2, 5 * (LOOK_BACK + 3))])
    forecaster = Forecaster(database.settings, store)
    assert len(forecaster.look()) == 1
    assert forecaster.look() == []
    processor.merge(trades(5 * (LOOK_BACK + 3) + 1, 5 * (LOOK_BACK + 5) + 1))
    (later,) = forecaster.look()
    assert forecaster.counts() == {"forecasts": 2, "scored": 0, "late": 0}

    (again,) = Forecaster(database.settings, store).look()
    assert again == later
    candles = [one for one in store.candles({"BTCUSDT": None}, 100)["BTCUSDT"] if one.is_complete]
    expected = list(forecasts(candles, SIZE_US))[-1]
    kept = store.recent("BTCUSDT", 0, 10)[-1]
    assert (kept.open_time, kept.forecast) == (expected.open_time, expected.forecast)
    assert kept.open_time == candles[-1].open_time + AHEAD * SIZE_US


def test_forecasts_from_old_candles_are_too_late_and_not_stored(
    database: Database, store: ForecastStore
) -> None:
    Processor(database.writer(), FIVE_SECONDS).merge(trades(1, 150, BEGINS_AT))
    forecaster = Forecaster(database.settings, store)
    assert len(forecaster.look()) == 1
    assert forecaster.counts()["late"] == 1
    assert rows(database, "SELECT count(*) FROM forecasts") == [(0,)]


def test_the_process_scores_its_forecasts(database: Database, store: ForecastStore) -> None:
    for at in (20, 21):
        past(database, BEGINS_AT + at * SIZE_US)
    Processor(database.writer(), FIVE_SECONDS).merge(trades(1, 110, BEGINS_AT))
    forecaster = Forecaster(database.settings, store)
    forecaster.look()
    assert forecaster.counts()["scored"] == 1  # with 110 trades, the 22nd candle is still open
    closes = {one.open_time: one.close for one in store.candles({"BTCUSDT": None}, 100)["BTCUSDT"]}
    assert [one.actual for one in store.recent("BTCUSDT", 0, 10)] == [closes[BEGINS_AT + 20 * SIZE_US], None]


def test_a_gap_stops_the_forecasts(database: Database, store: ForecastStore) -> None:
    processor = Processor(database.writer(), FIVE_SECONDS)
    whole = trades(1, 5 * (LOOK_BACK + 4))
    processor.merge([one for one in whole if one.trade_id != 5 * (LOOK_BACK + 2) + 3])
    assert Forecaster(database.settings, store).look() == []


def test_quiet_windows_are_candles_too(database: Database, store: ForecastStore) -> None:
    some = [one for one in trades(1, 100) if not 40 <= one.trade_id <= 60]
    closed_up = [replace(one, trade_id=at) for at, one in enumerate(some, start=1)]
    Processor(database.writer(), FIVE_SECONDS).merge(closed_up)
    found = store.candles({"BTCUSDT": None, "NEWUSDT": None}, 100)
    assert set(found) == {"BTCUSDT"}
    opens = [one.open_time for one in found["BTCUSDT"]]
    assert opens == list(range(SOON, opens[-1] + 1, SIZE_US))
    assert [one.trade_count for one in found["BTCUSDT"]].count(0) == 4


def test_a_setting_decides_when_forecasts_are_deleted(database: Database, store: ForecastStore) -> None:
    past(database, BEGINS_AT)
    Forecaster(database.settings_with(forecast_days=2), store).tend(BEGINS_AT + DAY_US)
    assert len(store.recent("BTCUSDT", 0, 10)) == 1
    Forecaster(database.settings_with(forecast_days=2), store).tend(BEGINS_AT + 3 * DAY_US)
    assert store.recent("BTCUSDT", 0, 10) == []


def test_the_process_reports_the_skill_of_scored_forecasts(database: Database, store: ForecastStore) -> None:
    forecaster = Forecaster(database.settings, store)
    past(database, *(BEGINS_AT + at * SIZE_US for at in range(120)))
    forecaster.judge()
    assert not forecaster.skill  # no forecast is scored yet
    closes = [Close("BTCUSDT", BEGINS_AT + at * SIZE_US, Decimal(100 + at % 3)) for at in range(120)]
    assert store.score(closes) == 120
    forecaster.judge()
    assert forecaster.skill["skill"]["BTCUSDT"] == 0  # the forecast was the last close
    assert forecaster.skill["skill_lower"]["BTCUSDT"] <= 0 <= forecaster.skill["skill_upper"]["BTCUSDT"]
