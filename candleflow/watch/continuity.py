"""Holes in the trade ids that the candles have: which of them are news. No I/O, and no clock of its own."""

from __future__ import annotations

from collections.abc import Iterable

from candleflow.market.trade_ids import TradeIds

Ranges = tuple[tuple[int, int], ...]
"""Of trade ids, ``[lower, upper)`` each, in order."""


def unknown_holes(held: Iterable[tuple[int, int]], known: Iterable[tuple[int, int]]) -> Ranges:
    """The ids missing between the first and the last of ``held``, less those of ``known``.

    All ranges are half-open, ``[lower, upper)``, in any order.
    """
    ids, holes = TradeIds(), TradeIds()
    for lower, upper in held:
        ids.add_range(lower, upper)
    for lower, upper in ids.holes():
        holes.add_range(lower, upper)
    for lower, upper in known:
        holes.remove_range(lower, upper)
    return holes.ranges
