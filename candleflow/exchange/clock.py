"""The exchange's clock, as far as this machine's clock and the offset between them tell it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Final

_log = logging.getLogger(__name__)

WARN_OFFSET_US: Final = 1_000_000
LARGEST_TRUSTED_OFFSET_US: Final = 3_600_000_000
"""Kafka refuses records dated more than an hour ahead of its own clock (message.timestamp.after.max.ms)."""


def local_us() -> int:
    """This machine's clock, in microseconds since the epoch."""
    return time.time_ns() // 1_000


class ExchangeClock:
    """``local`` corrected by what the exchange last said; without a word from it, ``local`` itself."""

    def __init__(self, local: Callable[[], int] = local_us) -> None:
        self.local = local
        self._offset_us = 0

    @property
    def offset_us(self) -> int:
        """How far the exchange's clock is ahead of ours."""
        return self._offset_us

    def correct(self, exchange_us: int, asked_at: int, answered_at: int) -> None:
        """Note the exchange's time, which it gave between two times of ours; warn where ours is far off.

        The error is half the time the answer took at most: NTP's rule (RFC 5905, section 8).
        """
        self._offset_us = exchange_us - (asked_at + answered_at) // 2
        if abs(self._offset_us) > WARN_OFFSET_US:
            _log.warning(
                "this machine's clock is %.1f s %s the exchange's: set it by NTP",
                abs(self._offset_us) / 1e6,
                "behind" if self._offset_us > 0 else "ahead of",
            )

    def now_us(self) -> int:
        """The present by the exchange's clock: what trade times are judged by."""
        return self.local() + self._offset_us

    def record_ms(self) -> int:
        """The present in milliseconds, for a record's timestamp, by which Kafka also ends its retention.

        By our own clock where the exchange's is so far from it that Kafka would refuse the record or, for a
        recording that tells its own old time, delete it at once.
        """
        is_trusted = abs(self._offset_us) < LARGEST_TRUSTED_OFFSET_US
        return (self.now_us() if is_trusted else self.local()) // 1_000
