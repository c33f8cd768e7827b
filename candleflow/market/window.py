"""Windows and intervals: the ranges of time that a trade belongs to.

A window is half-open, ``[open_time, open_time + size)``, and aligned to the epoch in UTC. A trade belongs to
it by its trade time ``T``, which is Binance's rule for klines; with the event time ``E``, 16 of 262 recorded
candles would differ. All times are microseconds since the epoch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from candleflow.errors import MarketError

SECOND_US: Final = 1_000_000
DAY_US: Final = 86_400 * SECOND_US

ROLL_UPS: Final[dict[str, int]] = {"1m": 60, "5m": 300, "15m": 900, "1h": 3_600, "1d": 86_400}
"""The stored roll-ups: interval name to seconds, the shortest first. Each divides the next."""

WINDOW_SECONDS: Final = (1, 2, 3, 4, 5, 6, 10, 12, 15, 20, 30, 60)
"""The allowed window sizes: the divisors of a minute, so that windows fit exactly into roll-ups."""


def floor_time(time: int, size_us: int) -> int:
    """Return the open time of the tumbling window of ``size_us`` that contains ``time``."""
    return time - time % size_us


@dataclass(frozen=True, slots=True)
class Windows:
    """The windows of one interval: each is ``size_us`` long, and one begins every ``slide_us``.

    They are tumbling if both are equal, and sliding if ``slide_us`` is a smaller divisor of ``size_us``.
    """

    size_us: int
    slide_us: int

    def __post_init__(self) -> None:
        if not 0 < self.slide_us <= self.size_us or self.size_us % self.slide_us:
            raise MarketError(f"a slide of {self.slide_us} us does not divide a window of {self.size_us} us")

    @classmethod
    def of_seconds(cls, size: int, slide: int | None = None) -> Windows:
        return cls(size * SECOND_US, (slide or size) * SECOND_US)

    @property
    def interval(self) -> str:
        """The interval's name: ``5s``, or ``5s/1s`` for windows of 5 s that begin each second."""
        size, slide = self.size_us // SECOND_US, self.slide_us // SECOND_US
        return f"{size}s" if self.is_tumbling else f"{size}s/{slide}s"

    @property
    def is_tumbling(self) -> bool:
        return self.size_us == self.slide_us

    def open_times(self, trade_time: int) -> Iterator[int]:
        """Return the open times of all windows that contain ``trade_time``, the latest first."""
        latest = floor_time(trade_time, self.slide_us)
        return iter(range(latest, latest - self.size_us, -self.slide_us))


def roll_up_windows(interval: str) -> Windows:
    """Return the windows of a stored roll-up such as ``1m``. Raises KeyError for another name."""
    return Windows.of_seconds(ROLL_UPS[interval])
