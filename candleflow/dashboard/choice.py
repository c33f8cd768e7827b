"""The choices in the page's controls, and the period that a choice covers. Pure: time is an argument."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from candleflow.market.window import SECOND_US, Windows, floor_time

CANDLE_LIMIT: Final = 2_000
"""Maximum candles in one chart. More are narrower than a pixel on most screens, and a message of them is
larger than 200 KB."""

BUCKETS: Final[dict[str, int]] = {
    "5 s": 5, "15 s": 15, "30 s": 30, "1 m": 60, "5 m": 300, "15 m": 900, "1 h": 3_600, "4 h": 14_400,
    "1 d": 86_400,
}  # fmt: skip
AUTO: Final = "Auto"
"""Option of the candle control: the candle length follows from the look-back."""
LOOK_BACKS: Final[dict[str, int | None]] = {
    "5 m": 300, "30 m": 1_800, "1 h": 3_600, "6 h": 21_600, "24 h": 86_400, "7 d": 604_800,
    "30 d": 2_592_000, "1 y": 31_536_000, "All": None,
}  # fmt: skip
DEFAULT_LOOK_BACK: Final = "30 m"
REFRESHES: Final[dict[str, int | None]] = {"1 s": 1, "5 s": 5, "Paused": None}

_PROPOSED_CANDLES: Final = 400
"""Maximum candles where the page chooses the length: each is then several pixels wide on a desktop screen."""


def buckets(windows: Windows) -> dict[str, int]:
    """Return the candle lengths on offer, label to seconds: the window's size first, then multiples of it.

    Sliding windows are offered by their size too: the store returns only those that do not overlap.
    """
    size = windows.size_us // SECOND_US
    base = f"{size // 60} m" if size % 60 == 0 else f"{size} s"
    wider = {label: seconds for label, seconds in BUCKETS.items() if seconds > size and seconds % size == 0}
    return {base: size, **wider}


def proposed(span_seconds: float, offered: Iterable[int]) -> int:
    """Return the shortest candle length that fills the span with at most 400 candles, else the longest."""
    lengths = sorted(offered)
    return next((one for one in lengths if span_seconds <= one * _PROPOSED_CANDLES), lengths[-1])


@dataclass(frozen=True, slots=True)
class Choice:
    """The symbol, candle length and look-back of one chart. ``look_back_seconds`` None: all candles."""

    symbol: str
    bucket_seconds: int
    look_back_seconds: int | None


@dataclass(frozen=True, slots=True)
class Period:
    """The period shown, in microseconds since the epoch. ``since`` None: from the first trade.

    ``is_past``: every trade is older than the look-back, so the period ends at the last trade.
    """

    since: int | None
    until: int
    is_past: bool


def period(choice: Choice, last_trade_time: int, now: int) -> Period:
    """Return the look-back up to ``now``, or up to the last trade if that is older than the whole look-back.

    With the look-back "All", the period ends at the last trade. ``since`` is rounded down to a candle's open
    time, so it changes once per candle length: until then, equal charts send the same query and share one
    answer.
    """
    if choice.look_back_seconds is None:
        return Period(None, max(last_trade_time, 0), is_past=False)
    look_back = choice.look_back_seconds * SECOND_US
    is_past = last_trade_time < now - look_back
    until = last_trade_time if is_past else now
    return Period(floor_time(until - look_back, choice.bucket_seconds * SECOND_US), until, is_past)
