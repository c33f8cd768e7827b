"""Estimate the current time from the records' timestamps, which the producer takes from the exchange's clock.

A candle that no later trade closes is closed by a clock, and this machine's may be wrong. When a record is
read, the time is at least its timestamp. From there this machine's monotonic clock continues.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from candleflow.market.window import SECOND_US

SPAN_SECONDS: Final = 600.0
"""How long a record is used: at least this long, and at most twice as long. This limits the effect of one
wrong timestamp, and of the monotonic clock's drift."""
PATIENCE_SECONDS: Final = 10.0
"""If there is no record for this long after the start, this machine's clock is used."""


class RecordClock:
    """Estimates the time from the records' timestamps; if there are none, from ``wall``.

    ``wall``: this machine's clock, in seconds since the epoch. ``steady``: a monotonic clock in seconds.
    """

    def __init__(
        self, wall: Callable[[], float] = time.time, steady: Callable[[], float] = time.monotonic
    ) -> None:
        self._wall = wall
        self._steady = steady
        self._began_at = self._turned_at = steady()
        self._ahead_us: int | None = None
        """How far the records' time is ahead of the monotonic clock: the maximum over the records."""
        self._ahead_before_us: int | None = None

    def note(self, written_us: int) -> None:
        """Note a record that is read now. It must have been written after this clock was created."""
        now = self._steady()
        if now - self._turned_at > SPAN_SECONDS:
            self._ahead_before_us, self._ahead_us, self._turned_at = self._ahead_us, None, now
        ahead = written_us - _us(now)
        self._ahead_us = ahead if self._ahead_us is None else max(ahead, self._ahead_us)

    def at(self, moment: float) -> int | None:
        """Convert a time of ``steady`` to microseconds since the epoch.

        None in the first ``PATIENCE_SECONDS`` if there is no record yet.
        """
        known = [ahead for ahead in (self._ahead_us, self._ahead_before_us) if ahead is not None]
        if known:
            return _us(moment) + max(known)
        now = self._steady()
        if now - self._began_at < PATIENCE_SECONDS:
            return None
        return _us(self._wall() - (now - moment))


def _us(seconds: float) -> int:
    return round(seconds * SECOND_US)
