"""Partial candles: the aggregate of some of a candle's trades, in the form that the store's functions take.

Partial candles of different trades can be merged in any order. They are sent to PostgreSQL as the text of an
array of rows. That is less than half as long as JSON, which repeats every key, and PostgreSQL parses it in a
quarter of the time.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Final, NamedTuple

from candleflow.market.candle import Candle
from candleflow.market.trade import DECIMAL_PLACES
from candleflow.market.trade_ids import TradeIds
from candleflow.market.window import Windows

_PLAIN: Final = re.compile(r"[A-Za-z0-9.]+")


class Partial(NamedTuple):
    """The fields of the store's type ``partial_candle``, in its order. Times are microseconds, decimals text.

    ``last_trade_time`` is the time of the trade with the greatest id. ``trade_ids`` is None if no id is
    missing between the first and the last.
    """

    symbol: str
    open_time: int
    last_trade_time: int
    trade_count: int
    first_trade_id: int
    last_trade_id: int
    trade_ids: str | None
    open: str
    high: str
    low: str
    close: str
    volume: str
    quote_volume: str
    taker_buy_volume: str
    taker_buy_quote_volume: str


_PLACES: Final[dict[str, int]] = {
    **dict.fromkeys(("open", "high", "low", "close", "volume"), DECIMAL_PLACES),
    "quote_volume": 2 * DECIMAL_PLACES,
    "taker_buy_volume": DECIMAL_PLACES,
    "taker_buy_quote_volume": 2 * DECIMAL_PLACES,
}
"""The number of decimal places of each amount."""


def of_candle(candle: Candle, last_trade_time: int) -> Partial:
    """Convert ``candle`` to a partial candle; ``last_trade_time`` is in microseconds."""
    return Partial(
        candle.symbol,
        candle.open_time,
        last_trade_time,
        candle.trade_count,
        candle.first_trade_id,
        candle.last_trade_id,
        ids_text(candle.trade_ids),
        *(f"{getattr(candle, name):.{places}f}" for name, places in _PLACES.items()),
    )


def ids_text(ids: TradeIds) -> str | None:
    """Format a set of ids for ``Partial.trade_ids``: None for a single range."""
    return None if len(ids.ranges) == 1 else str(ids)


def encode(partial: Partial) -> str:
    """Encode one partial candle as an element for ``array_text``."""
    row = ",".join(["" if value is None else _row_text(str(value)) for value in partial])
    return _quoted(f"({row})")


def array_text(encoded: Iterable[str]) -> str:
    """Join encoded partial candles into the text of a ``partial_candle[]``."""
    return f"{{{','.join(encoded)}}}"


def encode_windows(windows: Windows) -> str:
    """Encode the finest windows as the JSON object that the store's functions take."""
    return json.dumps(
        {"interval": windows.interval, "size_us": windows.size_us, "slide_us": windows.slide_us}
    )


def _row_text(value: str) -> str:
    return value if _PLAIN.fullmatch(value) else _quoted(value)


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
