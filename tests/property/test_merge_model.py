"""Compare PostgreSQL's merge with the rules of ``market.candle``, for trades in any order and any batches."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from psycopg2.extensions import connection as Connection  # noqa: N812 - a class by psycopg2's naming
from psycopg2.extensions import cursor as Cursor  # noqa: N812

from candleflow.market.candle import Candle, CandleKey, fold
from candleflow.market.trade import Trade, rejection_reason
from candleflow.market.trade_ids import TradeIds
from candleflow.market.window import ROLL_UPS, SECOND_US, Windows, floor_time, roll_up_windows
from candleflow.store import schema
from tests.store.processor import Processor
from tests.store_fixtures import Database

MIDNIGHT = 1_699_920_000 * SECOND_US
WINDOWS = [
    Windows.of_seconds(5),
    Windows.of_seconds(5, 1),
    Windows.of_seconds(1),
    Windows.of_seconds(12, 3),
    Windows.of_seconds(60),
    Windows.of_seconds(60, 20),
]

_STORED = """
    SELECT symbol, interval, (extract(epoch FROM open_time) * 1000000)::bigint, open, high, low, close,
        volume, quote_volume, taker_buy_volume, taker_buy_quote_volume, trade_count, first_trade_id,
        last_trade_id, held_ids(candles)::text, is_closed, is_complete, revision, source,
        (extract(epoch FROM end_time) * 1000000)::bigint
    FROM candles
"""


@dataclass(frozen=True)
class Row:
    """A stored candle, with the stored columns that ``Candle`` does not have."""

    candle: Candle
    end_time: int
    is_closed: bool
    is_complete: bool
    revision: int
    source: str = "trades"


@dataclass
class Model:
    """A model of the store in plain Python: it never merges, but aggregates all trades so far again."""

    windows: Windows
    trades: dict[tuple[str, int], Trade] = field(default_factory=dict)
    closed: set[CandleKey] = field(default_factory=set)
    revisions: Counter[CandleKey] = field(default_factory=Counter)
    counts: Counter[str] = field(default_factory=Counter)

    @property
    def intervals(self) -> list[Windows]:
        """The finest windows, and each roll-up that is at least as long."""
        rolled = [roll_up_windows(name) for name in ROLL_UPS]
        return [self.windows, *(one for one in rolled if one.size_us >= self.windows.size_us)]

    def candles(self) -> dict[CandleKey, tuple[Windows, Candle]]:
        found: dict[CandleKey, tuple[Windows, Candle]] = {}
        for windows in self.intervals:
            name = _name(windows, self.windows)
            for (symbol, _, open_time), candle in fold(self.trades.values(), windows).items():
                found[symbol, name, open_time] = (windows, candle)
        return found

    def merge(self, batch: Sequence[Trade]) -> int:
        """Add a batch; return how many of its trades were late."""
        new = {
            (trade.symbol, trade.trade_id): trade
            for trade in batch
            if (trade.symbol, trade.trade_id) not in self.trades
        }
        late = sum(self._is_late(trade) for trade in new.values())
        touched = {
            (trade.symbol, _name(windows, self.windows), open_time)
            for trade in new.values()
            for windows in self.intervals
            for open_time in windows.open_times(trade.trade_time)
        }
        self.revisions.update(touched & self.closed)
        self.trades |= new
        for key, (windows, _) in self.candles().items():
            if key[2] + windows.size_us <= self.newest(key[0]):
                self.closed.add(key)
        self.counts.update(received=len(batch), merged=len(new), duplicate=len(batch) - len(new), late=late)
        return late

    def close_quiet(self, closes_until: int) -> int:
        due = {
            key for key, (windows, _) in self.candles().items() if key[2] + windows.size_us <= closes_until
        }
        newly = due - self.closed
        self.closed |= due
        return len(newly)

    def newest(self, symbol: str) -> int:
        """The latest trade time of the symbol; -1 if there is none."""
        return max((one.trade_time for one in self.trades.values() if one.symbol == symbol), default=-1)

    def rows(self) -> dict[CandleKey, Row]:
        candles = self.candles()
        return {
            key: Row(
                candle=candle,
                end_time=key[2] + windows.size_us,
                is_closed=key in self.closed,
                is_complete=candle.is_complete_after(_before(key, windows, candles)),
                revision=self.revisions[key],
            )
            for key, (windows, candle) in candles.items()
        }

    def _is_late(self, trade: Trade) -> bool:
        open_time = floor_time(trade.trade_time, self.windows.size_us)
        has_closed = (trade.symbol, self.windows.interval, open_time) in self.closed
        return has_closed or open_time + self.windows.size_us <= self.newest(trade.symbol)


def _name(windows: Windows, finest: Windows) -> str:
    if windows is finest:
        return windows.interval
    return next(name for name, seconds in ROLL_UPS.items() if seconds * SECOND_US == windows.size_us)


def _before(
    key: CandleKey, windows: Windows, candles: dict[CandleKey, tuple[Windows, Candle]]
) -> Candle | None:
    """The latest candle that had ended when this one opened."""
    symbol, interval, open_time = key
    earlier = [
        other
        for other in candles
        if other[:2] == (symbol, interval) and other[2] + windows.size_us <= open_time
    ]
    return candles[max(earlier)][1] if earlier else None


@st.composite
def markets(draw: st.DrawFn) -> list[Trade]:
    """Trades around midnight in bursts up to an hour apart: ids with gaps, times mostly in order."""
    trades: list[Trade] = []
    for symbol in draw(st.sampled_from([("BTCUSDT",), ("BTCUSDT", "ETHUSDT")])):
        first_id = draw(st.sampled_from([0, 1, 2**62]))
        without = draw(st.sets(st.integers(0, 14), max_size=3))
        ids = [one for one in range(draw(st.integers(1, 15))) if one not in without]
        at = [draw(times()) for _ in ids]
        if draw(st.booleans()):
            at.sort()
        for trade_id, time in zip(ids, at, strict=True):
            trades.append(_trade(draw, symbol, first_id + trade_id, time))
    return trades


@st.composite
def times(draw: st.DrawFn) -> int:
    burst = draw(st.sampled_from([-60_000, 0, 0, 0, 60_000, 300_000, 3_600_000]))
    return MIDNIGHT + (burst + draw(st.integers(-8_000, 8_000))) * 1_000 + draw(st.sampled_from([0, 0, 999]))


def _trade(draw: st.DrawFn, symbol: str, trade_id: int, time: int) -> Trade:
    ticks = st.integers(1, 10**6) | st.integers(1, 10**19 - 1)
    lots = st.integers(1, 10**6) | st.integers(1, 10**20 - 1)
    price, quantity = Decimal(draw(ticks)).scaleb(-8), Decimal(draw(lots)).scaleb(-8)
    trade = Trade(symbol, trade_id, price, quantity, time, draw(st.booleans()))
    return (
        trade if rejection_reason(trade) is None else Trade(symbol, trade_id, price, Decimal(1), time, True)
    )


@st.composite
def deliveries(draw: st.DrawFn) -> list[list[Trade]]:
    """A market's trades in batches: in any order, split anywhere, some of them repeated."""
    trades = draw(markets())
    again = draw(st.lists(st.sampled_from(trades), max_size=8)) if trades else []
    if draw(st.booleans()):
        order = draw(st.permutations(trades + again))
    else:  # a live market: in order, except for a few late ones
        late = draw(st.lists(st.sampled_from(trades), max_size=3)) if trades else []
        order = [one for one in trades if one not in late] + late + again
    cuts = sorted(draw(st.lists(st.integers(0, len(order)), max_size=6)))
    batches = [list(order[a:b]) for a, b in zip([0, *cuts], [*cuts, len(order)], strict=True)]
    return [batch for batch in batches if batch]


@dataclass(frozen=True)
class Store:
    """One database for all examples, emptied before each; one session, so that each can claim the topic."""

    writer: Connection
    owner: Cursor

    def empty(self) -> None:
        self.owner.execute("TRUNCATE candles, symbols, topics, topic_offsets, record_counts")

    def rows(self) -> dict[CandleKey, Row]:
        self.owner.execute(_STORED)
        rows: dict[CandleKey, Row] = {}
        for *fields, ids, is_closed, is_complete, revision, source, end_time in self.owner.fetchall():
            candle = Candle(*(*fields, TradeIds.parse(ids)))
            rows[candle.key] = Row(candle, end_time, is_closed, is_complete, revision, source)
        return rows

    def counts(self) -> dict[str, int]:
        self.owner.execute("SELECT outcome, records FROM record_counts")
        return dict(self.owner.fetchall())


@pytest.fixture(scope="module")
def store(make_database: Callable[[], Database]) -> Iterator[Store]:
    database = make_database()
    schema.apply(database.settings)
    yield Store(database.writer(), database.owner().cursor())
    database.drop()


def expected_rows(model: Model) -> dict[CandleKey, Row]:
    """The model's candles, with the store's names of intervals."""
    return {
        key: Row(_renamed(row.candle, key), row.end_time, row.is_closed, row.is_complete, row.revision)
        for key, row in model.rows().items()
    }


def _renamed(candle: Candle, key: CandleKey) -> Candle:
    fields: dict[str, Any] = {name: getattr(candle, name) for name in Candle.__dataclass_fields__}
    return Candle(**fields | {"interval": key[1]})


@settings(max_examples=100)
@given(batches=deliveries(), windows=st.sampled_from(WINDOWS), data=st.data())
def test_any_split_order_and_duplication_of_trades_gives_the_candles_of_the_fold(
    store: Store, batches: list[list[Trade]], windows: Windows, data: st.DataObject
) -> None:
    store.empty()
    processor, model = Processor(store.writer, windows), Model(windows)
    for batch in batches:
        assert processor.merge(batch) == model.merge(batch)
        if data.draw(st.booleans()):
            closes_until = data.draw(times())
            assert processor.close_quiet(closes_until) == model.close_quiet(closes_until)
        assert store.rows() == expected_rows(model)
    assert store.counts() == {name: count for name, count in model.counts.items() if count}
