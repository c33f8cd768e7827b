"""The exchange's clock, as far as what it last said and a steady clock since then tell it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Final

_log = logging.getLogger(__name__)

WARN_OFFSET_US: Final = 1_000_000
TRUSTED_LAG_US: Final = 3_600_000_000
_STEADY: Final[int] = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
"""Counts on while the machine sleeps: Linux's other clock doesn't, macOS's does."""


def local_us() -> int:
    """This machine's clock, in microseconds since the epoch."""
    return time.time_ns() // 1_000


def steady_us() -> int:
    """A clock that nobody sets, in microseconds."""
    return time.clock_gettime_ns(_STEADY) // 1_000


class ExchangeClock:
    """The exchange's time; without a word from it, this machine's, ``local``.

    Once it has spoken, ``steady`` counts on from there: whoever sets the machine's clock then moves no trade
    into the future. ``trusted_lag_us``: see ``record_ms``.
    """

    def __init__(
        self,
        local: Callable[[], int] = local_us,
        steady: Callable[[], int] = steady_us,
        *,
        trusted_lag_us: int = TRUSTED_LAG_US,
    ) -> None:
        self.local = local
        self.steady = steady
        self._trusted_lag_us = trusted_lag_us
        self._ahead_us: int | None = None
        """Of ``steady``; None where the exchange has said nothing."""

    def correct(self, exchange_us: int, asked_at: int, answered_at: int) -> None:
        """Note the exchange's time, given between two times of ``steady``; warn where ours is far off.

        The error is half the time the answer took at most: NTP's rule (RFC 5905, section 8).
        """
        self._ahead_us = exchange_us - (asked_at + answered_at) // 2
        offset_us = self.now_us() - self.local()
        if abs(offset_us) > WARN_OFFSET_US:
            _log.warning(
                "this machine's clock is %.1f s %s the exchange's: set it by NTP",
                abs(offset_us) / 1e6,
                "behind" if offset_us > 0 else "ahead of",
            )

    def now_us(self) -> int:
        """The present by the exchange's clock: what trade times are judged by."""
        return self.local() if self._ahead_us is None else self.steady() + self._ahead_us

    def record_ms(self) -> int:
        """The present in milliseconds, for a record's timestamp, by which Kafka also ends its retention.

        By our own clock where the exchange's is more than ``trusted_lag_us`` behind it, as where a recording
        tells its own old time: Kafka would delete the record at once.
        """
        present, ours = self.now_us(), self.local()
        return (present if ours - present < self._trusted_lag_us else ours) // 1_000
