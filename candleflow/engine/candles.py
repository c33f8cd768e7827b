"""From rows of trades to candles: the rules of ``market/candle.py`` once more, as Spark columns.

``fold`` is pure, DataFrame to DataFrame, and the same for a micro-batch and for a year of archives. It gives
one row for each symbol and window, and one for each reason of refusal, so that a batch is read, judged,
counted and folded by a single job.

Whether a trade came twice is found exactly and not by a heuristic (the ids 1, 3, 3 have a count of 3 and
span 3 as well): trades are folded first by blocks of 64 neighbouring ids, where one long has a bit for each
id that came. The blocks of a window then give its exact set of ids, holes and all, and the number of its
records tells repetition from it. A fold with repeated records is of no use, and its caller folds once more
what ``without_repeats`` leaves: rare, and only then are trades sorted out one by one.

Sliding windows are put together from their panes, the tumbling windows of their slide, so that a trade is
read and folded once however many windows it is in.
"""

from __future__ import annotations

from typing import Final

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F  # noqa: N812 - the name that every Spark programmer knows

from candleflow.engine.amounts import (
    LIMBS,
    Product,
    amount_text,
    price_key,
    price_text,
    product,
    product_text,
)
from candleflow.engine.trades import REFUSAL
from candleflow.market.window import Windows

_BLOCK_BITS: Final = 6
_BLOCK_SIZE: Final = 1 << _BLOCK_BITS
_HIGHEST_BIT: Final = -(1 << 63)

_VOLUMES: Final = ("volume", "taker_buy_volume")
_QUOTE_VOLUMES: Final = ("quote_volume", "taker_buy_quote_volume")
_SUMS: Final = (
    *(f"{volume}_{part}" for volume in _VOLUMES for part in ("whole", "fraction")),
    *(f"{volume}_{limb}" for volume in _QUOTE_VOLUMES for limb in LIMBS),
    "records",
)
"""The columns that are sums of longs at every level of the fold."""

_PANE_COLUMNS: Final = ("open_time", "records", "trade_count", "first_trade_id", "last_trade_id")


def fold(trades: DataFrame, windows: Windows) -> DataFrame:
    """One row for each candle, and one for each reason of refusal, of the rows that ``trades.judge`` made.

    Of a candle: ``symbol``, ``open_time``, ``last_trade_time`` (microseconds), ``open``, ``high``, ``low``,
    ``close``, ``volume``, ``quote_volume``, ``taker_buy_volume``, ``taker_buy_quote_volume`` (plain decimal
    text, exact), ``trade_count`` (different ids), ``first_trade_id``, ``last_trade_id``, ``trade_ids`` (as
    PostgreSQL's int8multirange) and ``panes``: for each pane of the window its ``open_time``, ``records``
    (repeated ones counted again), ``trade_count``, ``first_trade_id`` and ``last_trade_id``. Where a pane has
    more records than ids, or two panes of a symbol share an id, the amounts count a trade twice.

    Of a refusal: the reason in ``refusal`` and its number in ``panes[0].records``; all else is null.
    """
    panes = _fold_blocks(_fold_trades(trades, windows.slide_us))
    panes = panes if windows.is_tumbling else _join_panes(panes, windows)
    return _as_candles(panes)


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


def _fold_trades(trades: DataFrame, pane_us: int) -> DataFrame:
    """By symbol, pane and block of ids; refused records by their reason, with nulls for the rest."""
    amounts = product(*(F.col(n) for n in _PRICE), *(F.col(n) for n in _QUANTITY))
    rows = trades.select(
        REFUSAL,
        "symbol",
        (F.col("trade_time") - F.col("trade_time") % pane_us).alias("open_time"),
        F.shiftright("trade_id", _BLOCK_BITS).alias("block"),
        "trade_id",
        "trade_time",
        "is_taker_buy",
        price_key(*(F.col(name) for name in _PRICE)).alias("price"),
        F.col("quantity_whole").alias("volume_whole"),
        F.col("quantity_fraction").alias("volume_fraction"),
        *(limb.alias(f"quote_volume_{name}") for name, limb in zip(LIMBS, amounts, strict=True)),
    )
    return rows.groupBy(REFUSAL, "symbol", "open_time", "block").agg(
        F.count(F.lit(1)).alias("records"),
        F.bit_or(
            F.call_function(
                "shiftleft", F.lit(1).cast("bigint"), (F.col("trade_id") % _BLOCK_SIZE).cast("int")
            )
        ).alias("bits"),
        F.min("trade_id").alias("first_trade_id"),
        F.max("trade_id").alias("last_trade_id"),
        F.min_by("price", "trade_id").alias("open"),
        F.max("price").alias("high"),
        F.min("price").alias("low"),
        F.max_by("price", "trade_id").alias("close"),
        F.max_by("trade_time", "trade_id").alias("last_trade_time"),
        *(_sum_of_trades(name) for name in _SUMS if name != "records"),
    )


_PRICE: Final = ("price_whole", "price_fraction")
_QUANTITY: Final = ("quantity_whole", "quantity_fraction")


def _sum_of_trades(name: str) -> Column:
    """A sum over all trades, or over those whose taker bought."""
    if not name.startswith("taker_buy_"):
        return F.sum(name).alias(name)
    return F.sum(F.when(F.col("is_taker_buy"), F.col(name.removeprefix("taker_buy_"))).otherwise(0)).alias(
        name
    )


def _fold_blocks(blocks: DataFrame) -> DataFrame:
    """Blocks by symbol and pane."""
    folded = blocks.groupBy(REFUSAL, "symbol", "open_time").agg(
        *_merged("block", "block"),
        F.sum(F.bit_count("bits")).alias("trade_count"),
        F.array_sort(F.collect_list(F.struct("block", "bits"))).alias("blocks"),
    )
    is_one_range = F.col("trade_count") == F.col("last_trade_id") - F.col("first_trade_id") + 1
    one_range = F.array(_range(F.col("first_trade_id"), F.col("last_trade_id")))
    ranges = F.when(is_one_range, one_range).otherwise(_ranges(F.col("blocks")))
    return folded.withColumn("ranges", ranges).withColumn("panes", F.array(F.struct(*_PANE_COLUMNS)))


def _join_panes(panes: DataFrame, windows: Windows) -> DataFrame:
    """Panes by symbol and window; a refusal has no window, and stays one row."""
    starts = F.array(*(F.col("open_time") - back for back in range(0, windows.size_us, windows.slide_us)))
    no_start = F.array(F.lit(None).cast("bigint"))
    in_windows = panes.withColumn(
        "open_time", F.explode(F.when(F.col(REFUSAL).isNull(), starts).otherwise(no_start))
    )
    joined = in_windows.groupBy(REFUSAL, "symbol", "open_time").agg(
        *_merged("first_trade_id", "last_trade_id"),
        F.sum("trade_count").alias("trade_count"),
        F.array_sort(F.flatten(F.collect_list("ranges"))).alias("ranges"),
        F.flatten(F.collect_list("panes")).alias("panes"),
    )
    return joined.withColumn("ranges", _joined_ranges(F.col("ranges")))


def _merged(first: str, last: str) -> list[Column]:
    """The columns that merge in the same way at every level; ``first`` and ``last`` order by trade id."""
    return [
        F.min_by("open", first).alias("open"),
        F.max("high").alias("high"),
        F.min("low").alias("low"),
        F.max_by("close", last).alias("close"),
        F.max_by("last_trade_time", last).alias("last_trade_time"),
        F.min("first_trade_id").alias("first_trade_id"),
        F.max("last_trade_id").alias("last_trade_id"),
        *(F.sum(name).alias(name) for name in _SUMS),
    ]


def _as_candles(folded: DataFrame) -> DataFrame:
    """The sums as texts, under the names of the table's columns."""
    lower_upper = F.transform(
        "ranges", lambda one: F.concat(F.lit("["), one["lower"], F.lit(","), one["upper"], F.lit(")"))
    )
    return folded.select(
        REFUSAL,
        "symbol",
        "open_time",
        "last_trade_time",
        *(price_text(F.col(name)).alias(name) for name in ("open", "high", "low", "close")),
        *(amount_text(F.col(f"{n}_whole"), F.col(f"{n}_fraction")).alias(n) for n in _VOLUMES),
        *(product_text(Product(*(F.col(f"{n}_{limb}") for limb in LIMBS))).alias(n) for n in _QUOTE_VOLUMES),
        F.when(F.col(REFUSAL).isNull(), F.col("trade_count")).alias("trade_count"),
        "first_trade_id",
        "last_trade_id",
        F.when(
            F.col(REFUSAL).isNull(), F.concat(F.lit("{"), F.array_join(lower_upper, ","), F.lit("}"))
        ).alias("trade_ids"),
        "panes",
    )


# Sets of ids ------------------------------------------------------------------------------------------


def _ranges(blocks: Column) -> Column:
    """The ids of ascending blocks as half-open ranges that don't touch: needed where there are holes only.

    ``blocks`` is to be a column by name, as an expression would be computed anew for each element. A range
    begins at a bit that is set where the one below isn't, and ends at one where the one above isn't; the
    neighbouring blocks have the bits across their borders.
    """

    def begins(block: Column, at: Column) -> Column:
        before = F.get(blocks, at - 1)
        touches = (before["block"] == block["block"] - 1) & (before["bits"] < 0)  # its highest bit
        below = F.shiftleft(block["bits"], 1).bitwiseOR(F.when(touches, 1).otherwise(0).cast("bigint"))
        return F.struct(block["block"], block["bits"].bitwiseAND(F.bitwise_not(below)).alias("bits"))

    def ends(block: Column, at: Column) -> Column:
        after = F.get(blocks, at + 1)
        touches = (after["block"] == block["block"] + 1) & (after["bits"] % 2 != 0)  # its lowest bit
        above = F.shiftrightunsigned(block["bits"], 1).bitwiseOR(F.when(touches, _HIGHEST_BIT).otherwise(0))
        return F.struct(block["block"], block["bits"].bitwiseAND(F.bitwise_not(above)).alias("bits"))

    return F.zip_with(_ids(F.transform(blocks, begins)), _ids(F.transform(blocks, ends)), _range)


def _ids(blocks: Column) -> Column:
    """The ids whose bits are set, in order."""
    positions = F.sequence(F.lit(0), F.lit(_BLOCK_SIZE - 1))
    return F.flatten(
        F.transform(
            F.filter(blocks, lambda block: block["bits"] != 0),
            lambda block: F.transform(
                F.filter(positions, lambda at: F.getbit(block["bits"], at) == 1),
                lambda at: block["block"] * _BLOCK_SIZE + at,
            ),
        )
    )


def _joined_ranges(ranges: Column) -> Column:
    """Ascending, disjoint ranges with those that touch made one; a column by name, as above."""
    firsts = F.filter(ranges, lambda one, at: (at == 0) | (F.get(ranges, at - 1)["upper"] < one["lower"]))
    lasts = F.filter(
        ranges, lambda one, at: (at == F.size(ranges) - 1) | (F.get(ranges, at + 1)["lower"] > one["upper"])
    )
    return F.zip_with(firsts, lasts, lambda first, last: _struct(first["lower"], last["upper"]))


def _range(first_id: Column, last_id: Column) -> Column:
    return _struct(first_id, last_id + 1)


def _struct(lower: Column, upper: Column) -> Column:
    return F.struct(lower.alias("lower"), upper.alias("upper"))
