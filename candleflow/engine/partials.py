"""From the rows of a fold, on the driver, to the partial candles that PostgreSQL merges.

Python's integers have no limit, so what Spark summed in several longs is put together here, exactly.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from pyspark.sql import Row

from candleflow.engine.candles import BLOCK_SIZE, FRACTIONS, HALF_PRICE_LIMIT, QUOTE_VOLUMES, VOLUMES
from candleflow.engine.trades import REFUSAL
from candleflow.market.trade import DECIMAL_PLACES
from candleflow.market.trade_ids import TradeIds

_AS_THEY_ARE: Final = (
    "symbol", "open_time", "last_trade_time", "trade_count", "first_trade_id", "last_trade_id",
)  # fmt: skip
_PRICES: Final = ("open", "high", "low", "close")


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
    has_repeats: bool
    """Whether a trade may have come twice: then ``partials`` are of no use."""


def read_fold(rows: Iterable[Row]) -> Folded:
    """The rows of a ``CandleFold``, collected, as one batch."""
    rejected: dict[str, int] = {}
    panes: dict[tuple[str, int], Row] = {}
    partials = []
    for row in rows:
        if row[REFUSAL] is not None:
            rejected[row[REFUSAL]] = row["records"]
            continue
        panes |= {(row["symbol"], pane["open_time"]): pane for pane in row["panes"]}
        # Sliding windows over the first seconds of 1970 open before it, where the store has no candles.
        if row["open_time"] >= 0:
            partials.append(json.dumps(partial(row)))
    return Folded(
        partials,
        sum(pane["records"] for pane in panes.values()),
        sum(pane["trade_count"] for pane in panes.values()),
        rejected,
        _may_have_repeats(panes),
    )


def partial(row: Row) -> dict[str, Any]:
    """One candle in the terms of ``merge_batch``: decimals and the set of ids as text."""
    found: dict[str, Any] = {name: row[name] for name in _AS_THEY_ARE}
    for name in _PRICES:
        found[name] = _plain(row[name] + HALF_PRICE_LIMIT * FRACTIONS, DECIMAL_PLACES)
    for name in VOLUMES:
        units = row[f"{name}_whole"] * FRACTIONS + row[f"{name}_fraction"]
        found[name] = _plain(units, DECIMAL_PLACES)
    for name in QUOTE_VOLUMES:
        units = sum(row[f"{name}_e{power}"] * 10**power for power in (28, 16, 8, 0))
        found[name] = _plain(units, 2 * DECIMAL_PLACES)
    found["trade_ids"] = str(_ids(row))
    return found


def _plain(units: int, places: int) -> str:
    whole, fraction = divmod(units, 10**places)
    return f"{whole}.{fraction:0{places}d}"


def _ids(row: Row) -> TradeIds:
    ids = TradeIds()
    if row["blocks"] is None:
        ids.add_range(row["first_trade_id"], row["last_trade_id"] + 1)
        return ids
    for block in sorted(row["blocks"]):
        lowest = block["block"] * BLOCK_SIZE
        for lower, upper in _runs(block["bits"] % (1 << BLOCK_SIZE)):
            ids.add_range(lowest + lower, lowest + upper)
    return ids


def _runs(bits: int) -> Iterable[tuple[int, int]]:
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


def _may_have_repeats(panes: Mapping[tuple[str, int], Row]) -> bool:
    """Whether a pane has more records than ids, or the spans of two panes of a symbol overlap.

    The second may be without a trade that came twice, where times go back as ids go on: hence "may".
    """
    last_ids: dict[str, int] = {}
    for (symbol, _), pane in sorted(panes.items(), key=lambda one: (one[0][0], one[1]["first_trade_id"])):
        if pane["records"] != pane["trade_count"] or pane["first_trade_id"] <= last_ids.get(symbol, -1):
            return True
        last_ids[symbol] = pane["last_trade_id"]
    return False
