"""When to connect to the exchange, when to replace a connection, and how long to wait: rules with no clock.

Every time is an argument, in seconds of any monotonic clock; every random number comes from the caller. The
numbers are Binance's (binance-spot-api-docs, web-socket-streams.md, "General WSS information"): 300 attempts
to connect per 5 minutes and address, a connection's life of 24 hours, and for REST's sake ("LIMITS") bans of
2 minutes to 3 days after HTTP 418.
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
"""A connection that brought data for this long was stable."""
LONGEST_BAN_SECONDS: Final = 3 * 86_400.0
SHORTEST_BAN_SECONDS: Final = 1.0
"""Also where ``Retry-After`` is 0, or a time that is over by this machine's clock."""
_BAN_SECONDS: Final = {418: 120.0, 429: 60.0}
"""How long to wait where the answer does not say."""


class Why(StrEnum):
    """Why a connection is replaced, in words for the log."""

    LIFETIME = "its time is up"
    SILENCE = "it has brought nothing for too long"
    SHUTDOWN = "the exchange announced its end"
    CLOSED = "it was closed"


def delay_after(backoff: Backoff, why: Why, useful_seconds: float) -> float:
    """Seconds to wait before a connection is replaced; 0 where its time was simply up, or it was stable.

    ``useful_seconds``: from the first message it brought to the last. The backoff is reset only after a
    stable connection, not when one opens: an exchange that accepts and drops would else be tried without end.
    """
    if useful_seconds >= STABLE_SECONDS:
        backoff.reset()
        return 0.0
    return 0.0 if why is Why.LIFETIME else backoff.next_delay()


class AttemptLimit:
    """At most ``limit`` attempts in any ``period_seconds``, none during a ban. One for all connections."""

    def __init__(self, limit: int = ATTEMPTS_LIMIT, period_seconds: float = ATTEMPTS_PERIOD_SECONDS) -> None:
        self._limit = limit
        self._period = period_seconds
        self._attempts: deque[float] = deque(maxlen=limit)
        self._banned_until = float("-inf")

    def wait_seconds(self, now: float) -> float:
        """How long until an attempt is allowed; 0 where it is now."""
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
    """When a sound connection is replaced."""

    lifetime_seconds: float
    silence_seconds: float

    def spread(self, random: float) -> Rotation:
        """With a lifetime up to 5 % shorter, so that connections opened together aren't replaced together."""
        return Rotation(self.lifetime_seconds * (1 - 0.05 * random), self.silence_seconds)

    def due_in(self, opened_at: float, quiet_since: float | None, now: float) -> tuple[float, Why]:
        """In how many seconds the connection is due for replacement (0 or less: now), and why.

        ``quiet_since``: when it last brought data, None while data it brought still wait to be taken: then
        the silence is our own, and not held against it.
        """
        lifetime_left = opened_at + self.lifetime_seconds - now
        silence_left = (now if quiet_since is None else quiet_since) + self.silence_seconds - now
        if silence_left < lifetime_left:
            return silence_left, Why.SILENCE
        return lifetime_left, Why.LIFETIME


def ban_seconds(status: int, retry_after: str | None, now_utc: float) -> float:
    """How long to wait after an answer with this status; 0 where it is no ban.

    ``retry_after`` is the header's text, seconds or an HTTP date (RFC 9110, section 10.2.3); ``now_utc`` the
    present, in seconds since the epoch.
    """
    if status not in _BAN_SECONDS and not (status == 503 and retry_after):
        return 0.0
    asked = _seconds(retry_after or "", now_utc)
    if asked is None:
        return _BAN_SECONDS.get(status, 0.0)
    return min(max(asked, SHORTEST_BAN_SECONDS), LONGEST_BAN_SECONDS)


def share_out(symbols: Sequence[str], most: int) -> list[Sequence[str]]:
    """The symbols in as few lots of at most ``most`` as will hold them, of nearly the same size."""
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
