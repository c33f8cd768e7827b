"""From rows of trades to candles: the rules of ``market/candle.py`` once more, as Spark columns.

``CandleFold`` is pure, DataFrame to DataFrame, and the same for a micro-batch and for a year of archives. It
gives one row for each symbol and window, and one for each reason of refusal, so that a single job reads,
judges, counts and folds a batch. ``engine/partials.py`` then writes the few rows as PostgreSQL takes them.

Whether a trade came twice is found exactly and not by a heuristic (the ids 1, 3, 3 have a count of 3 and
span 3 as well): trades are folded first by blocks of 64 neighbouring ids, where one long has a bit for each
id that came. The blocks of a window then give its exact set of ids, holes and all, and the number of its
records tells repetition from it. A fold with repeated records is of no use, and its caller folds once more
what ``without_repeats`` leaves: rare, and only then are trades sorted out one by one.

Sums are exact and are never a double or a decimal: products are cut into four longs, each of which fits a sum
over 5 million trades, and each of which Spark's hash aggregation can change in place. Sliding windows are put
together from their panes, the tumbling windows of their slide, so that a trade is read and folded once
however many windows it is in.
"""

from __future__ import annotations

from typing import Final, TypeAlias

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F  # noqa: N812 - the name that every Spark programmer knows

from candleflow.engine.trades import REFUSAL
from candleflow.market.trade import DECIMAL_PLACES, PRICE_LIMIT
from candleflow.market.window import Windows

BLOCK_SIZE: Final = 64
"""Trade ids to a block: as many as a long has bits."""

FRACTIONS: Final = 10**DECIMAL_PLACES
"""Units of 10^-8 in one."""
HALF_PRICE_LIMIT: Final = int(PRICE_LIMIT) // 2
"""A price is one long: its units of 10^-8, counted from here, as from zero they would not all fit."""

LIMBS: Final = ("e28", "e16", "e8", "e0")
"""A product of price and quantity, in units of 10^-16, is e28 * 10^28 + e16 * 10^16 + e8 * 10^8 + e0.

Of one trade none is above 10^12; and 2^63 / 10^12 is more than 9 million.
"""
VOLUMES: Final = ("volume", "taker_buy_volume")
QUOTE_VOLUMES: Final = ("quote_volume", "taker_buy_quote_volume")
SUMS: Final = (
    *(f"{volume}_{part}" for volume in VOLUMES for part in ("whole", "fraction")),
    *(f"{volume}_{limb}" for volume in QUOTE_VOLUMES for limb in LIMBS),
    "records",
)
"""The columns that are sums at every level of the fold."""

_KEYS: Final = (REFUSAL, "symbol", "open_time")
_MILLION: Final = 10**6
_TRILLION: Final = 10**12


class CandleFold:
    """The fold for one choice of windows. Its columns are made once: from Python each costs a call or two."""

    def __init__(self, windows: Windows) -> None:
        self._windows = windows
        self._steps = _product_steps()
        self._rows = _fold_rows(windows.slide_us)
        self._blocks = _block_columns()
        self._panes = _pane_columns()

    def __call__(self, trades: DataFrame) -> DataFrame:
        """One row for each candle, and one for each reason of refusal, of rows that ``trades.judge`` made.

        Of a candle: ``symbol``, ``open_time`` and ``last_trade_time`` (microseconds); ``open``, ``high``,
        ``low`` and ``close`` (units of 10^-8, less ``HALF_PRICE_LIMIT``); ``SUMS``; ``trade_count`` (of
        different ids), ``first_trade_id``, ``last_trade_id``; ``blocks`` of ``block`` and ``bits``, the ids
        bit by bit, which is null where they have no hole; and ``panes``, for each pane of the window its
        ``open_time``, ``records`` (repeated ones counted again), ``trade_count``, ``first_trade_id`` and
        ``last_trade_id``. Where a pane has more records than ids, or two panes of a symbol share an id, a
        trade is in the sums twice.

        Of a refusal: the reason in ``refusal``, and its number in ``records``.
        """
        rows = trades
        for step in self._steps:
            rows = rows.select(*step)
        blocks = rows.select(*self._rows).groupBy(*_KEYS, "block").agg(*self._blocks)
        panes = blocks.groupBy(*_KEYS).agg(*self._panes)
        return _finish(panes) if self._windows.is_tumbling else _finish(_join_panes(panes, self._windows))


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


# A trade's row ----------------------------------------------------------------------------------------

_Step: TypeAlias = list[Column | str]

_KEPT: Final = (
    REFUSAL, "symbol", "trade_id", "trade_time", "is_taker_buy",
    "price_whole", "price_fraction", "quantity_whole", "quantity_fraction",
)  # fmt: skip


def _product_steps() -> list[_Step]:
    """Projections that lead to a trade's product of price and quantity, exact, in limbs.

    Both wholes are cut at 10^6, so that no step leaves the range of a long: of a price below 10^11 and a
    quantity below 10^12, none is above 4 * 10^14 but the product of the fractions, below 10^16. One step a
    projection, as a column that is used twice within one would be written out, planned and computed twice.
    """
    whole, fraction = F.col("price_whole"), F.col("price_fraction")
    other_whole, other_fraction = F.col("quantity_whole"), F.col("quantity_fraction")
    a1, a0, b1, b0 = (F.col(name) for name in ("a1", "a0", "b1", "b0"))
    parts: _Step = [
        *_KEPT,
        _div(whole, _MILLION).alias("a1"),
        (whole % _MILLION).alias("a0"),
        _div(other_whole, _MILLION).alias("b1"),
        (other_whole % _MILLION).alias("b0"),
    ]
    products: _Step = [
        *_KEPT,
        (fraction * other_fraction).alias("fractions"),
        (a0 * other_fraction + b0 * fraction).alias("crossed"),
        (a1 * other_fraction + b1 * fraction).alias("crossed_millions"),
        (a0 * b0).alias("units"),
        (a1 * b0 + a0 * b1).alias("millions"),
        (a1 * b1).alias("trillions"),
    ]
    crossed = F.col("crossed") + F.col("crossed_millions") % 100 * _MILLION
    carried: _Step = [
        *_KEPT,
        (F.col("fractions") % FRACTIONS).alias("e0"),
        (crossed + _div(F.col("fractions"), FRACTIONS)).alias("low"),
        (
            F.col("units") + F.col("millions") % _MILLION * _MILLION + _div(F.col("crossed_millions"), 100)
        ).alias("high"),
        (F.col("trillions") + _div(F.col("millions"), _MILLION)).alias("e28"),
    ]
    limbs: _Step = [
        *_KEPT,
        "e0",
        (F.col("low") % FRACTIONS).alias("e8"),
        (F.col("high") + _div(F.col("low"), FRACTIONS)).alias("e16"),
        "e28",
    ]
    return [parts, products, carried, limbs]


def _fold_rows(pane_us: int) -> _Step:
    time, trade_id = F.col("trade_time"), F.col("trade_id")
    bit = F.call_function("shiftleft", F.lit(1).cast("bigint"), (trade_id % BLOCK_SIZE).cast("int"))
    return [
        REFUSAL,
        "symbol",
        (time - time % pane_us).alias("open_time"),
        _div(trade_id, BLOCK_SIZE).alias("block"),
        bit.alias("bit"),
        "trade_id",
        "trade_time",
        "is_taker_buy",
        ((F.col("price_whole") - HALF_PRICE_LIMIT) * FRACTIONS + F.col("price_fraction")).alias("price"),
        F.col("quantity_whole").alias("volume_whole"),
        F.col("quantity_fraction").alias("volume_fraction"),
        (F.col("e28") + _div(F.col("e16"), _TRILLION)).alias("quote_volume_e28"),
        (F.col("e16") % _TRILLION).alias("quote_volume_e16"),
        F.col("e8").alias("quote_volume_e8"),
        F.col("e0").alias("quote_volume_e0"),
    ]


# Aggregations -----------------------------------------------------------------------------------------


def _block_columns() -> list[Column]:
    """Of the trades of a pane and block; refused records by their reason, with nulls for the rest."""
    return [
        F.count(F.lit(1)).alias("records"),
        F.bit_or("bit").alias("bits"),
        F.min("trade_id").alias("first_trade_id"),
        F.max("trade_id").alias("last_trade_id"),
        F.min_by("price", "trade_id").alias("open"),
        F.max("price").alias("high"),
        F.min("price").alias("low"),
        F.max_by("price", "trade_id").alias("close"),
        F.max_by("trade_time", "trade_id").alias("last_trade_time"),
        *(_sum_of_trades(name) for name in SUMS if name != "records"),
    ]


def _sum_of_trades(name: str) -> Column:
    """A sum over all trades, or over those whose taker bought."""
    if not name.startswith("taker_buy_"):
        return F.sum(name).alias(name)
    of_all = F.col(name.removeprefix("taker_buy_"))
    return F.sum(F.when(F.col("is_taker_buy"), of_all).otherwise(0)).alias(name)


def _pane_columns() -> list[Column]:
    """Of the blocks of a pane."""
    return [
        *_merged("block", "block"),
        F.sum(F.bit_count("bits")).alias("trade_count"),
        F.collect_list(F.struct("block", "bits")).alias("blocks"),
    ]


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
        *(F.sum(name).alias(name) for name in SUMS),
    ]


def _join_panes(panes: DataFrame, windows: Windows) -> DataFrame:
    """Panes by symbol and window; a refusal has no window, and stays one row."""
    pane = F.struct("open_time", *_PANE_COUNTS).alias("pane")
    starts = F.array(*(F.col("open_time") - back for back in range(0, windows.size_us, windows.slide_us)))
    no_start = F.array(F.lit(None).cast("bigint"))
    start = F.explode(F.when(F.col(REFUSAL).isNull(), starts).otherwise(no_start)).alias("open_time")
    kept = [name for name in panes.columns if name != "open_time"]
    return (
        panes.select(*kept, "open_time", pane)
        .select(*kept, "pane", start)
        .groupBy(*_KEYS)
        .agg(
            *_merged("first_trade_id", "last_trade_id"),
            F.sum("trade_count").alias("trade_count"),
            F.flatten(F.collect_list("blocks")).alias("blocks"),
            F.collect_list("pane").alias("panes"),
        )
    )


_PANE_COUNTS: Final = ("records", "trade_count", "first_trade_id", "last_trade_id")


def _finish(folded: DataFrame) -> DataFrame:
    """A tumbling window is its own pane; a set of ids without a hole needs no list of them."""
    span = F.col("last_trade_id") - F.col("first_trade_id") + 1
    is_gapless = F.col("trade_count") == span
    blocks = F.when(~is_gapless, F.col("blocks")).alias("blocks")
    rest = [name for name in folded.columns if name not in ("blocks", "panes")]
    panes = F.col("panes") if "panes" in folded.columns else F.array(F.struct("open_time", *_PANE_COUNTS))
    return folded.select(*rest, blocks, panes.alias("panes"))


def _div(dividend: Column, divisor: int) -> Column:
    return F.call_function("div", dividend, F.lit(divisor).cast("bigint"))
