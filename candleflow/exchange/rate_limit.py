"""The exchange's rate limit, kept under every REST request of ours: one budget, and one wait for all.

Binance allows 6,000 weight a minute and counts it by IP address, so each answer's ``X-MBX-USED-WEIGHT-1M``
tells what all programs at this address have used. Our processes stop below that, by ``Share``. After HTTP 429
or 418 no process of this data folder asks that host until ``Retry-After`` has passed: the end of the wait is
kept in a file, beside the heartbeats. Deleting the file ends the wait for all but the process that wrote it.

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
    """The used weight of a minute at which a process asks no more until the next one.

    Filling has a third of it for itself. Half of the exchange's 6,000 is left to other programs.
    """

    FILLING = 3_000
    AUDITING = 2_000


def weight(path: str, parameters: Mapping[str, str | int]) -> int:
    """What a request costs; 1 where the endpoint isn't known here."""
    if path != _TICKER:
        return _WEIGHTS.get(path, 1)
    if "symbol" in parameters:
        return _TICKER_WEIGHTS[0][1]
    count = str(parameters["symbols"]).count(",") + 1 if "symbols" in parameters else None
    fitting = (cost for most, cost in _TICKER_WEIGHTS if count is not None and count <= most)
    return next(fitting, _ALL_TICKERS_WEIGHT)


class Budget:
    """What may be spent of a minute's weight. Without a clock: ``now`` is in seconds since the epoch."""

    def __init__(self, share: int = Share.FILLING) -> None:
        self._share = share
        self._minute = 0
        self._used = 0
        self._in_flight = 0

    def wait_seconds(self, cost: int, now: float) -> float:
        """How long until a request of this weight may be sent; 0 where it may be now."""
        self._turn_over(now)
        spent = self._used + self._in_flight
        # The first of a minute always may: it is how we learn what others have used.
        if spent == 0 or spent + cost <= self._share:
            return 0.0
        return _MINUTE_SECONDS - now % _MINUTE_SECONDS

    def asked(self, cost: int) -> None:
        self._in_flight += cost

    def answered(self, cost: int, used: int | None, asked_at: float, now: float) -> None:
        """``used``: as the exchange counts it, None where it didn't say."""
        self._turn_over(now)
        self._in_flight -= cost
        if asked_at // _MINUTE_SECONDS == self._minute:
            self._used = self._used + cost if used is None else used

    def _turn_over(self, now: float) -> None:
        minute = int(now // _MINUTE_SECONDS)
        if minute != self._minute:
            self._minute, self._used = minute, 0


class Wait(NamedTuple):
    """No request before ``until``, seconds since the epoch; ``seconds`` is its whole length."""

    until: float
    seconds: float

    def left(self, now: float) -> float:
        """Seconds left; 0 also where more than the whole is, as after a clock was set back."""
        left = self.until - now
        return left if 0 < left <= min(self.seconds, LONGEST_BAN_SECONDS) else 0.0


_NO_WAIT: Final = Wait(0.0, 0.0)


class RateLimiter:
    """One host's limit, for all clients of a process. ``folder``: where processes share their wait, if any.

    ``sleep`` and ``now`` (seconds since the epoch) are for tests.
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
        self._told = 0.0
        self._sleep = sleep
        self.now = now

    async def turn(self, cost: int, patience_seconds: float) -> float:
        """Wait until a request of this weight may be sent; what is left of the patience.

        Raises RateLimitError, without waiting, where the patience would end first.
        """
        while (seconds := self._wait_seconds(cost)) > 0:
            if seconds > patience_seconds:
                raise RateLimitError(f"{self._host}: rate limit, no request for {seconds:.0f} s", seconds)
            patience_seconds -= seconds
            await self._sleep(seconds)
        self._budget.asked(cost)
        return patience_seconds

    def answered(self, cost: int, used: int | None, asked_at: float) -> None:
        """The answer to a request that had its ``turn``, or its failure, is here."""
        self._budget.answered(cost, used, asked_at, self.now())

    def refused(self, seconds: float) -> None:
        """The exchange says to wait: no request is sent before."""
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
            _log.warning("%s can't be written, other processes don't know of the wait: %s", self._file, error)

    def _wait_seconds(self, cost: int) -> float:
        now = self.now()
        wait = self._shared(now)
        if not wait.left(now):
            return self._budget.wait_seconds(cost, now)
        if wait.until != self._told:
            self._told = wait.until
            _log.warning("exchange rate limit: no request to %s for %.0f s", self._host, wait.left(now))
        return wait.left(now)

    def _shared(self, now: float) -> Wait:
        """The longer one of ours and the other processes'."""
        return max(self._wait, self._read(), key=lambda wait: wait.left(now))

    def _read(self) -> Wait:
        try:
            until, seconds = json.loads(self._file.read_bytes()) if self._file else _NO_WAIT
            return Wait(float(until), float(seconds))
        except (OSError, ValueError, TypeError):
            return _NO_WAIT


class RestAddress(str):
    """An exchange's REST base address and the limiter of everybody who asks there.

    A text, so that it goes wherever an address does, and no client of it can be made without the limiter.
    """

    limiter: RateLimiter

    def __new__(cls, base_url: str, limiter: RateLimiter | None = None) -> Self:
        made = super().__new__(cls, base_url)
        made.limiter = limiter or RateLimiter(base_url)
        return made
