"""Keeps all REST requests within the exchange's rate limit, across processes.

Binance allows a weight of 6,000 a minute per IP address. Each answer's ``X-MBX-USED-WEIGHT-1M`` header has
the weight that all programs at this address have used. Candleflow's processes stop below the limit, at their
``Share``.

After HTTP 429 or 418, no process with this data folder sends a request to that host until ``Retry-After`` has
passed. The end of the wait is stored in a file in the folder of the heartbeats. Deleting the file ends the
wait for all processes except the one that wrote it.

Source: binance-spot-api-docs, rest-api.md, "LIMITS" and the weight of each endpoint.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import time
from collections.abc import Awaitable, Callable, Mapping
from enum import IntEnum
from pathlib import Path
from typing import Final, NamedTuple, Self
from urllib.parse import urlsplit

from candleflow.errors import RateLimitError
from candleflow.exchange.reconnect import LONGEST_BAN_SECONDS

_log = logging.getLogger(__name__)

_MINUTE_SECONDS: Final = 60.0
_WEIGHTS: Final = {
    "/api/v3/exchangeInfo": 20,
    "/api/v3/trades": 25,
    "/api/v3/historicalTrades": 25,
    "/api/v3/aggTrades": 4,
    "/api/v3/klines": 2,
}
_TICKER: Final = "/api/v3/ticker/24hr"
_TICKER_WEIGHTS: Final = ((20, 2), (100, 40))
_ALL_TICKERS_WEIGHT: Final = 80


class Share(IntEnum):
    """The used weight of a minute at which a process sends no more requests until the next minute.

    The last 1,000 below ``FILLING`` are reserved for gap filling. Half of the exchange's 6,000 is left to
    other programs.
    """

    FILLING = 3_000
    AUDITING = 2_000


def weight(path: str, parameters: Mapping[str, str | int]) -> int:
    """Return the weight of a request; 1 if the endpoint is unknown."""
    if path != _TICKER:
        return _WEIGHTS.get(path, 1)
    if "symbol" in parameters:
        return _TICKER_WEIGHTS[0][1]
    count = str(parameters["symbols"]).count(",") + 1 if "symbols" in parameters else None
    fitting = (cost for most, cost in _TICKER_WEIGHTS if count is not None and count <= most)
    return next(fitting, _ALL_TICKERS_WEIGHT)


class Budget:
    """Counts the used weight of the current minute. ``now`` is in seconds since the epoch."""

    def __init__(self, share: int = Share.FILLING) -> None:
        self._share = share
        self._minute = 0
        self._used = 0
        self._in_flight = 0

    def wait_seconds(self, cost: int, now: float) -> float:
        """Return the seconds until a request of this weight may be sent; 0 if it may be sent now."""
        self._turn_over(now)
        spent = self._used + self._in_flight
        # The first request of a minute is always allowed: its answer tells what other programs have used.
        if spent == 0 or spent + cost <= self._share:
            return 0.0
        return _MINUTE_SECONDS - now % _MINUTE_SECONDS

    def asked(self, cost: int) -> None:
        self._in_flight += cost

    def answered(self, cost: int, used: int | None, asked_at: float, now: float) -> None:
        """Count an answered request; ``used`` is the minute's weight in the answer's header, or None."""
        self._turn_over(now)
        self._in_flight -= cost
        if asked_at // _MINUTE_SECONDS == self._minute:
            self._used = self._used + cost if used is None else used

    def _turn_over(self, now: float) -> None:
        minute = int(now // _MINUTE_SECONDS)
        if minute != self._minute:
            self._minute, self._used = minute, 0


class Wait(NamedTuple):
    """A wait that the exchange demands: until ``until``, seconds since the epoch, for ``seconds`` in all."""

    until: float
    seconds: float

    def left(self, now: float) -> float:
        """Return the seconds left; 0 if more are left than the whole wait, as after a clock was set back."""
        left = self.until - now
        return left if 0 < left <= min(self.seconds, LONGEST_BAN_SECONDS) else 0.0


_NO_WAIT: Final = Wait(0.0, 0.0)


class RateLimiter:
    """The rate limit of one host, for all clients in a process.

    ``folder``: where processes share the wait; None: not shared. ``sleep`` and ``now`` (seconds since the
    epoch) are for tests.
    """

    def __init__(
        self,
        base_url: str,
        *,
        share: int = Share.FILLING,
        folder: Path | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._host = urlsplit(base_url).netloc
        self._file = None if folder is None else folder / f"rate-limit-{self._host}.txt"
        self._budget = Budget(share)
        self._wait = _NO_WAIT
        self._logged_until = 0.0
        self._sleep = sleep
        self.now = now

    async def turn(self, cost: int, patience_seconds: float) -> float:
        """Wait until a request of this weight may be sent, and return the rest of ``patience_seconds``.

        Raises RateLimitError, without waiting, if the wait would be longer than ``patience_seconds``.
        """
        while (seconds := self._wait_seconds(cost)) > 0:
            if seconds > patience_seconds:
                raise RateLimitError(f"{self._host}: rate limit, no request for {seconds:.0f} s", seconds)
            patience_seconds -= seconds
            await self._sleep(seconds)
        self._budget.asked(cost)
        return patience_seconds

    def answered(self, cost: int, used: int | None, asked_at: float) -> None:
        """Count a request that had its ``turn`` and was answered or has failed."""
        self._budget.answered(cost, used, asked_at, self.now())

    def refused(self, seconds: float) -> None:
        """Send no request for ``seconds``, as the exchange has demanded."""
        now = self.now()
        if seconds <= self._shared(now).left(now):
            return
        self._wait = Wait(now + seconds, seconds)
        if self._file is None:
            return
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            beside = self._file.with_suffix(f".{os.getpid()}.tmp")
            beside.write_text(json.dumps(self._wait))
            beside.replace(self._file)
        except OSError as error:
            _log.warning(
                "%s can't be written, so other processes don't know that the exchange demands a wait: %s",
                self._file,
                error,
            )

    def _wait_seconds(self, cost: int) -> float:
        now = self.now()
        wait = self._shared(now)
        if not wait.left(now):
            return self._budget.wait_seconds(cost, now)
        if wait.until != self._logged_until:
            self._logged_until = wait.until
            _log.warning("exchange rate limit: no request to %s for %.0f s", self._host, wait.left(now))
        return wait.left(now)

    def _shared(self, now: float) -> Wait:
        """Return the longer of this process's wait and the one in the file."""
        return max(self._wait, self._read(), key=lambda wait: wait.left(now))

    def _read(self) -> Wait:
        try:
            until, seconds = json.loads(self._file.read_bytes()) if self._file else _NO_WAIT
            return Wait(float(until), float(seconds))
        except (OSError, ValueError, TypeError):
            return _NO_WAIT


class RestAddress(str):
    """An exchange's REST base address, with the rate limiter that all its clients share.

    It is a ``str``, so it can be passed as an address, and no client of it can miss the limiter.
    """

    limiter: RateLimiter

    def __new__(cls, base_url: str, limiter: RateLimiter | None = None) -> Self:
        made = super().__new__(cls, base_url)
        made.limiter = limiter or RateLimiter(base_url)
        return made
