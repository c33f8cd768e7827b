"""Figures in the words and digits that the page shows. Pure: time is an argument, nothing here is HTML."""

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
    """A time in microseconds as ``2024-08-08 12:34:56 UTC``."""
    return f"{datetime.fromtimestamp(time // SECOND_US, UTC):%Y-%m-%d %H:%M:%S} UTC"


def escape_markdown(text: str) -> str:
    """``text`` such that Markdown shows it as it is."""
    return "".join(f"\\{letter}" if letter in r"\`*_{}[]()<>#+-.!|~$:" else letter for letter in text)


def span(seconds: int) -> str:
    """Whole seconds in their largest unit, rounded down: ``1 second``, ``30 minutes``, ``7 days``."""
    for size, name in _UNITS:
        count = seconds // size
        if count:
            return f"{count:,} {name}" + ("s" if count > 1 else "")
    return "0 seconds"


def age(time: int, now: int) -> str:
    """How long before ``now`` a trade was; both in microseconds.

    A trade dated up to a second ahead is ``now``: the exchange's clock and this machine's differ by that.
    Further ahead it is said to be ahead, as then one of the clocks is wrong.
    """
    seconds = (now - time) // SECOND_US
    if seconds < -1:
        return f"{span(-seconds)} ahead of this machine's clock"
    return "now" if seconds < 1 else f"{span(seconds)} ago"


def places(candles: Sequence[StoredCandle]) -> int:
    """Decimal places that show every price of the candles in full, 2 at least; trailing zeros don't count."""
    return price_places(price for one in candles for price in (one.open, one.high, one.low, one.close))


def price_places(prices: Iterable[Decimal]) -> int:
    """Decimal places that show each of the prices in full, 2 at least; trailing zeros don't count."""
    shown = 2
    for price in prices:
        while round(price, shown) != price:
            shown += 1
    return shown


def price(value: Decimal, decimal_places: int) -> str:
    return f"{value:,.{decimal_places}f}"


def change(candles: Sequence[StoredCandle], decimal_places: int) -> tuple[str, int]:
    """From the first open to the last close, such as ``+12.50 (+0.02 %)``, and its sign: -1, 0 or 1."""
    first, last = candles[0].open, candles[-1].close
    difference = last - first
    percent = 100 * difference / first
    sign = (difference > 0) - (difference < 0)
    mark = ("", "+", MINUS)[sign]
    return f"{mark}{abs(difference):,.{decimal_places}f} ({mark}{abs(percent):.2f} %)", sign


def missing_trades(candles: Sequence[StoredCandle]) -> int:
    """How many trade ids between the first and the last of the candles are in none of them."""
    inside = [one.last_trade_id - one.first_trade_id + 1 - one.trade_count for one in candles]
    between = [later.first_trade_id - one.last_trade_id - 1 for one, later in pairwise(candles)]
    return sum(inside) + sum(between)
