"""A partial candle: what some trades add to a candle, as the store's functions take it.

Any number of partial candles of different trades add up to the candle of them all, in any order. They travel
as the text of an array of rows. It is less than half as long as JSON, which repeats every key, and PostgreSQL
reads it in a quarter of the time.
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

    ``last_trade_time`` is that of its trade of greatest id. ``trade_ids`` is None where no id is missing
    between the first and the last.
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
"""Decimal places, as the processor writes them."""


def of_candle(candle: Candle, last_trade_time: int) -> Partial:
    """``candle`` as a partial candle; ``last_trade_time`` in microseconds."""
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
    """A set of ids as ``Partial.trade_ids`` has it."""
    return None if len(ids.ranges) == 1 else str(ids)


def encode(partial: Partial) -> str:
    """One partial candle as an element of ``array_text``."""
    row = ",".join(["" if value is None else _row_text(str(value)) for value in partial])
    return _quoted(f"({row})")


def array_text(encoded: Iterable[str]) -> str:
    """Encoded partial candles as the text of a ``partial_candle[]``."""
    return f"{{{','.join(encoded)}}}"


def encode_windows(windows: Windows) -> str:
    """The finest windows, as the store's functions take them beside partial candles: one JSON object."""
    return json.dumps(
        {"interval": windows.interval, "size_us": windows.size_us, "slide_us": windows.slide_us}
    )


def _row_text(value: str) -> str:
    return value if _PLAIN.fullmatch(value) else _quoted(value)


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
