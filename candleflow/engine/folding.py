"""A batch of trades folded, and folded again without what the candles have already.

For a stream's batches and an archive's alike: whoever merges learns which ids are in candles already, and
then merges the rest of the batch, each trade once.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F  # noqa: N812 - the name that every Spark programmer knows

from candleflow.engine import trades as reading
from candleflow.engine.candles import CandleFold, without_ids, without_repeats
from candleflow.engine.driver_rows import rows_of
from candleflow.engine.partials import Folded, OversizeError, read_fold
from candleflow.errors import CandleflowError
from candleflow.market.window import Windows

_OVERLAPS_LIMIT: Final = 5

Overlap = Mapping[str, str]
"""Ids of a batch that are in candles already, by symbol, as an int8multirange's text."""


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

    def once(self, trades: DataFrame, folded: Folded, overlaps: Sequence[Overlap] = ()) -> Folded:
        """Fold the batch again: each trade once, and without the ids that are in candles already.

        ``trades``: the rows that ``folded`` was made of. ``overlaps``: what attempts to merge it answered.
        Raises CandleflowError where the batch overlaps the candles however often that is done.
        """
        if len(overlaps) > _OVERLAPS_LIMIT:
            raise CandleflowError(f"a batch overlaps the candles again and again: {overlaps[-1]}")
        rest = without_repeats(trades)
        for overlap in overlaps:
            rest = without_ids(rest, _ids(trades.sparkSession, overlap))
        once = self(rest)
        return replace(folded, partials=once.partials, trades=once.trades, live=once.live)


def unread_records(folded: Folded) -> int:
    """Return how many records of a batch ``trades.read_quickly`` could not read.

    Raises OversizeError if there are more than ``trades.UNREAD_LIMIT``, which the driver decodes at once.
    """
    unread = folded.rejected.get(reading.UNREAD, 0)
    if unread > reading.UNREAD_LIMIT:
        received = folded.sound + sum(folded.rejected.values())
        raise OversizeError(received * reading.UNREAD_LIMIT // unread, "records in another layout")
    return unread


def _ids(spark: SparkSession, overlap: Overlap) -> DataFrame:
    """The ids of multiranges by symbol, such as ``{"BTCUSDT": "{[5,9)}"}``, as rows."""
    ranges = [
        {"symbol": symbol, "lower": int(lower), "upper": int(upper)}
        for symbol, ids in overlap.items()
        for lower, upper in re.findall(r"\[([0-9]+),([0-9]+)\)", ids)
    ]
    ids = F.explode(F.expr("sequence(lower, upper - 1)")).alias("trade_id")
    return rows_of(spark, ranges, "symbol string, lower bigint, upper bigint").select("symbol", ids)
