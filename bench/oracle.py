"""Compute the expected candles, and compare a contestant's candles with them.

The expected candles are aggregated from the generated trades, in integers of 10^-8 and 10^-16, so nothing is
rounded. The code shares nothing with Candleflow or any contestant. ``tests/unit/bench`` checks it against a
second oracle, which reads the payloads and calculates in fractions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from math import isfinite
from typing import Final, Literal

from bench.topic import WINDOWS, TopicTrade

FIELDS: Final = (
    "open", "high", "low", "close", "volume", "quote_volume", "taker_buy_volume", "taker_buy_quote_volume",
    "trade_count", "first_trade_id", "last_trade_id", "is_complete",
)  # fmt: skip
"""All fields of a candle besides its symbol and open time."""
OHLCV: Final = ("open", "high", "low", "close", "volume", "trade_count")

ROUNDING: Final = Decimal("1e-9")
"""Relative error up to which a sum of doubles counts as rounded, not as wrong."""

Number = Decimal | int | float
Key = tuple[str, datetime]
Expected = Mapping[Key, Mapping[str, Number]]
Judgement = Literal["exact", "nearest", "rounded", "different"]
"""``nearest``: the double nearest to the exact value. ``rounded``: a double within ROUNDING of it."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class Fold:
    """Candles of the trades added so far. Trades may come in any order, each exactly once."""

    def __init__(self) -> None:
        self.trades = 0
        self._candles: dict[tuple[str, int], list[int]] = {}

    def add(self, trade: TopicTrade) -> None:
        symbol, trade_id, time, price, quantity, buyer_is_maker = trade
        self.trades += 1
        quote = price * quantity
        key = (symbol, time - time % WINDOWS.size_us)
        c = self._candles.get(key)
        if c is None:
            c = self._candles[key] = [price, price, price, price, 0, 0, 0, 0, 0, trade_id, trade_id]
        if trade_id < c[9]:
            c[9], c[0] = trade_id, price
        if trade_id > c[10]:
            c[10], c[3] = trade_id, price
        if price > c[1]:
            c[1] = price
        if price < c[2]:
            c[2] = price
        c[4] += quantity
        c[5] += quote
        if not buyer_is_maker:
            c[6] += quantity
            c[7] += quote
        c[8] += 1

    def candles(self) -> dict[Key, dict[str, Number]]:
        """Return each candle's fields by symbol and open time.

        A candle is complete if no id is missing in it or between it and the candle before it.
        """
        found: dict[Key, dict[str, Number]] = {}
        last_id_of: dict[str, int] = {}
        for (symbol, open_time), c in sorted(self._candles.items()):
            places = (8, 8, 8, 8, 8, 16, 8, 16)
            amounts = (Decimal(units).scaleb(-scale) for units, scale in zip(c, places, strict=False))
            count, first, last = c[8:]
            is_complete = count == last - first + 1 and last_id_of.get(symbol) == first - 1
            values: tuple[Number, ...] = (*amounts, count, first, last, is_complete)
            found[symbol, at(open_time)] = dict(zip(FIELDS, values, strict=True))
            last_id_of[symbol] = last
        return found


def at(time_us: int) -> datetime:
    """Convert microseconds since the epoch to a datetime."""
    return _EPOCH + timedelta(microseconds=time_us)


@dataclass
class Verdict:
    """The result of comparing a contestant's candles with the expected ones."""

    expected: int
    """Number of expected candles."""
    missing: int = 0
    extra: int = 0
    fields: dict[str, Counter[Judgement]] = field(default_factory=dict)
    """For each field of the contestant, the number of candles by judgement."""

    @property
    def is_right(self) -> bool:
        """Whether no candle is missing or extra and no field is wrong; rounding of doubles is allowed."""
        wrong = sum(counts["different"] for counts in self.fields.values())
        return self.expected > 0 and not self.missing and not self.extra and not wrong

    @property
    def exact_fields(self) -> list[str]:
        return [name for name, counts in self.fields.items() if counts["exact"] == self.expected]

    def words(self) -> str:
        """Summarize in a line: number of candles, exact fields, and fields that aren't exact."""
        said = [f"{self.expected:,} candles"]
        said += [f"{self.missing:,} missing"] * bool(self.missing) + [f"{self.extra:,} extra"] * bool(
            self.extra
        )
        said.append(f"{len(self.exact_fields)} of {len(self.fields)} fields exact")
        for name, counts in self.fields.items():
            off = [f"{counts[how]:,} {how}" for how in ("nearest", "rounded", "different") if counts[how]]
            if off:
                said.append(f"{name}: {', '.join(off)}")
        return "; ".join(said)


def judge(expected: Number, found: Number | None) -> Judgement:
    """Judge one value. A decimal or integer is exact or different; a double is at best ``nearest``."""
    if found is None:
        return "different"
    if isinstance(found, float):
        exact = Decimal(expected)
        if not isfinite(found) or abs(Decimal(found) - exact) > abs(exact) * ROUNDING:
            return "different"
        return "nearest" if found == float(expected) else "rounded"
    return "exact" if found == expected else "different"


def compare(
    expected: Expected, rows: Iterable[tuple[Key, Mapping[str, Number | None]]], fields: Sequence[str]
) -> Verdict:
    """Compare a contestant's rows with the expected candles; a repeated key counts as extra."""
    verdict = Verdict(len(expected), fields={name: Counter() for name in fields})
    seen: set[Key] = set()
    for key, values in rows:
        if key not in expected or key in seen:
            verdict.extra += 1
            continue
        seen.add(key)
        for name in fields:
            verdict.fields[name][judge(expected[key][name], values[name])] += 1
    verdict.missing = len(expected) - len(seen)
    return verdict
