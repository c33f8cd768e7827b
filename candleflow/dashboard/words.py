"""Times, prices and changes as the page's text. Pure: time is an argument, nothing here is HTML."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from itertools import pairwise
from typing import Final

from candleflow.market.stored import StoredCandle
from candleflow.market.window import SECOND_US

MINUS: Final = "\N{MINUS SIGN}"
_UNITS: Final = ((86_400, "day"), (3_600, "hour"), (60, "minute"), (1, "second"))


def utc(time: int) -> str:
    """Format a time in microseconds as ``2024-08-08 12:34:56 UTC``."""
    return f"{datetime.fromtimestamp(time // SECOND_US, UTC):%Y-%m-%d %H:%M:%S} UTC"


def escape_markdown(text: str) -> str:
    """Escape ``text`` so that Markdown shows it literally."""
    return "".join(f"\\{letter}" if letter in r"\`*_{}[]()<>#+-.!|~$:" else letter for letter in text)


def span(seconds: int) -> str:
    """Format seconds in their largest unit, rounded down: ``1 second``, ``30 minutes``, ``7 days``."""
    for size, name in _UNITS:
        count = seconds // size
        if count:
            return f"{count:,} {name}" + ("s" if count > 1 else "")
    return "0 seconds"


def age(time: int, now: int) -> str:
    """Format a trade's age, such as ``5 minutes ago``. Both times are in microseconds.

    Up to 1 s in the future is ``now``: the clocks of the exchange and this machine may differ by that.
    Further ahead, one of the clocks is wrong, and the text says so.
    """
    seconds = (now - time) // SECOND_US
    if seconds < -1:
        return f"{span(-seconds)} ahead of this machine's clock"
    return "now" if seconds < 1 else f"{span(seconds)} ago"


def places(candles: Sequence[StoredCandle]) -> int:
    """Return the decimal places that show the candles' prices in full: at least 2, no trailing zeros."""
    return price_places(price for one in candles for price in (one.open, one.high, one.low, one.close))


def price_places(prices: Iterable[Decimal]) -> int:
    """Return the decimal places that show each price in full: at least 2, no trailing zeros."""
    shown = 2
    for price in prices:
        while round(price, shown) != price:
            shown += 1
    return shown


def price(value: Decimal, decimal_places: int) -> str:
    return f"{value:,.{decimal_places}f}"


def change(candles: Sequence[StoredCandle], decimal_places: int) -> tuple[str, int]:
    """Return the change from first open to last close, as ``+12.50 (+0.02 %)``, and its sign: -1, 0 or 1."""
    first, last = candles[0].open, candles[-1].close
    difference = last - first
    percent = 100 * difference / first
    sign = (difference > 0) - (difference < 0)
    mark = ("", "+", MINUS)[sign]
    return f"{mark}{abs(difference):,.{decimal_places}f} ({mark}{abs(percent):.2f} %)", sign


def missing_trades(candles: Sequence[StoredCandle]) -> int:
    """Return how many trade ids between the candles' first and last id are in no candle."""
    inside = [one.last_trade_id - one.first_trade_id + 1 - one.trade_count for one in candles]
    between = [later.first_trade_id - one.last_trade_id - 1 for one, later in pairwise(candles)]
    return sum(inside) + sum(between)
