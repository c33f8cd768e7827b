"""Assign symbols to several producers by rendezvous hashing; every machine computes the same assignment.

Rendezvous hashing (highest random weight, Thaler and Ravishankar 1998): each shard number gives a symbol a
weight, and the symbol belongs to the number with the greatest. Weights don't depend on the number of shards.
So after adding a shard to n of them, about 1 in n + 1 symbols moves, always to the new shard.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Self

from candleflow.errors import MarketError

MOST: Final = 64
"""The maximum number of shards: each symbol's weight is computed for every one of them."""

PRODUCER: Final = "producer"
"""The name of the process that runs once for each shard."""

_TEXT: Final = re.compile(r"([0-9]{1,3})/([0-9]{1,3})")
_CACHED: Final = 65_536


@dataclass(frozen=True, slots=True)
class Shard:
    """Shard ``number`` of ``count``, both from 1 on. Raises MarketError for impossible numbers."""

    number: int
    count: int

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.count <= MOST:
            raise MarketError(
                f"must be a shard such as 2/4, from 1/1 to {MOST}/{MOST}, the first number no greater"
            )

    @classmethod
    def of(cls, text: str) -> Self:
        """Parse a shard such as ``2/4``. Raises MarketError for anything else."""
        found = _TEXT.fullmatch(text.strip())
        return cls(int(found[1]), int(found[2])) if found else cls(0, 0)

    @classmethod
    def named(cls, name: str, base: str) -> Self | None:
        """Return the shard for which ``name_of(base)`` is ``name``; None if there is none."""
        if name == base:
            return cls(1, 1)
        found = re.fullmatch(re.escape(base) + r"-([0-9]{1,3})-of-([0-9]{1,3})", name)
        try:
            return cls(int(found[1]), int(found[2])) if found else None
        except MarketError:
            return None

    def name_of(self, base: str) -> str:
        """Return the name for this shard, such as ``base-2-of-4``; just ``base`` if there is one shard."""
        return base if self == ALL else f"{base}-{self.number}-of-{self.count}"

    def owns(self, symbol: str) -> bool:
        """Return whether the symbol belongs to this shard. For each ``count``, exactly one shard owns it."""
        return self.count == 1 or _owner(symbol, self.count) == self.number

    def among(self, symbols: Iterable[str]) -> tuple[str, ...]:
        """Return the symbols that belong to this shard, in the given order; possibly none."""
        return tuple(symbol for symbol in symbols if self.owns(symbol))

    def overlaps(self, other: Shard) -> bool:
        """Return whether some symbol could belong to both shards, regardless of the symbols in use.

        With more shards, a symbol keeps its number or moves to one of the new numbers.
        """
        few, many = sorted((self, other), key=lambda one: one.count)
        return many.number == few.number or many.number > few.count

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"


ALL: Final = Shard(1, 1)
"""The one shard that has every symbol."""


@lru_cache(maxsize=_CACHED)
def _owner(symbol: str, count: int) -> int:
    return max(range(1, count + 1), key=lambda number: _weight(symbol, number))


def _weight(symbol: str, number: int) -> bytes:
    """Return the weight of a symbol for a shard number, by SHA-256: Python's own hash differs by process.

    The format ``number-symbol`` was chosen because it separates the busiest symbols: with two or more shards,
    BTCUSDT and ETHUSDT are on different ones. It must never change, or symbols would move at an upgrade.
    """
    return hashlib.sha256(f"{number}-{symbol}".encode()).digest()
