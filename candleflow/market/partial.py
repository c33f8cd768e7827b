"""A partial candle: what some trades add to a candle, as the store's functions take it, one JSON object each.

Any number of partial candles of different trades add up to the candle of them all, in any order.
"""

from __future__ import annotations

import json
from typing import Any, Final

from candleflow.market.candle import Candle
from candleflow.market.window import Windows

_DECIMALS: Final = (
    "open", "high", "low", "close", "volume", "quote_volume", "taker_buy_volume", "taker_buy_quote_volume",
)  # fmt: skip


def encode(candle: Candle, last_trade_time: int) -> str:
    """``candle`` in the terms of ``merge_batch``: decimals and the set of ids as text.

    ``last_trade_time`` is that of its trade of greatest id, in microseconds.
    """
    return json.dumps(fields(candle) | {"last_trade_time": last_trade_time})


def fields(candle: Candle) -> dict[str, Any]:
    """As ``encode``, before it is text, and without the time of a trade."""
    return {
        "symbol": candle.symbol,
        "open_time": candle.open_time,
        "trade_count": candle.trade_count,
        "first_trade_id": candle.first_trade_id,
        "last_trade_id": candle.last_trade_id,
        "trade_ids": str(candle.trade_ids),
        **{name: f"{getattr(candle, name):f}" for name in _DECIMALS},
    }


def encode_windows(windows: Windows) -> str:
    """The finest windows, as the store's functions take them beside partial candles: one JSON object."""
    return json.dumps(
        {"interval": windows.interval, "size_us": windows.size_us, "slide_us": windows.slide_us}
    )
