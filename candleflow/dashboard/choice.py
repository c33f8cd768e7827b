"""What the viewer may choose, and what a choice asks the store for. Pure: time is an argument."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from candleflow.market.window import SECOND_US, Windows, floor_time

CANDLE_LIMIT: Final = 2_000
"""Candles drawn at most: more are narrower than a pixel on most screens, and a refresh outgrows 200 KB."""

BUCKETS: Final[dict[str, int]] = {
    "5 s": 5, "15 s": 15, "30 s": 30, "1 m": 60, "5 m": 300, "15 m": 900, "1 h": 3_600, "4 h": 14_400,
    "1 d": 86_400,
}  # fmt: skip
AUTO: Final = "Auto"
"""In place of a candle's length: that which suits the look-back."""
LOOK_BACKS: Final[dict[str, int | None]] = {
    "5 m": 300, "30 m": 1_800, "1 h": 3_600, "6 h": 21_600, "24 h": 86_400, "7 d": 604_800,
    "30 d": 2_592_000, "1 y": 31_536_000, "All": None,
}  # fmt: skip
DEFAULT_LOOK_BACK: Final = "30 m"
REFRESHES: Final[dict[str, int | None]] = {"1 s": 1, "5 s": 5, "Paused": None}

_PROPOSED_CANDLES: Final = 400
"""So many, or as few below as there is a length for: each is then some pixels wide on a desktop's screen."""


def buckets(windows: Windows) -> dict[str, int]:
    """Label to seconds of the candles on offer: the base window, then its multiples. The first is the base.

    Of sliding windows the store shows those that tile time, so they too are offered by their size.
    """
    size = windows.size_us // SECOND_US
    base = f"{size // 60} m" if size % 60 == 0 else f"{size} s"
    wider = {label: seconds for label, seconds in BUCKETS.items() if seconds > size and seconds % size == 0}
    return {base: size, **wider}


def proposed(span_seconds: float, offered: Iterable[int]) -> int:
    """The shortest of the candles on offer of which no more than 400 fill the span; or else the longest."""
    lengths = sorted(offered)
    return next((one for one in lengths if span_seconds <= one * _PROPOSED_CANDLES), lengths[-1])


@dataclass(frozen=True, slots=True)
class Choice:
    """What one viewer looks at. ``look_back_seconds`` is None for everything there is."""

    symbol: str
    bucket_seconds: int
    look_back_seconds: int | None


@dataclass(frozen=True, slots=True)
class Period:
    """The stretch shown, in microseconds; ``since`` is None for "from the first trade".

    ``is_past`` says that it ends at the last trade, because every trade is older than the look-back.
    """

    since: int | None
    until: int
    is_past: bool


def period(choice: Choice, last_trade_time: int, now: int) -> Period:
    """The look-back taken from ``now``; from the last trade where that is older than the whole look-back.

    ``since`` is the open time of a candle, so that for the length of a bucket every viewer asks the same.
    """
    if choice.look_back_seconds is None:
        return Period(None, max(last_trade_time, 0), is_past=False)
    look_back = choice.look_back_seconds * SECOND_US
    is_past = last_trade_time < now - look_back
    until = last_trade_time if is_past else now
    return Period(floor_time(until - look_back, choice.bucket_seconds * SECOND_US), until, is_past)
