"""The candle rules of ``market/candle.py`` as Spark columns: trades into rows that add up to candles.

A row stands for a block of 64 trade ids of one symbol, as far as they are in one pane: the stretch of a slide
that a tumbling window is, or that sliding windows share. Rows of any batches add up in any order
(``engine/partials.py``), as open and close go by trade id and all the rest are extremes and exact sums; so a
trade is read and folded once, however many windows it is in. The ids themselves go along, one bit each:
which of them are there is what completeness and repetition are told by.

Sums are decimals that can't overflow: Spark's sum has ten digits more than what it adds. Of a product, which
fills 38 digits by itself, whole part and fraction are summed apart.
"""

from __future__ import annotations

from typing import Final

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F  # noqa: N812 - the name that every Spark programmer knows

from candleflow.engine.trades import IS_LIVE, REFUSAL
from candleflow.market.window import Windows

BLOCK_SIZE: Final = 64
"""Trade ids to a block: as many as a long has bits."""

SUMS: Final = ("volume", "quote_volume_whole", "quote_volume_fraction")
"""The columns that are sums, each also as ``taker_buy_...``, which is null where no taker bought."""

_KEYS: Final = (REFUSAL, "symbol", "open_time", "block")


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
        """One row for each symbol, pane and block, and one for each reason of refusal.

        Of trades: ``symbol``, the pane's ``open_time`` and ``last_trade_time`` (microseconds); ``live``, how
        many came live, and ``first_live_time``, that of the first of them; ``block``, and ``bits``, one for
        each id that is there, the lowest id's the lowest; ``records``, which are more than the bits where a
        trade came twice; ``written_at``, when the last of them was (microseconds); ``open``, ``high``,
        ``low``, ``close``; and ``SUMS``.

        Of a refusal: the reason in ``refusal``, and its number in ``records``.
        """
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
    time, trade_id, whole = F.col("trade_time"), F.col("trade_id"), F.floor("notional")
    within = trade_id.bitwiseAND(BLOCK_SIZE - 1).cast("int")
    return [
        (time - time % pane_us).alias("open_time"),
        F.shiftright(trade_id, BLOCK_SIZE.bit_length() - 1).alias("block"),
        F.call_function("shiftleft", F.lit(1).cast("bigint"), within).alias("bit"),
        whole.alias("notional_whole"),
        (F.col("notional") - whole).cast("decimal(16,16)").alias("notional_fraction"),
    ]


def _sums() -> list[Column]:
    added = dict(zip(SUMS, ("quantity", "notional_whole", "notional_fraction"), strict=True))
    return [
        F.count(F.lit(1)).alias("records"),
        F.max(F.unix_micros("timestamp")).alias("written_at"),
        F.bit_or("bit").alias("bits"),
        F.min_by("price", "trade_id").alias("open"),
        F.max("price").alias("high"),
        F.min("price").alias("low"),
        F.max_by("price", "trade_id").alias("close"),
        F.max_by("trade_time", "trade_id").alias("last_trade_time"),
        F.count_if(IS_LIVE).alias("live"),
        F.min(F.when(F.col(IS_LIVE), F.col("trade_time"))).alias("first_live_time"),
        *(F.sum(column).alias(name) for name, column in added.items()),
        *(F.sum(F.when(F.col("is_taker_buy"), F.col(column))).alias(f"taker_buy_{name}")
          for name, column in added.items()),
    ]  # fmt: skip
