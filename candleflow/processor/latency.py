"""Measure the running pipeline's latency from trade to row, from outside.

The latency of a trade is the time from its trade time ``T`` until a reader of PostgreSQL first sees a row
that contains it. Trade times come from the Kafka topic, and visibility comes from polling the tables, so the
pipeline's own clocks and counts are not used. Polling adds up to ``POLL_SECONDS`` to a latency. If this
machine's clock runs behind the exchange's, a latency can be negative; it is kept unchanged.
"""

from __future__ import annotations

import argparse
import json
import threading
import time
from bisect import bisect_left
from collections import defaultdict, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from kafka import KafkaConsumer

from candleflow.broker.security import python_options
from candleflow.errors import StackError
from candleflow.market.trade import to_microseconds
from candleflow.settings import Settings
from candleflow.store import credentials
from candleflow.store.credentials import Role

POLL_SECONDS: Final = 0.01
QUANTILES: Final = (0.5, 0.9, 0.95, 0.99, 0.999)
SIGHTINGS_KEPT: Final = 4_000


@dataclass(frozen=True, slots=True)
class Latencies:
    """Milliseconds from trade time to visible row, one for each trade, in ascending order."""

    milliseconds: Sequence[float]
    seconds: float
    """How long the measurement took."""

    @property
    def rate(self) -> float:
        """Trades a second."""
        return len(self.milliseconds) / self.seconds

    def quantile(self, share: float) -> float:
        """Return the latency that ``share`` (0 to 1) of the trades did not exceed (nearest rank)."""
        rank = max(0, min(len(self.milliseconds) - 1, round(share * len(self.milliseconds)) - 1))
        return self.milliseconds[rank]

    def lines(self, what: str = "trade to row") -> list[str]:
        """Return the report: the quantiles, and a histogram with one bar a line."""
        head = "  ".join(f"p{share * 100:g} {self.quantile(share):.0f}" for share in QUANTILES)
        lines = [
            f"{what}, ms: {head}  max {self.milliseconds[-1]:.0f}",
            f"{len(self.milliseconds):,} trades in {self.seconds:.0f} s: {self.rate:,.0f} a second",
        ]
        return lines + _histogram(self.milliseconds)


class Watch:
    """Match one symbol's trades, read from the topic, with the times at which its row was seen.

    A row is often seen before the topic's reader has read the trade, so the last sightings are kept.
    """

    def __init__(self) -> None:
        self._waiting: deque[tuple[int, int]] = deque()
        self._seen_ids: list[int] = []
        self._seen_at: list[float] = []

    def arrived(self, trade_id: int, trade_time: int) -> None:
        """Note a trade of the topic. The reader's thread calls this (appending to a deque is atomic)."""
        self._waiting.append((trade_id, trade_time))

    def sighted(self, last_trade_id: int, now: float) -> Iterator[float]:
        """Note that the row holds every trade up to ``last_trade_id``; yield the latencies, in ms, found."""
        if not self._seen_ids or self._seen_ids[-1] < last_trade_id:
            self._seen_ids.append(last_trade_id)
            self._seen_at.append(now)
        while self._waiting and self._waiting[0][0] <= last_trade_id:
            trade_id, trade_time = self._waiting.popleft()
            seen_at = self._seen_at[bisect_left(self._seen_ids, trade_id)]
            yield seen_at * 1_000 - trade_time / 1_000
        if len(self._seen_ids) > SIGHTINGS_KEPT:
            del self._seen_ids[: SIGHTINGS_KEPT // 2], self._seen_at[: SIGHTINGS_KEPT // 2]


def measure(settings: Settings, seconds: float) -> Latencies:
    """Watch the running pipeline for ``seconds``. Raises StackError if no trade came in that time."""
    watches: dict[str, Watch] = defaultdict(Watch)
    stop = threading.Event()
    follower = threading.Thread(target=follow_topic, args=(settings, watches, stop), daemon=True)
    follower.start()
    try:
        milliseconds = sorted(_poll_rows(settings, watches, seconds))
    finally:
        stop.set()
        follower.join()
    if not milliseconds:
        raise StackError(
            f"no trade reached a row within {seconds:.0f} s; check that the pipeline is running: "
            "python -m candleflow status"
        )
    return Latencies(milliseconds, seconds)


def follow_topic(settings: Settings, watches: Mapping[str, Watch], stop: threading.Event) -> None:
    """Pass each new trade of the topic to its symbol's entry in ``watches``, until ``stop`` is set."""
    consumer = KafkaConsumer(
        settings.topic,
        **python_options(settings.kafka.bootstrap),
        auto_offset_reset="latest",
        enable_auto_commit=False,
        fetch_max_wait_ms=20,
    )
    while not stop.is_set():
        for records in consumer.poll(timeout_ms=20).values():
            for record in records:
                payload = json.loads(record.value)
                watches[payload["s"]].arrived(payload["t"], to_microseconds(payload["T"]))
    consumer.close()


def _poll_rows(settings: Settings, watches: Mapping[str, Watch], seconds: float) -> list[float]:
    """Return the latency in milliseconds of each trade seen in the topic and then in a row."""
    connection = credentials.dsn(settings, Role.READER).connect()
    connection.autocommit = True
    found: list[float] = []
    until = time.time() + seconds
    with connection.cursor() as cursor:
        while time.time() < until:
            cursor.execute("SELECT symbol, last_trade_id FROM symbols")
            now = time.time()
            for symbol, last_trade_id in cursor.fetchall():
                found += watches[symbol].sighted(last_trade_id, now)
            time.sleep(POLL_SECONDS)
    connection.close()
    return found


def _histogram(milliseconds: Sequence[float], rows: int = 12, width: int = 50) -> list[str]:
    top = milliseconds[max(0, round(0.995 * len(milliseconds)) - 1)]
    step = max(10.0, round(top / rows / 10 + 0.5) * 10.0)
    counts: dict[int, int] = defaultdict(int)
    for latency in milliseconds:
        counts[min(int(latency // step), rows)] += 1
    most = max(counts.values())
    lines = []
    for row in range(min(counts), max(counts) + 1):
        name = f"{row * step:6.0f} -" if row < rows else f"{row * step:6.0f} +"
        lines.append(f"{name} {'#' * round(counts[row] / most * width)} {counts[row]:,}")
    return lines


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``latency`` to ``parser``."""
    parser.add_argument("--seconds", type=float, default=30, help="how long to watch (30)")


def run(settings: Settings, arguments: argparse.Namespace) -> int:
    """Run ``python -m candleflow latency``: measure, print the report and return 0."""
    print(f"watching the running pipeline for {arguments.seconds:.0f} s ...", flush=True)
    for line in measure(settings, arguments.seconds).lines():
        print(line)
    return 0
