"""Choose how many records of a batch one transaction merges."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

GROWTH: Final = 4
"""A part may have at most this many times the records of the part before."""
MERGE_SECONDS: Final = 15.0
"""The longest that a merge should take: a quarter of the limit for a call to PostgreSQL (socketTimeout)."""
MOST_RECORDS: Final = 1_000_000
"""The maximum number of records in a part. There is a task for each 125,000 of them, and each task collects
up to ``most`` blocks before the driver counts them all."""
_FILLED: Final = 0.75
"""Which share of the limit a part should fill. The next records can have more candles than the last ones."""


class PartSize:
    """Adapts the number of records in a part to what the last parts needed.

    After a failed part the next one is at most half as large, down to a single record. Parts that succeed
    grow again, so a failure that had nothing to do with size slows down only a few parts.
    """

    def __init__(self, most: int) -> None:
        """``most``: the maximum number of candles in a part."""
        self._most = most
        self.records = MOST_RECORDS

    def failed(self, records: int, fitting: int | None = None) -> None:
        """Note that a part of ``records`` failed. ``fitting``: about how many records would have fitted."""
        half = records // 2
        self.records = max(1, half if fitting is None else min(half, int(fitting * _FILLED)))

    def merged(self, records: int, candles: int, seconds: float) -> None:
        """Note that a part of ``records`` had ``candles`` and that its merge took ``seconds``."""
        in_time = MERGE_SECONDS / max(seconds, 0.001)
        if in_time < 1:
            self.records = max(1, int(records * in_time))
        elif records >= self.records:  # a smaller part was just the rest of the batch
            room = min(GROWTH, in_time, _FILLED * self._most / max(candles, 1))
            self.records = min(MOST_RECORDS, int(records * max(1.0, room)))


def part_end(begin: Mapping[int, int], end: Mapping[int, int], records: int) -> dict[int, int]:
    """Return the end offsets, by partition, of a part of ``records`` that starts at ``begin``, up to ``end``.

    The part takes the same share of each partition's remaining records, so that all partitions advance
    together.
    """
    left = {number: end[number] - begin[number] for number in sorted(end)}
    total = sum(left.values())
    if records >= total:
        return dict(end)
    reached, passed, taken = {}, 0, 0
    for number, count in left.items():
        passed += count
        share = passed * records // total - taken
        reached[number] = begin[number] + share
        taken += share
    return reached
