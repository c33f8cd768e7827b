"""What the strip of symbols shows of each. Pure: time is an argument, and plain JSON comes out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

from candleflow.dashboard import words
from candleflow.market.stored import DayOfSymbol, SymbolState
from candleflow.market.window import SECOND_US

STALE_SECONDS: Final = 300
"""A last trade older than so is said to be old: a small market is quiet for minutes at any time."""
SLOT_SECONDS: Final = 900
"""Of a day that makes 96 slots, which a line 72 pixels wide shows all there is of."""
_MINUTE: Final = 60
_LETTERS: Final = "0123456789abcdefghijklmnopqrstuvwxyz"

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Sparkline:
    """A symbol's last day in small.

    ``heights``: a letter for each quarter of an hour, 0 at the lowest price and z at the highest;
    ``places``: decimal places that show every price of them in full.
    """

    places: int
    heights: str


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


def sparkline(day: DayOfSymbol) -> Sparkline:
    """The line from the day's first open over each close.

    A quarter of an hour without a candle has the price before it, as nothing was traded, or nothing is known.
    """
    slot_us = SLOT_SECONDS * SECOND_US
    prices = [day.first_open, day.closes[0]]
    for before, at, close in zip(day.open_times, day.open_times[1:], day.closes[1:], strict=False):
        prices += [prices[-1]] * ((at - before) // slot_us - 1)
        prices.append(close)
    return Sparkline(words.price_places(prices), _heights(prices))


def _heights(prices: Sequence[Decimal]) -> str:
    lowest, highest = min(prices), max(prices)
    if lowest == highest:
        return _LETTERS[len(_LETTERS) // 2] * len(prices)
    scale = (len(_LETTERS) - 1) / float(highest - lowest)
    return "".join(_LETTERS[round(float(price - lowest) * scale)] for price in prices)
