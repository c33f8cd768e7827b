"""The quotes in the strip of symbols: price, change, age, sparkline. Pure: time is an argument, JSON out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

from candleflow.dashboard import words
from candleflow.market.stored import DayOfSymbol, SymbolState
from candleflow.market.window import SECOND_US

STALE_SECONDS: Final = 300
"""The strip shows a last trade's age beyond this. Small markets are often quiet for some minutes."""
SLOT_SECONDS: Final = 900
"""One point of a sparkline: 96 a day, in a line 72 pixels wide."""
_MINUTE: Final = 60
_LETTERS: Final = "0123456789abcdefghijklmnopqrstuvwxyz"

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Sparkline:
    """A line of a symbol's prices over the last day.

    ``heights``: a base-36 digit for each quarter of an hour, 0 for the lowest price and z for the highest.
    ``places``: decimal places that show each of these prices in full.
    """

    places: int
    heights: str


def quotes(
    followed: Sequence[str], states: Sequence[SymbolState], lines: Mapping[str, Sparkline], now: int
) -> Json:
    """Return columns with one element per followed symbol, in that order. ``now`` is in microseconds.

    ``prices``: text, empty before the first trade. ``changes``: hundredths of a percent over ``spans``, None
    if unknown. ``ages``: empty unless the last trade is older than ``STALE_SECONDS``. Columns of plain values
    make the smallest patches.
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
    # The day's start is known to the minute: without the minute added, a full day would read as 23 hours.
    since = None if state.day_opens_at is None else (state.last_trade_time - state.day_opens_at) // SECOND_US
    is_old = now - state.last_trade_time > STALE_SECONDS * SECOND_US
    age = words.age(state.last_trade_time, now) if is_old else ""
    span = "" if since is None else words.span(since + _MINUTE)
    return price, change, span, age, line.heights if line else ""


def sparkline(day: DayOfSymbol) -> Sparkline:
    """Return the line through the day's first open and each quarter-hour's close.

    A quarter-hour without a candle repeats the price before it.
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
