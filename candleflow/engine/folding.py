"""Aggregate a batch of trades, and aggregate it again without the trades that the candles already have.

Used for the stream's batches and for an archive's. If a merge reports ids that are already in candles, the
caller aggregates the rest of the batch, with each trade once, and merges that.
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
"""The ids of a batch that are already in candles, by symbol, as the text of an int8multirange."""


class BatchFold:
    """Aggregates batches into partial candles of ``windows``, at most ``most`` of them if given."""

    def __init__(self, windows: Windows, most: int | None = None) -> None:
        self._windows = windows
        self._most = most
        self._candle_fold = CandleFold(windows) if most is None else CandleFold(windows, most)

    def quickly(self, records: DataFrame, max_future_us: int) -> DataFrame:
        """Like ``CandleFold.quickly``."""
        return self._candle_fold.quickly(records, max_future_us)

    def read(self, blocks: DataFrame) -> Folded:
        """Run the job and build the partial candles on the driver. Raises OversizeError as ``read_fold``."""
        return read_fold(blocks.collect(), self._windows, self._most)

    def __call__(self, trades: DataFrame) -> Folded:
        """Aggregate rows of trades in one job."""
        return self.read(self._candle_fold(trades))

    def once(self, trades: DataFrame, folded: Folded, overlaps: Sequence[Overlap] = ()) -> Folded:
        """Aggregate the batch again, with each trade once and without the ids that are already in candles.

        ``trades``: the rows that ``folded`` was made of. ``overlaps``: the ids that each attempt to merge
        reported. Raises CandleflowError after more than ``_OVERLAPS_LIMIT`` attempts.
        """
        if len(overlaps) > _OVERLAPS_LIMIT:
            raise CandleflowError(
                f"after {len(overlaps)} attempts, a batch still has trades that are in candles already: "
                f"{overlaps[-1]}; please report this"
            )
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
    """Return one row for each id in multiranges by symbol, such as ``{"BTCUSDT": "{[5,9)}"}``."""
    ranges = [
        {"symbol": symbol, "lower": int(lower), "upper": int(upper)}
        for symbol, ids in overlap.items()
        for lower, upper in re.findall(r"\[([0-9]+),([0-9]+)\)", ids)
    ]
    ids = F.explode(F.expr("sequence(lower, upper - 1)")).alias("trade_id")
    return rows_of(spark, ranges, "symbol string, lower bigint, upper bigint").select("symbol", ids)
