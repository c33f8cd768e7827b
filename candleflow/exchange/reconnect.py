"""Rules for connecting to the exchange: when to connect, when to replace a connection, how long to wait.

The rules have no clock and no random generator: times are arguments, in seconds of any monotonic clock, and
random numbers come from the caller. Binance's limits (binance-spot-api-docs):

- 300 connection attempts per 5 minutes and address, and connections that last at most 24 hours
  (web-socket-streams.md, "General WSS information");
- bans of 2 minutes to 3 days after HTTP 418 (rest-api.md, "LIMITS").
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from enum import StrEnum
from typing import Final

from candleflow.backoff import Backoff

ATTEMPTS_LIMIT: Final = 300
ATTEMPTS_PERIOD_SECONDS: Final = 300.0
STABLE_SECONDS: Final = 60.0
"""A connection that delivered data for this long counts as stable."""
LONGEST_BAN_SECONDS: Final = 3 * 86_400.0
SHORTEST_BAN_SECONDS: Final = 1.0
"""Also used if ``Retry-After`` is 0, or a time in the past by this machine's clock."""
_BAN_SECONDS: Final = {418: 120.0, 429: 60.0}
"""How long to wait if the answer has no ``Retry-After``."""


class Why(StrEnum):
    """Why a connection is replaced, in words for the log."""

    LIFETIME = "its maximum lifetime is reached"
    SILENCE = "it has delivered no data for too long"
    SHUTDOWN = "the exchange has announced that it will close it"
    CLOSED = "it was closed"


def delay_after(backoff: Backoff, why: Why, useful_seconds: float) -> float:
    """Return the seconds to wait before replacing a connection; 0 if its lifetime ended or it was stable.

    ``useful_seconds``: the time from its first message to its last. The backoff is reset only after a stable
    connection, not when one opens. Otherwise an exchange that accepts and drops connections would be retried
    without a pause.
    """
    if useful_seconds >= STABLE_SECONDS:
        backoff.reset()
        return 0.0
    return 0.0 if why is Why.LIFETIME else backoff.next_delay()


class AttemptLimit:
    """Allows ``limit`` attempts in any ``period_seconds``, none during a ban; shared by all connections."""

    def __init__(self, limit: int = ATTEMPTS_LIMIT, period_seconds: float = ATTEMPTS_PERIOD_SECONDS) -> None:
        self._limit = limit
        self._period = period_seconds
        self._attempts: deque[float] = deque(maxlen=limit)
        self._banned_until = float("-inf")

    def wait_seconds(self, now: float) -> float:
        """Return the seconds until an attempt is allowed; 0 if it is allowed now."""
        free_at = self._banned_until
        if len(self._attempts) == self._limit:
            free_at = max(free_at, self._attempts[0] + self._period)
        return max(0.0, free_at - now)

    def attempted(self, now: float) -> None:
        self._attempts.append(now)

    def ban(self, now: float, seconds: float) -> None:
        self._banned_until = max(self._banned_until, now + seconds)


@dataclass(frozen=True, slots=True)
class Rotation:
    """When to replace a connection that is still open."""

    lifetime_seconds: float
    silence_seconds: float

    def spread(self, random: float) -> Rotation:
        """Return the rule with a lifetime up to 5 % shorter.

        So connections that were opened together are not replaced together.
        """
        return Rotation(self.lifetime_seconds * (1 - 0.05 * random), self.silence_seconds)

    def due_in(self, opened_at: float, quiet_since: float | None, now: float) -> tuple[float, Why]:
        """Return the seconds until the connection is due for replacement (0 or less: now), and the reason.

        ``quiet_since``: when it last delivered data. None while its last message is still being processed:
        then the silence is caused by this side and doesn't count.
        """
        lifetime_left = opened_at + self.lifetime_seconds - now
        silence_left = (now if quiet_since is None else quiet_since) + self.silence_seconds - now
        if silence_left < lifetime_left:
            return silence_left, Why.SILENCE
        return lifetime_left, Why.LIFETIME


def ban_seconds(status: int, retry_after: str | None, now_utc: float) -> float:
    """Return the seconds to wait after an answer with this HTTP status; 0 if it is not a ban.

    ``retry_after`` is the text of the header: seconds or an HTTP date (RFC 9110 section 10.2.3). ``now_utc``
    is the current time in seconds since the epoch.
    """
    if status not in _BAN_SECONDS and not (status == 503 and retry_after):
        return 0.0
    asked = _seconds(retry_after or "", now_utc)
    if asked is None:
        return _BAN_SECONDS.get(status, 0.0)
    return min(max(asked, SHORTEST_BAN_SECONDS), LONGEST_BAN_SECONDS)


def split_evenly(symbols: Sequence[str], most: int) -> list[Sequence[str]]:
    """Split the symbols into as few groups of at most ``most`` as possible, of nearly equal size."""
    lots = -(-len(symbols) // most)
    return [symbols[lot::lots] for lot in range(lots)]


def _seconds(retry_after: str, now_utc: float) -> float | None:
    text = retry_after.strip()
    if text.isdecimal() and len(text) < 12:
        return float(text)
    try:
        return parsedate_to_datetime(text).timestamp() - now_utc
    except (ValueError, OverflowError):
        return None
