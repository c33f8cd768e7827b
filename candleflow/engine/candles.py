"""The candle rules of ``market/candle.py`` in Spark: aggregate trades into rows that merge to candles.

A pane is a stretch of time as long as the slide: a whole tumbling window, or the part that neighbouring
sliding windows share. A block is 256 consecutive trade ids of a symbol. Each row aggregates the trades of one
block in one pane, so a trade is read and aggregated once, however many windows contain it.

Rows from any tasks and batches can be merged in any order (``engine/partials.py``), because open and close
are chosen by trade id, and all other fields are extremes or exact sums. So Spark needs no shuffle. Each row
also has one bit for each trade id; they show which ids are missing and which trades came twice.

Sums are 64-bit integers that can't overflow; an amount is split over several (``trades.ADDED_COLUMNS``).
"""

from __future__ import annotations

from typing import Final, NamedTuple

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F  # noqa: N812 - the name that every Spark programmer knows
from pyspark.sql.types import LongType, StringType, StructField, StructType

from candleflow.engine.java_functions import map_partitions
from candleflow.engine.trades import IS_LIVE, REASON, TRADE_COLUMNS, UNREAD
from candleflow.market.symbol import SYMBOL_PATTERN
from candleflow.market.window import Windows

_WORD_SIZE: Final = 64
_WORDS: Final = 4
BLOCK_SIZE: Final = _WORDS * _WORD_SIZE
"""The number of trade ids in a block, one bit each. Each block is a row that the driver has to merge."""

TOO_MANY: Final = "(too many)"
"""Marks the row of a task that exceeded its limit of blocks and returns none of them. ``records`` is the
number of records it had read by then."""

LAST_RECORD: Final = "(last record)"
"""Marks the row for the record with a partition's greatest offset. ``open_time`` holds the partition,
``block`` the offset, and ``written_at`` the record's timestamp."""

_ALL_OF_THEM: Final = 2**63 - 1

TAKER: Final = "taker_buy_"
"""The prefix of the columns with sums over taker buys only."""


class Block(NamedTuple):
    """A row of the aggregate: a block's trades in one pane, or the count of records rejected for a reason."""

    rejection_reason: str | None
    """None for trades. Otherwise the reason, and only ``records`` is set; or ``TOO_MANY``; or
    ``LAST_RECORD``."""
    symbol: str
    open_time: int
    """When the pane begins, in microseconds."""
    block: int
    """The trade ids divided by ``BLOCK_SIZE``."""
    records: int
    """The number of records; more than the number of ids if a trade came twice."""
    written_at: int
    """When the last of the records was written to the topic, microseconds since the epoch."""
    bits_0: int
    """One bit for each id that is present, the lowest bit for the lowest id, in signed 64-bit words."""
    bits_1: int
    bits_2: int
    bits_3: int
    open: int
    """Prices are in steps of 10^-8, starting at ``trades.PRICE_ZERO``."""
    high: int
    low: int
    close: int
    last_trade_time: int
    live: int
    """How many came from the live stream."""
    first_live_time: int | None
    quantity_whole: int
    """This and the next columns are sums of ``trades.ADDED_COLUMNS``, in the same units."""
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
        """The bits of all 256 ids as one number."""
        words = (self.bits_0, self.bits_1, self.bits_2, self.bits_3)
        return sum((word & _ALL_BITS) << at * _WORD_SIZE for at, word in enumerate(words))


_ALL_BITS: Final = (1 << _WORD_SIZE) - 1
_TEXTS: Final = (REASON, "symbol")
_BLOCKS: Final = StructType(
    [StructField(name, StringType() if name in _TEXTS else LongType()) for name in Block._fields]
)


class CandleFold:
    """Aggregates trades for one choice of windows, by ``java/candleflow/Blocks.java``.

    A task with more than ``most`` blocks returns the row ``TOO_MANY`` instead of them.
    """

    def __init__(self, windows: Windows, most: int = _ALL_OF_THEM) -> None:
        self._pane_us = windows.slide_us
        self._most = most

    def __call__(self, trades: DataFrame) -> DataFrame:
        """Aggregate the rows of ``trades.judge`` or ``trades.read_quickly`` into rows of ``Block``.

        Each task returns a row for each symbol, pane and block, and a row for each reason for rejection. Of
        Kafka's columns, ``timestamp``, ``partition`` and ``offset`` are required. Without ``IS_LIVE`` no
        trade counts as live.
        """
        rows = trades.select(REASON, *_place(trades), *TRADE_COLUMNS)
        return map_partitions(rows, _BLOCKS, "FoldTrades", self._pane_us, self._most)

    def quickly(self, records: DataFrame, max_future_us: int) -> DataFrame:
        """Decode and aggregate Kafka's records in one function, into rows of ``Block``.

        Records that ``trades.read_quickly`` can't read are counted as ``trades.UNREAD``. Arguments as for
        ``trades.judge``. The stream uses this: with two steps, Spark would plan their columns in each batch.
        """
        rows = records.select("value", *_place(records))
        return map_partitions(
            rows, _BLOCKS, "FoldRecords", self._pane_us, max_future_us, UNREAD, SYMBOL_PATTERN, self._most
        )


def without_repeats(trades: DataFrame) -> DataFrame:
    """Keep each trade once: of several records with its id, the first by partition and offset.

    Rejected records are left out. Needs the columns ``partition`` and ``offset``.
    """
    in_topic = Window.partitionBy("symbol", "trade_id").orderBy("partition", "offset")
    sound = trades.where(F.col(REASON).isNull())
    return sound.withColumn("nth", F.row_number().over(in_topic)).where(F.col("nth") == 1).drop("nth")


def without_ids(trades: DataFrame, ids: DataFrame) -> DataFrame:
    """Remove the ``trades`` whose ``symbol`` and ``trade_id`` are in ``ids``."""
    return trades.join(F.broadcast(ids), ["symbol", "trade_id"], "left_anti")


def _place(rows: DataFrame) -> list[Column]:
    """Return the columns with a record's timestamp, whether it is live, its partition and its offset."""
    is_live = F.col(IS_LIVE) if IS_LIVE in rows.columns else F.lit(col=False).alias(IS_LIVE)
    return [F.unix_micros("timestamp"), is_live, F.col("partition"), F.col("offset")]
