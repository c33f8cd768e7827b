"""The candle rules of ``market/candle.py`` as Spark columns: trades into rows that add up to candles.

A row stands for a block of 256 trade ids of a symbol, as far as they are in one pane: the stretch of a slide
that a tumbling window is, or that sliding windows share. Rows of any batches add up in any order
(``engine/partials.py``), as open and close go by trade id and all the rest are extremes and exact sums; so a
trade is read and folded once, however many windows it is in. The ids themselves go along, one bit each:
which of them are there is what completeness and repetition are told by.

Sums are 64-bit integers that can't overflow, several to an amount (``trades.ADDED_COLUMNS``).
"""

from __future__ import annotations

from typing import Final, NamedTuple

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F  # noqa: N812 - the name that every Spark programmer knows

from candleflow.engine.trades import ADDED_COLUMNS, IS_LIVE, REFUSAL
from candleflow.market.window import Windows

_WORD_SIZE: Final = 64
_WORDS: Final = 4
BLOCK_SIZE: Final = _WORDS * _WORD_SIZE
"""Trade ids to a block, a bit for each. A block is a row for the driver, while all the rest waits."""

_KEYS: Final = (REFUSAL, "symbol", "open_time", "block")
_ADDED: Final = tuple(name for columns in ADDED_COLUMNS.values() for name in columns)
TAKER: Final = "taker_buy_"
"""What the sums over takers' buys alone have before their names."""


class Block(NamedTuple):
    """A row of the fold: the trades of a block, as far as they are in one pane; or a reason of refusal."""

    refusal: str | None
    """The reason; then only ``records`` counts of all the rest."""
    symbol: str
    open_time: int
    """The pane's, in microseconds."""
    block: int
    """The ids' quotient by ``BLOCK_SIZE``."""
    records: int
    """More than the ids where a trade came twice."""
    written_at: int
    """When the last of the records was written to the topic, microseconds since the epoch."""
    bits_0: int | None
    """A bit for each id that is there, the lowest id's the lowest; null where there is none of these 64."""
    bits_1: int | None
    bits_2: int | None
    bits_3: int | None
    open: int
    """The prices are ``trades.PRICE_ZERO`` and steps of 10^-8 from it."""
    high: int
    low: int
    close: int
    last_trade_time: int
    live: int
    """How many came live."""
    first_live_time: int | None
    quantity_whole: int
    """These are sums of ``trades.ADDED_COLUMNS``, in the same units."""
    quantity_fraction: int
    notional_high: int
    notional_whole: int
    notional_fraction: int
    notional_rest: int
    taker_buy_quantity_whole: int | None
    """Null, as the next five, where no taker bought."""
    taker_buy_quantity_fraction: int | None
    taker_buy_notional_high: int | None
    taker_buy_notional_whole: int | None
    taker_buy_notional_fraction: int | None
    taker_buy_notional_rest: int | None

    @property
    def bits(self) -> int:
        """Of all the block's ids."""
        words = (self.bits_0, self.bits_1, self.bits_2, self.bits_3)
        return sum(((word or 0) & _ALL_BITS) << at * _WORD_SIZE for at, word in enumerate(words))


_ALL_BITS: Final = (1 << _WORD_SIZE) - 1


class CandleFold:
    """The fold for one choice of windows. Its columns are made once: from Python each costs a call or two."""

    def __init__(self, windows: Windows) -> None:
        self._places = _places(windows.slide_us)
        self._sums = _sums()

    def place(self, trades: DataFrame) -> DataFrame:
        """``trades``, as ``trades.judge`` made them, with what the fold needs beside; pure columns.
        Of Kafka's columns the fold needs ``timestamp``; without ``IS_LIVE`` no trade counts as live.

        They are apart from the fold as Spark analyzes a streaming query once, and what is done with a batch
        anew for each.
        """
        told = [] if IS_LIVE in trades.columns else [F.lit(col=False).alias(IS_LIVE)]
        return trades.select("*", *told, *self._places)

    def __call__(self, placed: DataFrame) -> DataFrame:
        """A ``Block`` for each symbol, pane and block, and one for each reason of refusal."""
        return placed.groupBy(*_KEYS).agg(*self._sums)


def without_repeats(trades: DataFrame) -> DataFrame:
    """``trades`` with each trade id of a symbol once: the record that comes first in the topic stands.

    Refused records are left out. Needs the columns ``partition`` and ``offset``.
    """
    in_topic = Window.partitionBy("symbol", "trade_id").orderBy("partition", "offset")
    sound = trades.where(F.col(REFUSAL).isNull())
    return sound.withColumn("nth", F.row_number().over(in_topic)).where(F.col("nth") == 1).drop("nth")


def without_ids(trades: DataFrame, ids: DataFrame) -> DataFrame:
    """``trades`` but for those whose ``symbol`` and ``trade_id`` are in ``ids``."""
    return trades.join(F.broadcast(ids), ["symbol", "trade_id"], "left_anti")


def _places(pane_us: int) -> list[Column]:
    time, trade_id = F.col("trade_time"), F.col("trade_id")
    within = trade_id.bitwiseAND(_WORD_SIZE - 1).cast("int")
    return [
        (time - time % pane_us).alias("open_time"),
        F.shiftright(trade_id, BLOCK_SIZE.bit_length() - 1).alias("block"),
        F.shiftright(trade_id, _WORD_SIZE.bit_length() - 1).bitwiseAND(_WORDS - 1).alias("word"),
        F.call_function("shiftleft", F.lit(1).cast("bigint"), within).alias("bit"),
    ]


def _sums() -> list[Column]:
    made = {
        "records": F.count(F.lit(1)),
        "written_at": F.max(F.unix_micros("timestamp")),
        **{f"bits_{at}": F.bit_or(F.when(F.col("word") == at, F.col("bit"))) for at in range(_WORDS)},
        "open": F.min_by("price", "trade_id"),
        "high": F.max("price"),
        "low": F.min("price"),
        "close": F.max_by("price", "trade_id"),
        "last_trade_time": F.max_by("trade_time", "trade_id"),
        "live": F.count_if(IS_LIVE),
        "first_live_time": F.min(F.when(F.col(IS_LIVE), F.col("trade_time"))),
        **{name: F.sum(name) for name in _ADDED},
        **{f"{TAKER}{name}": F.sum(F.when(F.col("is_taker_buy"), F.col(name))) for name in _ADDED},
    }  # fmt: skip
    return [made[name].alias(name) for name in Block._fields[len(_KEYS) :]]
