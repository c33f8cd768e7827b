from __future__ import annotations

import pytest

from candleflow.dashboard.choice import CANDLE_LIMIT, Choice
from candleflow.dashboard.view import Nothing, View, look
from candleflow.errors import StoreError
from candleflow.market.window import SECOND_US
from candleflow.telemetry import Heartbeat
from tests.unit.dashboard.examples import NOON, ExampleSource, candle, candles, symbol_state

CHOICE = Choice("BTCUSDT", 5, 300)
MINUTE = 60 * SECOND_US


def source_of(count: int) -> ExampleSource:
    stored = candles(count)
    return ExampleSource([symbol_state("BTCUSDT", stored[-1].open_time + SECOND_US)], stored)


def test_an_empty_store_shows_a_waiting_message() -> None:
    nothing = look(ExampleSource(), CHOICE, NOON)
    assert isinstance(nothing, Nothing)
    assert nothing.title == "Waiting for the first trade"
    assert "no heartbeat of the processor" in nothing.advice


def test_an_empty_store_shows_how_many_trades_wait_and_for_which_process() -> None:
    second = NOON / SECOND_US
    producer = Heartbeat("producer", 1, "running", "", second, second, {"published": 2_884})
    processor = Heartbeat("processor", 2, "starting", "Spark's JVM", second, second)
    nothing = look(ExampleSource(beats={"producer": producer, "processor": processor}), CHOICE, NOON)
    assert isinstance(nothing, Nothing)
    assert nothing.advice == (
        "2,884 trades in Kafka so far. The processor is starting: Spark's JVM. "
        "Candles will appear here with the first stored trade."
    )


def test_the_message_for_a_symbol_without_trades_lists_symbols_with_trades() -> None:
    source = ExampleSource([symbol_state("ETHUSDT", NOON), symbol_state("BNBUSDT", NOON)])
    nothing = look(source, CHOICE, NOON)
    assert isinstance(nothing, Nothing)
    assert nothing.title == "No trade of BTCUSDT yet"
    assert "Symbols with trades: BNBUSDT, ETHUSDT." in nothing.advice


def test_the_page_says_that_a_symbol_is_not_followed() -> None:
    nothing = look(ExampleSource([symbol_state("ETHUSDT", NOON)]), CHOICE, NOON, is_followed=False)
    assert isinstance(nothing, Nothing)
    assert nothing.title == "BTCUSDT is not followed"
    assert "CANDLEFLOW_SYMBOLS" in nothing.advice
    view = look(source_of(60), CHOICE, NOON + 5 * MINUTE, is_followed=False)
    assert isinstance(view, View)
    assert view.notices == ("BTCUSDT is not among CANDLEFLOW_SYMBOLS: no new trades, only stored candles.",)


def test_the_error_of_an_absent_store_reaches_the_caller() -> None:
    with pytest.raises(StoreError):
        look(ExampleSource(is_away=True), CHOICE, NOON)


def test_fresh_candles_need_no_notice() -> None:
    view = look(source_of(60), CHOICE, NOON + 5 * MINUTE)
    assert isinstance(view, View)
    assert (len(view.candles), view.notices) == (60, ())


def test_if_all_trades_are_older_than_the_look_back_the_last_ones_are_shown_with_a_notice() -> None:
    view = look(source_of(600), CHOICE, NOON + 3 * 86_400 * SECOND_US)
    assert isinstance(view, View)
    assert view.notices == (
        "The last trade was 2 days ago, at 2024-08-08 12:49:56 UTC. The chart shows the 5 minutes before it.",
    )
    assert view.candles[-1].open_time == NOON + 599 * 5 * SECOND_US
    assert len(view.candles) == 61  # the candle of 5 minutes before the last trade, and 60 after it


def test_beyond_the_limit_only_the_newest_candles_are_shown_with_a_notice() -> None:
    source = source_of(CANDLE_LIMIT + 1)
    view = look(source, Choice("BTCUSDT", 5, None), NOON)
    assert isinstance(view, View)
    assert [one.open_time for one in view.candles] == [one.open_time for one in source.stored[1:]]
    assert view.notices == (
        "Only the newest 2,000 candles of this look-back are shown. Choose longer candles to see all of it.",
    )


def test_exactly_the_limit_of_candles_is_shown_without_a_notice() -> None:
    view = look(source_of(CANDLE_LIMIT), Choice("BTCUSDT", 5, None), NOON)
    assert isinstance(view, View)
    assert (len(view.candles), view.notices) == (CANDLE_LIMIT, ())


def test_a_look_back_without_candles_says_so() -> None:
    source = ExampleSource([symbol_state("BTCUSDT", NOON)], [candle(-1_000)])
    nothing = look(source, CHOICE, NOON)
    assert isinstance(nothing, Nothing)
    assert nothing.title == "No candles of BTCUSDT in this look-back"


def test_warm_up_candles_are_read_and_kept_apart() -> None:
    source = ExampleSource([symbol_state("BTCUSDT", NOON + 499 * SECOND_US)], candles(100))
    now = NOON + 500 * SECOND_US
    view = look(source, Choice("BTCUSDT", 5, 100), now, warm_up=30)
    assert isinstance(view, View)
    assert view.candles[0].open_time == now - 100 * SECOND_US
    assert [one.open_time for one in view.before] == [
        now - (100 + 5 * back) * SECOND_US for back in range(30, 0, -1)
    ]
    assert source.asked[-1][3] == CANDLE_LIMIT + 31
