"""Latency from trade to row as the processor measures it: from the trade time to the end of the COMMIT.

Each live trade counts once, when it is merged. While the processor works through a backlog, the latencies are
as high as the trades are late. Two kinds of trades don't count: those fetched from the exchange's history,
and those of a batch whose COMMIT succeeded but whose answer was lost, because its time is unknown.

The trade time comes from the exchange's clock, and the COMMIT's from this machine's. A difference between the
clocks is part of each latency, which can therefore be negative. It is not corrected.
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
"""``counts`` covers this long."""

_STEPS: Final = 100
"""Latencies are counted in steps of ``asinh(milliseconds) * 100``. That is exact to 0.5 % for long ones and
to 0.005 ms for short ones, works for either sign, and needs at most 2,600 steps for years."""


BOUNDS_SECONDS: Final = (0.0, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0)
"""Upper bounds of the histogram's buckets. Latencies below 0 mean that the clocks differ."""


class LiveTrades(NamedTuple):
    """The live trades in a range of 256 ids: first and last time in microseconds, and how many."""

    first_time: int
    last_time: int
    trades: int


class _Second:
    """The trades merged within one second."""

    def __init__(self, second: int) -> None:
        self.second = second
        self.latencies: Counter[int] = Counter()
        self.merged = 0


class RecentLatency:
    """The latencies of the last minute, and a histogram since the start. Uses bounded memory; thread-safe.

    ``steady``: a monotonic clock in seconds.
    """

    def __init__(self, steady: Callable[[], float] = time.monotonic) -> None:
        self._steady = steady
        self._began_at = steady()
        self._seconds: deque[_Second] = deque()
        self._all: Counter[int] = Counter()
        self._lock = threading.Lock()

    def note(self, live: Iterable[LiveTrades], merged: int, merged_at: int) -> None:
        """Add a batch of ``merged`` trades that was committed at ``merged_at``, in microseconds since the
        epoch. Only the ``live`` ones count in the latencies."""
        found: Counter[int] = Counter()
        for one in live:
            _count(found, one, merged_at)
        with self._lock:
            now = self._recent()
            now.merged += merged
            now.latencies.update(found)
            self._all.update(found)

    def counts(self) -> dict[str, float]:
        """Return ``merged_per_s`` of the last minute. If it has live trades, also return ``latency_ms_p50``,
        ``latency_ms_p99`` and ``latency_trades``, the number of live trades."""
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
        """Return the cumulative histogram since the start: for each of ``BOUNDS_SECONDS`` (such as ``0.5``)
        and ``+Inf``, how many latencies were at most that; and ``sum``, their sum in seconds."""
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
        """Return the entry of the current second, and drop those older than ``SPAN_SECONDS``."""
        second = int(self._steady())
        if not self._seconds or self._seconds[-1].second != second:
            self._seconds.append(_Second(second))
        while self._seconds[0].second <= second - SPAN_SECONDS:
            self._seconds.popleft()
        return self._seconds[-1]


def _count(latencies: Counter[int], live: LiveTrades, merged_at: int) -> None:
    """Count the trades' latencies, with the unknown times between first and last spread evenly."""
    first, last, count = live
    if _step(merged_at - first) == _step(merged_at - last):  # the same step for all, as in a backlog
        latencies[_step(merged_at - last)] += count
        return
    between = max(1, count - 1)
    for at in range(count):
        latencies[_step(merged_at - last + (last - first) * at / between)] += 1


def _step(latency_us: float) -> int:
    return round(_STEPS * math.asinh(latency_us / 1_000))


def _quantile(latencies: Counter[int], share: float) -> float:
    """Return the milliseconds that ``share`` (0 to 1) of the latencies did not exceed (nearest rank)."""
    rank = max(1, math.ceil(share * latencies.total()))
    for step in sorted(latencies):
        rank -= latencies[step]
        if rank <= 0:
            return math.sinh(step / _STEPS)
    raise ValueError("no latency was counted")
