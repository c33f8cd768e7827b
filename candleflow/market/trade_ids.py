"""Sets of trade ids as half-open ranges: the ledger that proves a candle complete.

Spot trade ids are consecutive per symbol, so a set is nearly always a single range. PostgreSQL's
``int8multirange`` is the same thing in the store; ``str()`` gives its text form.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from typing import Final, Self

from candleflow.errors import MarketError

_RANGE: Final = re.compile(r"\[([0-9]+),([0-9]+)\)")
_TEXT: Final = re.compile(r"\{(?:%s(?:,%s)*)?\}" % ((r"\[[0-9]+,[0-9]+\)",) * 2))


class TradeIds:
    """A growing set of trade ids, kept as disjoint, non-touching ``[lower, upper)`` ranges in order."""

    __slots__ = ("_lowers", "_uppers")

    def __init__(self, ids: Iterable[int] = ()) -> None:
        self._lowers: list[int] = []
        self._uppers: list[int] = []
        for trade_id in ids:
            self.add(trade_id)

    @classmethod
    def parse(cls, text: str) -> Self:
        """The set that a text such as ``{[5,9),[12,13)}`` is; raises MarketError for anything else."""
        if _TEXT.fullmatch(text) is None:
            raise MarketError(f"no set of trade ids: {text[:200]!r}")
        ids = cls()
        for lower, upper in _RANGE.findall(text):
            ids.add_range(int(lower), int(upper))
        return ids

    def add(self, trade_id: int) -> bool:
        """Add one id; whether it was new."""
        if self._uppers and trade_id == self._uppers[-1]:  # the next one in order: nearly every call
            self._uppers[-1] += 1
            return True
        at = bisect_right(self._lowers, trade_id)
        if at and trade_id < self._uppers[at - 1]:
            return False
        self.add_range(trade_id, trade_id + 1)
        return True

    def add_range(self, lower: int, upper: int) -> None:
        """Add every id of ``[lower, upper)``, those already in included."""
        if lower >= upper:
            return
        first = bisect_right(self._lowers, lower)
        if first and self._uppers[first - 1] >= lower:
            first -= 1
            lower = self._lowers[first]
        last = bisect_right(self._lowers, upper)
        if last > first:
            upper = max(upper, self._uppers[last - 1])
        self._lowers[first:last] = [lower]
        self._uppers[first:last] = [upper]

    def remove_range(self, lower: int, upper: int) -> None:
        """Take every id of ``[lower, upper)`` out, those that aren't in included."""
        if lower >= upper:
            return
        first = bisect_right(self._uppers, lower)
        last = bisect_left(self._lowers, upper)
        if first >= last:
            return
        rest = [(self._lowers[first], lower), (upper, self._uppers[last - 1])]
        kept = [(begin, end) for begin, end in rest if begin < end]
        self._lowers[first:last] = [begin for begin, _ in kept]
        self._uppers[first:last] = [end for _, end in kept]

    def forget_below(self, trade_id: int) -> None:
        """Drop every id below ``trade_id``, so that a set that follows a stream stays small."""
        keep = bisect_right(self._uppers, trade_id)
        del self._lowers[:keep], self._uppers[:keep]
        if self._lowers and self._lowers[0] < trade_id:
            self._lowers[0] = trade_id

    def holes(self) -> Iterator[tuple[int, int]]:
        """The ``[lower, upper)`` ranges missing between the first id and the last, in order."""
        return zip(self._uppers[:-1], self._lowers[1:], strict=True)

    @property
    def ranges(self) -> tuple[tuple[int, int], ...]:
        return tuple(zip(self._lowers, self._uppers, strict=True))

    def has_all(self, ids: TradeIds) -> bool:
        """Whether every one of ``ids`` is in."""
        return all(self.has_range(lower, upper) for lower, upper in ids.ranges)

    def has_range(self, lower: int, upper: int) -> bool:
        """Whether every id of ``[lower, upper)`` is in."""
        at = bisect_right(self._lowers, lower)
        return lower >= upper or (at > 0 and upper <= self._uppers[at - 1])

    def __contains__(self, trade_id: int) -> bool:
        at = bisect_right(self._lowers, trade_id)
        return at > 0 and trade_id < self._uppers[at - 1]

    def __len__(self) -> int:
        return sum(self._uppers) - sum(self._lowers)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TradeIds) and self.ranges == other.ranges

    __hash__ = None  # type: ignore[assignment]  # a set that grows has no hash

    def __str__(self) -> str:
        return "{" + ",".join(f"[{lower},{upper})" for lower, upper in self.ranges) + "}"

    def __repr__(self) -> str:
        return f"TradeIds({self})"
