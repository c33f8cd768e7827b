"""Sets of trade ids, stored as half-open ranges. They prove that a candle is complete.

Spot trade ids are consecutive per symbol, so a set is nearly always a single range. The store uses
PostgreSQL's ``int8multirange`` for the same purpose; ``str()`` returns its text form.

Some sets have many ranges, such as gaps while the exchange sends only aggregated trades. The ranges are kept
in blocks, so that a change moves the ranges of one block and not all of them.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from typing import Final, Self, TypeAlias

from candleflow.errors import MarketError

Ranges: TypeAlias = tuple[tuple[int, int], ...]
"""Ranges ``[lower, upper)`` of trade ids, in order, disjoint and not adjacent."""

_BLOCK: Final = 512
"""A block with more than twice this many ranges is split in two."""
_LEAST: Final = -(1 << 63)

_RANGE: Final = re.compile(r"\[([0-9]+),([0-9]+)\)")
_TEXT: Final = re.compile(r"\{(?:%s(?:,%s)*)?\}" % ((r"\[[0-9]+,[0-9]+\)",) * 2))


class TradeIds:
    """A mutable set of trade ids, stored as ordered, disjoint, non-adjacent ``[lower, upper)`` ranges."""

    # Block k has the ranges that begin in [_firsts[k], _firsts[k + 1]); they also end before _firsts[k + 1].
    __slots__ = ("_firsts", "_lowers", "_uppers")

    def __init__(self, ids: Iterable[int] = ()) -> None:
        self._firsts: list[int] = [_LEAST]
        self._lowers: list[list[int]] = [[]]
        self._uppers: list[list[int]] = [[]]
        for trade_id in ids:
            self.add(trade_id)

    @classmethod
    def of_ranges(cls, ranges: Iterable[tuple[int, int]]) -> Self:
        """Create the set of all ids in the ``[lower, upper)`` ranges, given in any order."""
        ids = cls()
        for lower, upper in ranges:
            ids.add_range(lower, upper)
        return ids

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse a text such as ``{[5,9),[12,13)}``. Raises MarketError for anything else."""
        if _TEXT.fullmatch(text) is None:
            raise MarketError(f"not a set of trade ids: {text[:200]!r}")
        return cls.of_ranges((int(lower), int(upper)) for lower, upper in _RANGE.findall(text))

    def add(self, trade_id: int) -> bool:
        """Add one id; return whether it was new."""
        uppers = self._uppers[-1]
        if uppers and trade_id == uppers[-1]:  # the next id in order, as in nearly every call
            uppers[-1] += 1
            return True
        if trade_id in self:
            return False
        self.add_range(trade_id, trade_id + 1)
        return True

    def add_range(self, lower: int, upper: int) -> None:
        """Add all ids of ``[lower, upper)``; some may be in the set already."""
        if lower >= upper:
            return
        at = self._joined(lower, upper)
        lowers, uppers = self._lowers[at], self._uppers[at]
        first, last = bisect_left(uppers, lower), bisect_right(lowers, upper)
        if first < last:
            lower, upper = min(lower, lowers[first]), max(upper, uppers[last - 1])
        lowers[first:last] = [lower]
        uppers[first:last] = [upper]
        self._settle(at)

    def remove_range(self, lower: int, upper: int) -> None:
        """Remove all ids of ``[lower, upper)``; some may not be in the set."""
        if lower >= upper:
            return
        at = self._joined(lower, upper)
        lowers, uppers = self._lowers[at], self._uppers[at]
        first, last = bisect_right(uppers, lower), bisect_left(lowers, upper)
        if first < last:
            rest = [(lowers[first], lower), (upper, uppers[last - 1])]
            kept = [(begin, end) for begin, end in rest if begin < end]
            lowers[first:last] = [begin for begin, _ in kept]
            uppers[first:last] = [end for _, end in kept]
        self._settle(at)

    def forget_below(self, trade_id: int) -> None:
        """Remove all ids below ``trade_id``, to keep a set that follows a stream small."""
        self.remove_range(_LEAST, trade_id)

    def within(self, lower: int, upper: int) -> Ranges:
        """Return the ranges of the ids in ``[lower, upper)`` that are in the set."""
        found: list[tuple[int, int]] = []
        for at in range(self._block(lower), self._block(upper) + 1):
            lowers, uppers = self._lowers[at], self._uppers[at]
            some = slice(bisect_right(uppers, lower), bisect_left(lowers, upper))
            found += zip(lowers[some], uppers[some], strict=True)
        if found and lower < upper:
            found[0] = (max(found[0][0], lower), found[0][1])
            found[-1] = (found[-1][0], min(found[-1][1], upper))
            return tuple(found)
        return ()

    def last_ranges(self, count: int) -> Ranges:
        """Return up to ``count`` ranges with the greatest ids, the last one first."""
        blocks = zip(reversed(self._lowers), reversed(self._uppers), strict=True)
        backwards = (zip(reversed(lowers), reversed(uppers), strict=True) for lowers, uppers in blocks)
        return tuple(islice(chain.from_iterable(backwards), count))

    def gaps(self) -> Iterator[tuple[int, int]]:
        """Return the ``[lower, upper)`` gaps between the first id and the last, in order."""
        uppers, lowers = map(chain.from_iterable, (self._uppers, self._lowers))
        return zip(uppers, islice(lowers, 1, None), strict=False)

    @property
    def ranges(self) -> Ranges:
        lowers, uppers = map(chain.from_iterable, (self._lowers, self._uppers))
        return tuple(zip(lowers, uppers, strict=True))

    @property
    def range_count(self) -> int:
        return sum(map(len, self._lowers))

    def has_all(self, ids: TradeIds) -> bool:
        """Return whether all of ``ids`` are in the set."""
        return all(self.has_range(lower, upper) for lower, upper in ids.ranges)

    def has_range(self, lower: int, upper: int) -> bool:
        """Return whether all ids of ``[lower, upper)`` are in the set."""
        at = self._block(lower)
        before = bisect_right(self._lowers[at], lower)
        return lower >= upper or (before > 0 and upper <= self._uppers[at][before - 1])

    def _block(self, trade_id: int) -> int:
        return bisect_right(self._firsts, trade_id) - 1

    def _joined(self, lower: int, upper: int) -> int:
        """Join the blocks that ``[lower, upper]`` touches into one; return its index.

        Blocks strictly between the first and the last are dropped: the caller is about to add or remove all
        their ids.
        """
        at, last = self._block(lower), self._block(upper)
        if last > at:
            self._lowers[at] += self._lowers[last]
            self._uppers[at] += self._uppers[last]
            for blocks in (self._firsts, self._lowers, self._uppers):
                del blocks[at + 1 : last + 1]
        return at

    def _settle(self, at: int) -> None:
        """Split the block if it is too long, and drop it if it is empty."""
        lowers, uppers = self._lowers[at], self._uppers[at]
        half = len(lowers) // 2
        if half > _BLOCK:
            self._firsts.insert(at + 1, lowers[half])
            for blocks, ends in ((self._lowers, lowers), (self._uppers, uppers)):
                blocks.insert(at + 1, ends[half:])
                del ends[half:]
        elif not lowers and len(self._firsts) > 1:
            del self._lowers[at], self._uppers[at], self._firsts[max(at, 1)]

    def __contains__(self, trade_id: int) -> bool:
        at = self._block(trade_id)
        before = bisect_right(self._lowers[at], trade_id)
        return before > 0 and trade_id < self._uppers[at][before - 1]

    def __bool__(self) -> bool:
        return any(self._lowers)

    def __len__(self) -> int:
        return sum(map(sum, self._uppers)) - sum(map(sum, self._lowers))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TradeIds) and self.ranges == other.ranges

    __hash__ = None  # type: ignore[assignment]  # a set that grows has no hash

    def __str__(self) -> str:
        return "{" + ",".join(f"[{lower},{upper})" for lower, upper in self.ranges) + "}"

    def __repr__(self) -> str:
        return f"TradeIds({self})"
