"""A batch of trades folded, and folded again without what the candles have already.

For a stream's batches and an archive's alike: whoever merges learns which ids are in candles already, and
then merges the rest of the batch, each trade once.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Final

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F  # noqa: N812 - the name that every Spark programmer knows

from candleflow.engine.candles import CandleFold, without_ids, without_repeats
from candleflow.engine.partials import Folded, read_fold
from candleflow.errors import CandleflowError
from candleflow.market.window import Windows

_OVERLAPS_LIMIT: Final = 5

Merge = Callable[[Folded], Mapping[str, str] | None]
"""Merges a batch, all of it or nothing. None where it was done, else the ids of it that are in candles
already, by symbol, as an int8multirange's text."""


class BatchFold:
    """Folds batches into partial candles for one choice of windows, ``most`` at most where it is given."""

    def __init__(self, windows: Windows, most: int | None = None) -> None:
        self._windows = windows
        self._most = most
        self._candle_fold = CandleFold(windows) if most is None else CandleFold(windows, most)

    def quickly(self, records: DataFrame, max_future_us: int) -> DataFrame:
        """As ``CandleFold.quickly``."""
        return self._candle_fold.quickly(records, max_future_us)

    def read(self, blocks: DataFrame) -> Folded:
        """One job, whose few rows come to the driver. Raises OversizeError as ``read_fold`` does."""
        return read_fold(blocks.collect(), self._windows, self._most)

    def __call__(self, trades: DataFrame) -> Folded:
        """Rows of trades, folded by one job."""
        return self.read(self._candle_fold(trades))

    def merge_once(self, trades: Callable[[], DataFrame], folded: Folded, merge: Merge) -> Folded:
        """Merge ``folded``, each trade once; what was merged in the end.

        ``trades`` makes the rows it was folded from: they are asked for only where they have to be folded
        again. Raises CandleflowError where they overlap the candles however often that is done.
        """
        if folded.has_repeats:
            folded = self._fold_without(trades(), folded, [])
        overlaps: list[Mapping[str, str]] = []
        while len(overlaps) <= _OVERLAPS_LIMIT:
            overlap = merge(folded)
            if overlap is None:
                return folded
            overlaps.append(overlap)
            folded = self._fold_without(trades(), folded, overlaps)
        raise CandleflowError(f"a batch overlaps the candles again and again: {overlaps[-1]}")

    def _fold_without(
        self, trades: DataFrame, folded: Folded, overlaps: Sequence[Mapping[str, str]]
    ) -> Folded:
        """The batch once more, each trade once and without the ids that are in the candles already."""
        rest = without_repeats(trades)
        for overlap in overlaps:
            rest = without_ids(rest, _ids(trades.sparkSession, overlap))
        once = self(rest)
        return replace(folded, partials=once.partials, trades=once.trades, live=once.live)


def _ids(spark: SparkSession, overlap: Mapping[str, str]) -> DataFrame:
    """The ids of multiranges by symbol, such as ``{"BTCUSDT": "{[5,9)}"}``, as rows.

    They are unfolded in the JVM from one text: rows given from Python would need a Python worker.
    """
    ranges = F.explode(F.expr("regexp_extract_all(ids, '\\\\[([0-9]+),([0-9]+)\\\\)', 0)"))
    bounds = F.split(F.substring("one", 2, 60), "[,)]")
    lower, upper = bounds[0].cast("bigint"), bounds[1].cast("bigint")
    by_symbol = F.explode(F.from_json(F.lit(json.dumps(dict(overlap))), "map<string,string>"))
    return (
        spark.range(1)
        .select(by_symbol.alias("symbol", "ids"))
        .select("symbol", ranges.alias("one"))
        .select("symbol", F.explode(F.sequence(lower, upper - 1)).alias("trade_id"))
    )
