"""What the strip of symbols shows of each. Pure: time is an argument, and plain JSON comes out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from candleflow.dashboard import words
from candleflow.dashboard.source import Sparkline, SymbolState
from candleflow.market.window import SECOND_US

STALE_SECONDS: Final = 300
"""A last trade older than so is said to be old: a small market is quiet for minutes at any time."""
_MINUTE: Final = 60

Json = dict[str, Any]


def quotes(
    followed: Sequence[str], states: Sequence[SymbolState], lines: Mapping[str, Sparkline], now: int
) -> Json:
    """Of each symbol followed, in that order, one item in every list; ``now`` is in microseconds.

    ``prices`` are as they are written, empty before the first trade; ``changes`` in hundredths of a percent
    over ``spans``, None where unknown; ``ages`` empty but where the last trade is old. Lists of plain values,
    as what changes of them travels in the fewest bytes.
    """
    by_symbol = {state.symbol: state for state in states}
    rows = [_quote(by_symbol.get(one), lines.get(one), now) for one in followed]
    names = ("prices", "changes", "spans", "ages", "heights")
    columns = zip(*rows, strict=True) if rows else ((),) * len(names)
    return {"symbols": list(followed)} | {
        name: list(values) for name, values in zip(names, columns, strict=True)
    }


def _quote(
    state: SymbolState | None, line: Sparkline | None, now: int
) -> tuple[str, int | None, str, str, str]:
    if state is None:
        return "", None, "", "", ""
    price_places = words.price_places([state.last_price])
    price = words.price(state.last_price, max(price_places, line.places if line else 0))
    change = None if state.day_change is None else round(10_000 * state.day_change)
    # What it is since is known to the minute, and may so be a minute short of a day.
    since = None if state.day_opens_at is None else (state.last_trade_time - state.day_opens_at) // SECOND_US
    is_old = now - state.last_trade_time > STALE_SECONDS * SECOND_US
    age = words.age(state.last_trade_time, now) if is_old else ""
    span = "" if since is None else words.span(since + _MINUTE)
    return price, change, span, age, line.heights if line else ""
