"""The candle rules of ``market/candle.py`` in Spark: trades into rows that add up to candles.

A row stands for a block of 256 trade ids of a symbol, as far as they are in one pane: the stretch of a slide
that a tumbling window is, or that sliding windows share. Rows of any tasks and batches add up in any order
(``engine/partials.py``), as open and close go by trade id and all the rest are extremes and exact sums; so a
trade is read and folded once, however many windows it is in, and no row has to go to another task. The ids
themselves go along, one bit each: which of them are there is what completeness and repetition are told by.

Sums are 64-bit integers that can't overflow, several to an amount (``trades.ADDED_COLUMNS``).
"""

from __future__ import annotations

from typing import Final, NamedTuple

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F  # noqa: N812 - the name that every Spark programmer knows
from pyspark.sql.types import LongType, StringType, StructField, StructType

from candleflow.engine.java_functions import map_partitions
from candleflow.engine.trades import IS_LIVE, REFUSAL, TRADE_COLUMNS, UNREAD
from candleflow.market.symbol import SYMBOL_PATTERN
from candleflow.market.window import Windows

_WORD_SIZE: Final = 64
_WORDS: Final = 4
BLOCK_SIZE: Final = _WORDS * _WORD_SIZE
"""Trade ids to a block, a bit for each. A block is a row for the driver, while all the rest waits."""

TOO_MANY: Final = "(too many)"
"""In place of a reason: a task had more blocks than it may have, and gives none of them. ``records`` is how
many it had read by then."""

LAST_RECORD: Final = "(last record)"
"""In place of a reason: the record with the greatest offset of a partition. ``open_time`` is the partition,
``block`` the offset, and ``written_at`` the record's."""

_ALL_OF_THEM: Final = 2**63 - 1

TAKER: Final = "taker_buy_"
"""What the sums over takers' buys alone have before their names."""


class Block(NamedTuple):
    """A row of the fold: the trades of a block, as far as they are in one pane; or a reason of refusal."""

    refusal: str | None
    """The reason; then only ``records`` counts of all the rest. Or ``TOO_MANY``, or ``LAST_RECORD``."""
    symbol: str
    open_time: int
    """The pane's, in microseconds."""
    block: int
    """The ids' quotient by ``BLOCK_SIZE``."""
    records: int
    """More than the ids where a trade came twice."""
    written_at: int
    """When the last of the records was written to the topic, microseconds since the epoch."""
    bits_0: int
    """A bit for each id that is there, the lowest id's the lowest, in words of 64 with a sign."""
    bits_1: int
    bits_2: int
    bits_3: int
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
    taker_buy_quantity_whole: int
    taker_buy_quantity_fraction: int
    taker_buy_notional_high: int
    taker_buy_notional_whole: int
    taker_buy_notional_fraction: int
    taker_buy_notional_rest: int

    @property
    def bits(self) -> int:
        """Of all the block's ids."""
        words = (self.bits_0, self.bits_1, self.bits_2, self.bits_3)
        return sum((word & _ALL_BITS) << at * _WORD_SIZE for at, word in enumerate(words))


_ALL_BITS: Final = (1 << _WORD_SIZE) - 1
_TEXTS: Final = (REFUSAL, "symbol")
_BLOCKS: Final = StructType(
    [StructField(name, StringType() if name in _TEXTS else LongType()) for name in Block._fields]
)


class CandleFold:
    """The fold for one choice of windows: ``java/candleflow/Blocks.java``, by what a row is read from.

    A task with more than ``most`` blocks gives the row ``TOO_MANY`` in place of them.
    """

    def __init__(self, windows: Windows, most: int = _ALL_OF_THEM) -> None:
        self._pane_us = windows.slide_us
        self._most = most

    def __call__(self, trades: DataFrame) -> DataFrame:
        """``trades``, as ``trades.judge`` or ``read_quickly`` made them, as rows of ``Block``: some for each
        symbol, pane and block, and some for each reason of refusal. Of Kafka's columns it needs
        ``timestamp``, ``partition`` and ``offset``; without ``IS_LIVE`` no trade counts as live.
        """
        rows = trades.select(REFUSAL, *_place(trades), *TRADE_COLUMNS)
        return map_partitions(rows, _BLOCKS, "FoldTrades", self._pane_us, self._most)

    def quickly(self, records: DataFrame, max_future_us: int) -> DataFrame:
        """The same of Kafka's records, read and folded at once; those that ``trades.read_quickly`` can't read
        are refused as ``trades.UNREAD``. Arguments as for ``trades.judge``.

        For a stream: it is one function, where the columns of the two steps were planned with each batch.
        """
        rows = records.select("value", *_place(records))
        return map_partitions(
            rows, _BLOCKS, "FoldRecords", self._pane_us, max_future_us, UNREAD, SYMBOL_PATTERN, self._most
        )


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


def _place(rows: DataFrame) -> list[Column]:
    """When a record was written, whether it came live, and where it is in the topic."""
    is_live = F.col(IS_LIVE) if IS_LIVE in rows.columns else F.lit(col=False).alias(IS_LIVE)
    return [F.unix_micros("timestamp"), is_live, F.col("partition"), F.col("offset")]
