"""The exchange's time, computed from its last answer and a monotonic clock since then."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Final

_log = logging.getLogger(__name__)

WARN_OFFSET_US: Final = 1_000_000
TRUSTED_LAG_US: Final = 3_600_000_000
_STEADY: Final[int] = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
"""A monotonic clock that keeps running while the machine sleeps. Linux's CLOCK_MONOTONIC doesn't, macOS's
does."""


def local_us() -> int:
    """Return this machine's time in microseconds since the epoch."""
    return time.time_ns() // 1_000


def steady_us() -> int:
    """Return the time of a clock that can't be set, in microseconds from an arbitrary start."""
    return time.clock_gettime_ns(_STEADY) // 1_000


class ExchangeClock:
    """The exchange's time. Until the exchange has answered, this machine's time (``local``).

    After an answer, the time advances by ``steady``. So setting this machine's clock doesn't make trades
    appear to be in the future. ``trusted_lag_us``: see ``record_ms``.
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
        """How far the exchange's time is ahead of ``steady``; None before the first answer."""

    def correct(self, exchange_us: int, asked_at: int, answered_at: int) -> None:
        """Set the exchange's time; warn if this machine's clock is off by more than 1 s.

        ``asked_at`` and ``answered_at`` are the times of ``steady`` around the request. The error is at most
        half the time between them (NTP's rule, RFC 5905 section 8).
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
        """Return the exchange's current time, by which trade times are checked."""
        return self.local() if self._ahead_us is None else self.steady() + self._ahead_us

    def record_ms(self) -> int:
        """Return the current time in milliseconds, for a record's timestamp.

        Kafka's retention uses this timestamp. If the exchange's time is more than ``trusted_lag_us`` behind
        this machine's, as with an old recording, Kafka would delete the record at once. Then this machine's
        time is used.
        """
        present, ours = self.now_us(), self.local()
        return (present if ours - present < self._trusted_lag_us else ours) // 1_000
