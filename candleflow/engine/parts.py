"""How much of a batch one transaction merges: all of it where that is little, else one part after another."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

GROWTH: Final = 4
"""A part that left room is followed by one of at most so many times its records."""
MERGE_SECONDS: Final = 15.0
"""A merge should take no longer: a quarter of what a call of PostgreSQL may take (socketTimeout)."""
MOST_RECORDS: Final = 1_000_000
"""No part has more: a task for each 125,000 of them collects up to ``most`` blocks before any is counted."""
_FILLED: Final = 0.75
"""How full a part is meant to be: the next records may have more candles than the last ones had."""


class PartSize:
    """How many records a part may have: as many as the last parts showed to fit.

    A part that failed is never tried again as it was: the next one is half as large at most, down to a single
    record. Parts that succeed grow again, so a failure for another reason is forgotten after a few of them.
    """

    def __init__(self, most: int) -> None:
        """``most``: how many candles a part may have."""
        self._most = most
        self.records = MOST_RECORDS

    def failed(self, records: int, fitting: int | None = None) -> None:
        """A part of ``records`` was not merged. ``fitting``: how many of them have ``most`` candles."""
        half = records // 2
        self.records = max(1, half if fitting is None else min(half, int(fitting * _FILLED)))

    def merged(self, records: int, candles: int, seconds: float) -> None:
        """A part of ``records`` had ``candles``, and PostgreSQL took ``seconds`` to merge it."""
        in_time = MERGE_SECONDS / max(seconds, 0.001)
        if in_time < 1:
            self.records = max(1, int(records * in_time))
        elif records >= self.records:  # a smaller one was all there was, and shows nothing
            room = min(GROWTH, in_time, _FILLED * self._most / max(candles, 1))
            self.records = min(MOST_RECORDS, int(records * max(1.0, room)))


def part_end(begin: Mapping[int, int], end: Mapping[int, int], records: int) -> dict[int, int]:
    """Where a part of ``records`` ends that starts at ``begin``: the next offset by partition, up to ``end``.

    Each partition gives the same share of what is left of it, so that their trades stay in step.
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
