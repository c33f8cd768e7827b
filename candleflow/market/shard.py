"""Which of several producers takes which symbols: a rule that every machine works out alike.

By rendezvous (highest random weight: Thaler and Ravishankar 1998): each shard's number gives a symbol a
weight, and the symbol falls to the number with the greatest. Weights don't depend on how many shards there
are. So with one more a symbol stays where it was, or goes to the new one, and about 1 of n + 1 goes.
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
"""So many shards at most: each symbol's weight is worked out for every one of them."""

PRODUCER: Final = "producer"
"""The process that each shard has one of."""

_TEXT: Final = re.compile(r"([0-9]{1,3})/([0-9]{1,3})")
_CACHED: Final = 65_536


@dataclass(frozen=True, slots=True)
class Shard:
    """Shard ``number`` of ``count``, both from 1 on. Raises MarketError where there is no such one."""

    number: int
    count: int

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.count <= MOST:
            raise MarketError(
                f"must be a shard such as 2/4, from 1/1 to {MOST}/{MOST}, the first number no greater"
            )

    @classmethod
    def of(cls, text: str) -> Self:
        """The shard written as ``2/4``. Raises MarketError for anything else."""
        found = _TEXT.fullmatch(text.strip())
        return cls(int(found[1]), int(found[2])) if found else cls(0, 0)

    @classmethod
    def named(cls, name: str, base: str) -> Self | None:
        """The shard that ``name_of(base)`` is of; None where it is of none."""
        if name == base:
            return cls(1, 1)
        found = re.fullmatch(re.escape(base) + r"-([0-9]{1,3})-of-([0-9]{1,3})", name)
        try:
            return cls(int(found[1]), int(found[2])) if found else None
        except MarketError:
            return None

    def name_of(self, base: str) -> str:
        """What this shard's own one of something is called: ``base`` alone where there is one shard."""
        return base if self == ALL else f"{base}-{self.number}-of-{self.count}"

    def owns(self, symbol: str) -> bool:
        """Whether the symbol falls to this shard; of each count's shards, to exactly one."""
        return self.count == 1 or _owner(symbol, self.count) == self.number

    def among(self, symbols: Iterable[str]) -> tuple[str, ...]:
        """Those of the symbols that fall to this shard, in their order; there may be none."""
        return tuple(symbol for symbol in symbols if self.owns(symbol))

    def overlaps(self, other: Shard) -> bool:
        """Whether there can be a symbol that falls to both, whatever symbols are followed.

        From fewer shards to more a symbol keeps its number or goes to one of those that are new.
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
    """SHA-256 and no hash of Python's, which differs from one process to the next.

    Of the ways to write the two together this is one by which the busiest symbols don't meet: BTCUSDT and
    ETHUSDT are apart from two shards on. It must never change: symbols would move at an upgrade.
    """
    return hashlib.sha256(f"{number}-{symbol}".encode()).digest()
