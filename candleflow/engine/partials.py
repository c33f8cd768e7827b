"""From the rows of a fold to the partial candles that PostgreSQL merges: the driver adds up a few rows."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import reduce
from typing import Any, Final, TypeAlias

from pyspark.sql import Row

from candleflow.engine.candles import BLOCK_SIZE, SUMS
from candleflow.engine.recent_latency import LiveTrades
from candleflow.engine.trades import REFUSAL
from candleflow.market.trade import EXACT
from candleflow.market.trade_ids import TradeIds
from candleflow.market.window import Windows

_ALL_BITS: Final = (1 << BLOCK_SIZE) - 1
_ZERO: Final = Decimal(0)

_Ids: TypeAlias = tuple[int, int]
"""A block and the bits of those of its ids that are there, none of them negative."""


@dataclass(frozen=True, slots=True)
class Folded:
    """One batch on the driver."""

    partials: list[str]
    """Its candles, one JSON object each, as ``merge_batch`` takes them."""
    sound: int
    """Records that are trades, repeated ones counted again."""
    trades: int
    """Different trades."""
    rejected: Mapping[str, int]
    """Refused records by reason."""
    written_at: int
    """When the last of the trades was written to the topic, microseconds since the epoch; 0 without any."""
    live: Sequence[LiveTrades]
    """Those that the stream brought, as opposed to what was fetched later; repeated ones counted again."""

    @property
    def has_repeats(self) -> bool:
        """Whether a trade came twice: then ``partials`` are of no use, unless they were folded without it."""
        return self.sound != self.trades


def read_fold(rows: Iterable[Row], windows: Windows) -> Folded:
    """The rows of a ``CandleFold`` for ``windows``, collected, as one batch."""
    rejected: dict[str, int] = {}
    seen: dict[tuple[str, int], int] = defaultdict(int)
    candles: dict[tuple[str, int], list[Row]] = defaultdict(list)
    live: list[LiveTrades] = []
    sound = written_at = 0
    for row in rows:
        if row[REFUSAL] is not None:
            rejected[row[REFUSAL]] = row["records"]
            continue
        sound += row["records"]
        written_at = max(written_at, row["written_at"])
        seen[row["symbol"], row["block"]] |= row["bits"] & _ALL_BITS
        if row["live"]:
            live.append(LiveTrades(row["first_live_time"], row["last_trade_time"], row["live"]))
        for back in range(0, windows.size_us, windows.slide_us):
            candles[row["symbol"], row["open_time"] - back].append(row)
    # Sliding windows over the first seconds of 1970 open before it, where the store has no candles.
    partials = [json.dumps(_partial(*key, rows)) for key, rows in candles.items() if key[1] >= 0]
    trades = sum(bits.bit_count() for bits in seen.values())
    return Folded(partials, sound, trades, rejected, written_at, live)


def _partial(symbol: str, open_time: int, rows: Sequence[Row]) -> dict[str, Any]:
    """One candle in the terms of ``merge_batch``: decimals and the set of ids as text."""
    ids = [(row["block"], row["bits"] & _ALL_BITS) for row in rows]
    first = min(range(len(rows)), key=lambda at: _first_id(ids[at]))
    last = max(range(len(rows)), key=lambda at: _last_id(ids[at]))
    decimals = {
        "open": rows[first]["open"],
        "high": max(row["high"] for row in rows),
        "low": min(row["low"] for row in rows),
        "close": rows[last]["close"],
        **_volumes(rows, ""),
        **_volumes(rows, "taker_buy_"),
    }
    return {
        "symbol": symbol,
        "open_time": open_time,
        "last_trade_time": rows[last]["last_trade_time"],
        "trade_count": sum(bits.bit_count() for _, bits in ids),
        "first_trade_id": _first_id(ids[first]),
        "last_trade_id": _last_id(ids[last]),
        "trade_ids": str(_trade_ids(ids)),
        **{name: f"{value:f}" for name, value in decimals.items()},
    }


def _volumes(rows: Sequence[Row], prefix: str) -> dict[str, Decimal]:
    volume, whole, fraction = (
        reduce(EXACT.add, (row[f"{prefix}{name}"] or _ZERO for row in rows), _ZERO) for name in SUMS
    )
    return {f"{prefix}volume": volume, f"{prefix}quote_volume": EXACT.add(whole, fraction)}


def _trade_ids(ids: Iterable[_Ids]) -> TradeIds:
    found = TradeIds()
    for block, bits in sorted(ids):
        for lower, upper in _runs(bits):
            found.add_range(block * BLOCK_SIZE + lower, block * BLOCK_SIZE + upper)
    return found


def _first_id(ids: _Ids) -> int:
    block, bits = ids
    return block * BLOCK_SIZE + (bits & -bits).bit_length() - 1


def _last_id(ids: _Ids) -> int:
    block, bits = ids
    return block * BLOCK_SIZE + bits.bit_length() - 1


def _runs(bits: int) -> Iterator[tuple[int, int]]:
    """The runs of ones of a number, from its lowest bit on, as half-open ranges."""
    at = 0
    while bits:
        zeros = (bits & -bits).bit_length() - 1
        bits >>= zeros
        ones = (~bits & (bits + 1)).bit_length() - 1
        bits >>= ones
        at += zeros
        yield at, at + ones
        at += ones
