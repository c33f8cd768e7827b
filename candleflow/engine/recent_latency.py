"""Trade-to-row latency as the processor sees it: from a trade's time to the end of the COMMIT that merged it.

Every trade counts that the stream brought and that was merged, each once. While a backlog is read its trades
are late, and the figures say so. What the producer fetched from the exchange's history is no part of it: such
a trade was missing, not slow. Nor is a batch that a COMMIT cut by the network had merged: nobody knows when.

The exchange's clock dates the trade and this machine's the row: where they differ the figures are wrong by
that, and may be negative. They are kept as they are.
"""

from __future__ import annotations

import math
import threading
import time
from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Callable, Iterable
from itertools import accumulate
from typing import Final, NamedTuple

SPAN_SECONDS: Final = 60
"""The figures are those of the last minute."""

_STEPS: Final = 100
"""Latencies are counted by the area hyperbolic sine of their milliseconds in hundredths: to 0.5 % where they
are long, to 0.005 ms where they are short, and of either sign. Years are no more than 2,600 such steps."""


BOUNDS_SECONDS: Final = (0.0, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0)
"""Of the buckets since the start. What is below nought tells that the clocks differ."""


class LiveTrades(NamedTuple):
    """Trades of 256 neighbouring ids at most: the times of the first and the last, in microseconds."""

    first_time: int
    last_time: int
    trades: int


class _Second:
    """What was merged in one second."""

    def __init__(self, second: int) -> None:
        self.second = second
        self.latencies: Counter[int] = Counter()
        self.merged = 0


class RecentLatency:
    """The last minute's latencies, and a histogram of all, in a bounded memory; for any thread. ``steady`` is
    in seconds."""

    def __init__(self, steady: Callable[[], float] = time.monotonic) -> None:
        self._steady = steady
        self._began_at = steady()
        self._seconds: deque[_Second] = deque()
        self._all: Counter[int] = Counter()
        self._lock = threading.Lock()

    def note(self, live: Iterable[LiveTrades], merged: int, merged_at: int) -> None:
        """``merged`` trades are in their rows since ``merged_at``, microseconds since the epoch; ``live`` are
        those of them that count."""
        found: Counter[int] = Counter()
        for one in live:
            _count(found, one, merged_at)
        with self._lock:
            now = self._recent()
            now.merged += merged
            now.latencies.update(found)
            self._all.update(found)

    def counts(self) -> dict[str, float]:
        """``merged_per_s``; and, if a live trade was merged, ``latency_ms_p50``, ``latency_ms_p99`` and
        ``latency_trades``, their number."""
        with self._lock:
            self._recent()
            total: Counter[int] = Counter()
            for one in self._seconds:
                total.update(one.latencies)
            merged = sum(one.merged for one in self._seconds)
            covered = min(SPAN_SECONDS, max(1.0, self._steady() - self._began_at))
        rate = {"merged_per_s": round(merged / covered, 1)}
        if not total:
            return rate
        p50, p99 = (round(_quantile(total, share), 1) for share in (0.5, 0.99))
        return rate | {"latency_ms_p50": p50, "latency_ms_p99": p99, "latency_trades": total.total()}

    def histogram(self) -> dict[str, float]:
        """Of all latencies since this was made: ``0.5``: how many were half a second at most, for each of
        BOUNDS_SECONDS and ``+Inf``; ``sum``: their sum in seconds."""
        with self._lock:
            every = list(self._all.items())
        ends = [_step(bound * 1_000_000) for bound in BOUNDS_SECONDS]
        within = [0] * (len(ends) + 1)
        for step, count in every:
            within[bisect_left(ends, step)] += count
        names = (*(f"{bound:g}" for bound in BOUNDS_SECONDS), "+Inf")
        total = sum(math.sinh(step / _STEPS) * count for step, count in every) / 1_000
        return {**dict(zip(names, accumulate(within), strict=True)), "sum": round(total, 3)}

    def _recent(self) -> _Second:
        """The present second, made if need be; what is too old is forgotten."""
        second = int(self._steady())
        if not self._seconds or self._seconds[-1].second != second:
            self._seconds.append(_Second(second))
        while self._seconds[0].second <= second - SPAN_SECONDS:
            self._seconds.popleft()
        return self._seconds[-1]


def _count(latencies: Counter[int], live: LiveTrades, merged_at: int) -> None:
    """The times of those between the first and the last are not known: they are taken as evenly spread."""
    first, last, count = live
    if _step(merged_at - first) == _step(merged_at - last):  # as of a backlog: one look for all of them
        latencies[_step(merged_at - last)] += count
        return
    between = max(1, count - 1)
    for at in range(count):
        latencies[_step(merged_at - last + (last - first) * at / between)] += 1


def _step(latency_us: float) -> int:
    return round(_STEPS * math.asinh(latency_us / 1_000))


def _quantile(latencies: Counter[int], share: float) -> float:
    """The milliseconds that ``share`` of the latencies did not exceed (nearest rank)."""
    rank = max(1, math.ceil(share * latencies.total()))
    for step in sorted(latencies):
        rank -= latencies[step]
        if rank <= 0:
            return math.sinh(step / _STEPS)
    raise ValueError("no latency was counted")
