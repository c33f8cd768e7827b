"""How late it is by the records' own time, which is the producer's clock as the exchange sets it.

A candle that no later trade closes is closed by a clock, and this machine's may be wrong. A record bears the
time at which it was written: when it is read it is at least so late, and from there a steady clock counts on.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from candleflow.market.window import SECOND_US

SPAN_SECONDS: Final = 600.0
"""A record tells for so long at least, and for twice as long at most: then one wrong record is forgotten, and
so is what a steady clock has gone wrong since."""
PATIENCE_SECONDS: Final = 10.0
"""Where no record tells for so long from the beginning, this machine's clock does."""


class RecordClock:
    """``wall`` in seconds since the epoch, ``steady`` in seconds; only the first may jump."""

    def __init__(
        self, wall: Callable[[], float] = time.time, steady: Callable[[], float] = time.monotonic
    ) -> None:
        self._wall = wall
        self._steady = steady
        self._began_at = self._turned_at = steady()
        self._ahead_us: int | None = None
        """How far the records' time is ahead of the steady clock's: the most that any of them says."""
        self._ahead_before_us: int | None = None

    def note(self, written_us: int) -> None:
        """A record that was written then, after this clock was made, has been read just now."""
        now = self._steady()
        if now - self._turned_at > SPAN_SECONDS:
            self._ahead_before_us, self._ahead_us, self._turned_at = self._ahead_us, None, now
        ahead = written_us - _us(now)
        self._ahead_us = ahead if self._ahead_us is None else max(ahead, self._ahead_us)

    def at(self, moment: float) -> int | None:
        """The time at a moment of ``steady``, in microseconds since the epoch; None while none tells it."""
        told = [ahead for ahead in (self._ahead_us, self._ahead_before_us) if ahead is not None]
        if told:
            return _us(moment) + max(told)
        now = self._steady()
        if now - self._began_at < PATIENCE_SECONDS:
            return None
        return _us(self._wall() - (now - moment))


def _us(seconds: float) -> int:
    return round(seconds * SECOND_US)
