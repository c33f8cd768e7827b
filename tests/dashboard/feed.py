"""Stores trades as the processor does: aggregated into partial candles, then merged by ``merge_batch``."""

from __future__ import annotations

import json
import math
import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from decimal import Decimal
from typing import Any

from candleflow.market.candle import fold
from candleflow.market.partial import Partial, array_text, encode, of_candle
from candleflow.market.trade import Trade
from candleflow.market.window import SECOND_US, Windows
from candleflow.settings import Settings
from candleflow.store import credentials
from candleflow.store.credentials import Role

TOPIC = "trades"
_MERGE = "SELECT merge_batch(%s, %s, %s, %s, %s::partial_candle[], %s, %s)"


def now_us() -> int:
    return time.time_ns() // 1_000


def wave(at: int) -> Decimal:
    """Return a realistic price around 60,000, a function of the time (microseconds)."""
    seconds = at / SECOND_US
    cents = (
        6_000_000
        + 40_000 * math.sin(seconds / 700)
        + 9_000 * math.sin(seconds / 97)
        + 2_500 * math.sin(seconds / 13.7)
        + 900 * math.sin(seconds * 2.1)
    )
    return Decimal(round(cents)).scaleb(-2)


class Feed:
    """A stand-in for the processor. Thread-safe. Each symbol's trade ids count up from 1."""

    def __init__(self, settings: Settings) -> None:
        self._connection = credentials.dsn(settings, Role.WRITER).connect()
        self._connection.autocommit = True
        self._windows = settings.windows
        self._lock = threading.Lock()
        self._next_id: dict[str, int] = defaultdict(lambda: 1)
        (claim,) = self._call("SELECT claim_topic(%s, 'made for a test', 'a test')", (TOPIC,))
        self._run_id, self._offsets = claim["run_id"], claim["offsets"]

    def close(self) -> None:
        self._connection.close()

    def skip_ids(self, symbol: str, count: int) -> None:
        """Lose ``count`` trades of the symbol."""
        with self._lock:
            self._next_id[symbol] += count

    def send(
        self, symbol: str, times: Iterable[int], *, quantity: str = "0.25", price: Decimal | None = None
    ) -> None:
        """Store trades at these times (microseconds), at the price of ``wave`` or ``price``; commits."""
        with self._lock:
            self._merge([self._trade(symbol, at, Decimal(quantity), price) for at in times])

    def lose(self, symbol: str, times: Iterable[int]) -> list[Trade]:
        """Return trades at these times that are not stored, unless ``fill`` does so later."""
        with self._lock:
            return [self._trade(symbol, at, Decimal("0.25")) for at in times]

    def fill(self, trades: list[Trade]) -> None:
        """Store lost trades, as happens after the producer has filled the gap."""
        with self._lock:
            self._merge(trades)

    def send_one_of_each(self, symbols: Iterable[str], at: int) -> None:
        """Store one trade of each symbol at one time (microseconds), all in one batch."""
        with self._lock:
            self._merge([self._trade(symbol, at, Decimal("0.25")) for symbol in symbols])

    def _trade(self, symbol: str, at: int, quantity: Decimal, price: Decimal | None = None) -> Trade:
        trade_id = self._next_id[symbol]
        self._next_id[symbol] += 1
        quantity *= 1 + trade_id % 7
        return Trade(symbol, trade_id, price or wave(at), quantity, at, bool(trade_id % 2))

    def _merge(self, trades: list[Trade]) -> None:
        partials = list(_partials(trades, self._windows))
        reached = {"0": self._offsets.get("0", 0) + len(trades)}
        windows = {
            "interval": self._windows.interval,
            "size_us": self._windows.size_us,
            "slide_us": self._windows.slide_us,
        }
        offsets = (self._offsets, reached)
        rest = ({"received": len(trades)}, windows)
        texts = (*map(json.dumps, offsets), array_text(map(encode, partials)), *map(json.dumps, rest))
        (result,) = self._call(_MERGE, (self._run_id, TOPIC, *texts))
        assert result["status"] == "merged", result
        self._offsets = reached

    def _call(self, statement: str, values: tuple[Any, ...]) -> tuple[Any, ...]:
        with self._connection.cursor() as cursor:
            cursor.execute(statement, values)
            row = cursor.fetchone()
        assert row is not None
        return row


def _partials(trades: list[Trade], windows: Windows) -> Iterator[Partial]:
    last_times = {open_time: t.trade_time for t in trades for open_time in windows.open_times(t.trade_time)}
    for candle in fold(trades, windows).values():
        yield of_candle(candle, last_times[candle.open_time])


@contextmanager
def live_feed(settings: Settings, *symbols: str, history_seconds: int) -> Iterator[Feed]:
    """Store a history of two trades a second for each symbol, then four trades a second during the block."""
    with closing(Feed(settings)) as feed:
        start = now_us()
        for symbol in symbols:
            feed.send(symbol, range(start - history_seconds * SECOND_US, start, SECOND_US // 2))
        stop = threading.Event()
        failures: list[BaseException] = []

        def send_trades() -> None:
            try:
                while not stop.wait(0.25):
                    feed.send_one_of_each(symbols, now_us())
            except BaseException as failure:  # noqa: BLE001 - raised in the test below
                failures.append(failure)

        thread = threading.Thread(target=send_trades)
        thread.start()
        try:
            yield feed
        finally:
            stop.set()
            thread.join()
        assert not failures, failures
