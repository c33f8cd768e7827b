"""replace_candles: recomputed candles replace wrong ones and their roll-ups, and no trade is lost.

tests/property/test_rebuilding_model.py damages candles at random and rebuilds them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from typing import Any

import psycopg2
import pytest

from candleflow.errors import StoreError
from candleflow.market.candle import fold
from candleflow.market.partial import array_text, encode
from candleflow.market.trade import Trade
from candleflow.market.trade_ids import TradeIds
from candleflow.market.window import SECOND_US, Windows
from candleflow.store.rebuilds import Answer, CandleRebuilds, Replaced
from tests.store.processor import Processor, partials_of
from tests.store.rebuilder import ListRebuilder
from tests.store.trades import BEGINS_AT, FIVE_SECONDS, run_of, trade
from tests.store_fixtures import Database

SYMBOL = "BTCUSDT"
TRADES = run_of(0, 199)
LOST = "DELETE FROM candles WHERE interval = '5s' AND open_time = to_timestamp(1700006450)"
"""The candle of trades 50 to 54."""


def at(second: int) -> int:
    return BEGINS_AT + second * SECOND_US


@pytest.fixture
def processor(database: Database) -> Processor:
    processor = Processor(database.writer(), FIVE_SECONDS)
    processor.merge(TRADES)
    processor.close_quiet(at(10**6))
    return processor


@pytest.fixture
def rebuilds(database: Database) -> Iterator[CandleRebuilds]:
    with closing(CandleRebuilds.from_settings(database.settings)) as rebuilds:
        yield rebuilds


@pytest.fixture
def own(database: Database) -> Callable[..., list[Any]]:
    """Return a function that runs a statement as the owner and returns its rows."""

    def ask(statement: str, *arguments: object) -> list[Any]:
        cursor = database.owner().cursor()
        cursor.execute(statement, arguments)
        return cursor.fetchall() if cursor.description else []

    return ask


def seen(rebuilds: CandleRebuilds, since: int, until: int) -> dict[int, TradeIds]:
    return {one.open_time: one.ids for one in rebuilds.candle_ids(SYMBOL, since, until)}


def replace(
    rebuilds: CandleRebuilds,
    since: int,
    until: int,
    trades: Sequence[Trade],
    before: dict[int, TradeIds] | None = None,
    windows: Windows = FIVE_SECONDS,
) -> Answer:
    candles = [candle for key, candle in sorted(fold(trades, windows).items()) if since <= key[2] < until]
    before = seen(rebuilds, since, until) if before is None else before
    return rebuilds.replace(SYMBOL, since, until, before, candles)


EVERYTHING = "SELECT * FROM candles ORDER BY symbol, interval, open_time"
AMOUNTS = """
    SELECT symbol, interval, open_time, end_time, open, high, low, close, volume, quote_volume,
        taker_buy_volume, taker_buy_quote_volume, trade_count, first_trade_id, last_trade_id,
        held_ids(candles), is_closed, is_complete, source
    FROM candles ORDER BY symbol, interval, open_time
"""


def test_a_lost_candle_is_restored_and_its_roll_ups_stay_unchanged(
    processor: Processor, rebuilds: CandleRebuilds, own: Callable[..., Any]
) -> None:
    before = own(AMOUNTS)
    own(LOST)
    answer = replace(rebuilds, at(40), at(60), TRADES[40:60])
    assert answer == Answer(Replaced.REPLACED, candles=1)
    assert own(AMOUNTS) == before
    assert own("SELECT interval, trade_count FROM candles WHERE revision > 0") == [("5s", 5)]
    assert rebuilds.repaired([SYMBOL, "ETHUSDT"]) == 1


def test_correct_candles_are_not_changed_in_any_column(
    processor: Processor, rebuilds: CandleRebuilds, own: Callable[..., Any]
) -> None:
    before = own(EVERYTHING)
    assert replace(rebuilds, at(0), at(200), TRADES) == Answer(Replaced.REPLACED)
    assert own(EVERYTHING) == before
    assert rebuilds.repaired([SYMBOL]) == 0


def test_all_fields_of_a_candle_and_its_roll_ups_are_corrected_and_their_revision_raised(
    processor: Processor, rebuilds: CandleRebuilds, own: Callable[..., Any]
) -> None:
    before = own(AMOUNTS)
    own("UPDATE candles SET volume = volume * 2, high = high + 7 WHERE open_time < to_timestamp(1700006405)")
    answer = replace(rebuilds, at(0), at(5), TRADES[:5])
    assert answer == Answer(Replaced.REPLACED, candles=6)
    assert own(AMOUNTS) == before
    changed = own("SELECT DISTINCT interval FROM candles WHERE revision = 1 ORDER BY 1")
    assert [name for (name,) in changed] == ["15m", "1d", "1h", "1m", "5m", "5s"]
    assert own("SELECT count(*) FROM candles WHERE revision = 0") == [(39 + 3,)]


def test_a_candle_without_trades_is_deleted_and_the_next_one_stays_complete(
    processor: Processor, rebuilds: CandleRebuilds, own: Callable[..., Any]
) -> None:
    """Trades 50 to 54 move to the next candle."""
    moved = [trade(one.trade_id, 56, price=str(one.price)) for one in TRADES[50:55]]
    answer = replace(rebuilds, at(50), at(60), [*moved, *TRADES[55:60]])
    assert answer == Answer(Replaced.REPLACED, candles=2)
    found = own(
        "SELECT first_trade_id, trade_count, is_complete FROM candles WHERE interval = '5s'"
        " AND open_time BETWEEN to_timestamp(1700006445) AND to_timestamp(1700006460) ORDER BY open_time"
    )
    assert found == [(45, 5, True), (50, 10, True), (60, 5, True)]


def test_an_empty_range_rebuilds_only_the_roll_ups(
    processor: Processor, rebuilds: CandleRebuilds, own: Callable[..., Any]
) -> None:
    before = own(AMOUNTS)
    own("UPDATE candles SET close = low WHERE interval = '5m'")
    own("DELETE FROM candles WHERE interval = '1h'")
    assert rebuilds.replace(SYMBOL, at(60), at(60), {}, []) == Answer(Replaced.REPLACED, candles=2)
    processor.close_quiet(at(10**6))
    assert own(AMOUNTS) == before


def test_candles_that_have_changed_since_they_were_read_are_not_touched(
    processor: Processor, rebuilds: CandleRebuilds, own: Callable[..., Any]
) -> None:
    read = seen(rebuilds, at(0), at(5))
    processor.merge([trade(200, 3)])
    before = own(EVERYTHING)
    assert replace(rebuilds, at(0), at(5), TRADES[:5], read) == Answer(Replaced.CHANGED)
    new = {**seen(rebuilds, at(0), at(5)), at(5): TradeIds([1])}
    assert replace(rebuilds, at(0), at(5), TRADES[:5], new) == Answer(Replaced.CHANGED)
    assert own(EVERYTHING) == before


def test_trades_that_are_in_another_candle_are_refused_with_their_ids(
    processor: Processor, rebuilds: CandleRebuilds, own: Callable[..., Any]
) -> None:
    before = own(EVERYTHING)
    stolen = [trade(one, 1) for one in (7, 8, 61)]
    answer = replace(rebuilds, at(0), at(5), [*TRADES[:5], *stolen])
    assert answer == Answer(Replaced.OVERLAP, overlap="{[7,9),[61,62)}")
    assert own(EVERYTHING) == before


def test_a_roll_up_keeps_the_trades_of_a_lost_candle(
    processor: Processor, rebuilds: CandleRebuilds, own: Callable[..., Any]
) -> None:
    """The topic may no longer have these trades, so a roll-up rebuilt without them would be worse."""
    own(LOST)
    own("UPDATE candles SET volume = volume * 2 WHERE interval = '1m'")
    before = own(EVERYTHING)
    answer = replace(rebuilds, at(40), at(45), TRADES[40:45])
    assert answer == Answer(Replaced.REPLACED, kept=5)
    assert own(EVERYTHING) == before


def test_a_kline_is_replaced_only_by_a_candle_with_all_its_ids(
    processor: Processor, rebuilds: CandleRebuilds, own: Callable[..., Any]
) -> None:
    own("UPDATE candles SET source = 'kline', high = high + 1 WHERE open_time < to_timestamp(1700006410)")
    before = own("SELECT * FROM candles WHERE interval = '5s' ORDER BY open_time")
    answer = replace(rebuilds, at(0), at(10), TRADES[1:4])
    assert (answer.status, answer.kept) == (Replaced.REPLACED, 2)
    assert own("SELECT * FROM candles WHERE interval = '5s' ORDER BY open_time") == before
    assert replace(rebuilds, at(0), at(10), TRADES[:10]).kept == 0
    assert own("SELECT DISTINCT source FROM candles WHERE interval = '5s'") == [("trades",)]


def test_a_candle_that_is_open_stays_so(
    database: Database, rebuilds: CandleRebuilds, own: Callable[..., Any]
) -> None:
    Processor(database.writer(), FIVE_SECONDS).merge(TRADES[:8])
    own("UPDATE candles SET volume = volume * 2 WHERE interval = '5s'")
    assert replace(rebuilds, at(0), at(10), TRADES[:8]).candles == 2
    assert own("SELECT is_closed, revision FROM candles WHERE interval = '5s' ORDER BY open_time") == [
        (True, 1),
        (False, 1),
    ]


@pytest.mark.parametrize(
    ("since", "until", "changes"),
    [
        (1, 5 * SECOND_US, {}),
        (5 * SECOND_US, 0, {}),
        (0, 5 * SECOND_US, {"symbol": "ETHUSDT"}),
        (0, 5 * SECOND_US, {"open_time": at(5)}),
        (0, 5 * SECOND_US, {"open_time": at(1)}),
        (0, 5 * SECOND_US, {"trade_count": 4}),
        (0, 5 * SECOND_US, {"trade_ids": "{}"}),
        (0, 5 * SECOND_US, {"low": "-1"}),
        (0, 5 * SECOND_US, {"close": "x"}),
    ],
)
def test_invalid_arguments_raise_and_change_nothing(
    database: Database,
    processor: Processor,
    rebuilds: CandleRebuilds,
    own: Callable[..., Any],
    since: int,
    until: int,
    changes: dict[str, Any],
) -> None:
    before = own(EVERYTHING)
    (partial,) = partials_of(TRADES[:5], FIVE_SECONDS)
    read = {str(time): str(ids) for time, ids in seen(rebuilds, at(0), at(5)).items()}
    windows = {"interval": "5s", "size_us": 5 * SECOND_US, "slide_us": 5 * SECOND_US}
    arguments = json.dumps(read), array_text([encode(partial._replace(**changes))]), json.dumps(windows)
    with pytest.raises(psycopg2.Error), database.auditor().cursor() as cursor:
        cursor.execute(
            "SELECT replace_candles(%s, %s, %s, %s, %s::partial_candle[], '[]', %s)",
            (SYMBOL, BEGINS_AT + since, BEGINS_AT + until, *arguments),
        )
    assert own(EVERYTHING) == before


def test_each_row_of_sliding_windows_is_replaced(database: Database, own: Callable[..., Any]) -> None:
    sliding = Windows.of_seconds(5, 1)
    processor = Processor(database.writer(), sliding)
    processor.merge(TRADES[:60])
    processor.close_quiet(at(10**6))
    before = own(AMOUNTS)
    own(
        "UPDATE candles SET high = high + 1 WHERE interval = '5s/1s' AND open_time = to_timestamp(1700006412)"
    )
    own("DELETE FROM candles WHERE interval = '5s/1s' AND open_time = to_timestamp(1700006415)")
    settings = database.settings_with(slide_seconds=1)
    with closing(CandleRebuilds.from_settings(settings)) as rebuilds:
        assert replace(rebuilds, at(12), at(16), TRADES[:60], windows=sliding).candles == 2
    assert own(AMOUNTS) == before


def test_a_candle_whose_trades_the_topic_lacks_is_not_rebuilt(
    database: Database, processor: Processor, rebuilds: CandleRebuilds, own: Callable[..., Any]
) -> None:
    """Two adjacent minutes have wrong candles, and the topic begins in the first one, with trade 52."""
    right = own(AMOUNTS)
    own(
        "UPDATE candles SET volume = volume * 2 WHERE interval = '5s'"
        " AND open_time >= to_timestamp(1700006440) AND open_time < to_timestamp(1700006490)"
    )
    rebuilder = ListRebuilder(database.settings, rebuilds, TRADES[52:])
    first, second = rebuilder.repair(SYMBOL, at(0), at(200))
    assert (first.candles, first.left) == (0, "the topic no longer has 52 of its trades: {[0,52)}")
    assert second.left == ""
    assert own("SELECT min(first_trade_id) FROM candles WHERE interval = '5s' AND revision = 1") == [(60,)]
    assert own("SELECT interval FROM candles WHERE interval <> '5s' AND revision = 1") == []
    with_all = ListRebuilder(database.settings, rebuilds, TRADES)
    assert [one.left for one in with_all.repair(SYMBOL, at(0), at(200))] == [""]
    assert with_all.find_suspect_ranges(SYMBOL, at(0), at(200)) == []
    assert own(AMOUNTS) == right


def test_a_roll_up_is_not_rebuilt_from_suspect_candles_that_are_not_due(
    database: Database, processor: Processor, rebuilds: CandleRebuilds, own: Callable[..., Any]
) -> None:
    """Otherwise the 5 min roll-up would be recomputed from a wrong candle, and would agree with it."""
    right = own(AMOUNTS)
    own(
        "UPDATE candles SET volume = volume * 2 WHERE interval = '5s'"
        " AND open_time IN (to_timestamp(1700006440), to_timestamp(1700006560))"
    )
    rebuilder = ListRebuilder(database.settings, rebuilds, TRADES)
    found = rebuilder.find_suspect_ranges(SYMBOL, at(0), at(200))
    for due in found:
        ((_, rebuilt),) = rebuilder.rebuild(
            SYMBOL, rebuilder.find_suspect_ranges(SYMBOL, at(0), at(200)), [due].__contains__
        )
        assert rebuilt.left == ""
    assert len(found) == 2
    assert own(AMOUNTS) == right


def test_a_refusal_by_the_server_is_a_store_error(database: Database, rebuilds: CandleRebuilds) -> None:
    with pytest.raises(StoreError, match="stretch of windows"):
        rebuilds.replace(SYMBOL, at(1) + 1, at(5), {}, [])
