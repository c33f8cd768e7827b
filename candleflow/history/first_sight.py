"""Load history for new symbols: candles from before the first live trade, made of the exchange's 1 s klines.

The auditor runs this at each start. For each symbol whose candles don't reach back far enough, it loads what
lies before the first one: newest first, a quarter of an hour per transaction. The stored candles are the only
record of progress. To not delay the first live candles, it waits until the processor has caught up, and after
each step pauses for as long as the step took.

Only candles whose trade ids are proved are loaded (``kline_ids.py``). Other ids remain a gap, as do the
trades between the last of these candles and the first live trade. The auditor finds such gaps like any
others, and has their trades fetched.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from candleflow.backoff import Backoff
from candleflow.errors import ExchangeError, StoreError
from candleflow.exchange.history import TradeHistory
from candleflow.history.kline_ids import Stretch, newest_chunk, partials
from candleflow.market.kline import Kline
from candleflow.market.window import SECOND_US, floor_time
from candleflow.settings import Settings
from candleflow.store.history import HistoryStore, Source
from candleflow.store.reader import CandleReader

_log = logging.getLogger(__name__)

_KLINE: Final = "1s"
_HOUR_US: Final = 3_600 * SECOND_US
_SETTLE_US: Final = 5 * SECOND_US
"""For a symbol without candles, loading ends this long before now: Binance's klines are up to 2 s late."""
_POLL_SECONDS: Final = 0.5
_LONGEST_REST_SECONDS: Final = 5.0
_SHORTEST_PAUSE_SECONDS: Final = 5.0
_LONGEST_PAUSE_SECONDS: Final = 300.0
"""The shortest and longest pause between attempts while the exchange or PostgreSQL is down."""


@dataclass(slots=True)
class _Missing:
    """The time [since, until) that a symbol still has to load, in microseconds; ``end_id``: the id at
    ``until``."""

    symbol: str
    since: int
    until: int
    end_id: int


class HistoryLoader:
    """One run of loading. ``state`` describes the progress for the heartbeat; empty if there is none."""

    def __init__(self, settings: Settings, urls: Sequence[str], reader: CandleReader) -> None:
        """``urls``: the exchange's REST addresses. The caller closes ``reader``."""
        self._settings = settings
        self._windows = settings.windows
        self._span_us = int(settings.exchange.history_hours * _HOUR_US)
        self._reader = reader
        self._urls = urls
        self._store = HistoryStore.from_settings(settings)
        self.state = ""

    async def run(self) -> None:
        """Load all missing candles. Retries while the exchange or PostgreSQL is down."""
        if not self._span_us or not self._urls:
            return
        try:
            async with TradeHistory(self._urls) as history:
                await self._until_caught_up()
                await self._load_all(history)
        finally:
            self.state = ""
            self._store.close()

    async def _until_caught_up(self) -> None:
        """Wait for two different reports of the processor that it has caught up; it reports once a second."""
        reported: list[int | None] = []
        while len(set(reported)) < 2:
            try:
                reported.append(await asyncio.to_thread(self._reader.caught_up_at, self._settings.topic))
                self.state = "history waits for the processor"
            except StoreError as error:
                self.state = f"history waits: {error}"
            await asyncio.sleep(_POLL_SECONDS)

    async def _load_all(self, history: TradeHistory) -> None:
        """Load one chunk of each symbol in turn, so that all get their latest candles first."""
        unknown = deque(self._settings.symbols)
        missing: deque[_Missing] = deque()
        backoff = Backoff(_SHORTEST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS)
        while unknown or missing:
            began_at = time.monotonic()
            try:
                if unknown:
                    found = await self._find_missing(history, unknown[0])
                    unknown.popleft()
                    missing += [found] if found is not None else []
                else:
                    await self._load_chunk(history, missing[0])
                    missing.rotate(-1)
            except (ExchangeError, StoreError) as error:
                self.state = f"history waits: {error}"
                _log.warning("loading history failed, will retry: %s", error)
                await asyncio.sleep(backoff.next_delay())
                continue
            backoff.reset()
            for done in [one for one in missing if one.until <= one.since]:
                _log.info(
                    "%s: %g hours of history are loaded", done.symbol, self._settings.exchange.history_hours
                )
                missing.remove(done)
            hours = sum(one.until - one.since for one in missing) / _HOUR_US
            self.state = f"history: {hours:.1f} h to load" if missing else ""
            await asyncio.sleep(min(time.monotonic() - began_at, _LONGEST_REST_SECONDS))

    async def _find_missing(self, history: TradeHistory, symbol: str) -> _Missing | None:
        """Return what the symbol has to load. None if its candles reach back far enough, or if the exchange
        has no older klines."""
        now = await history.server_time()
        pane = await asyncio.to_thread(self._first_pane, symbol)
        if pane is not None and pane <= now - self._span_us:
            return None
        until = floor_time(now - _SETTLE_US, self._windows.slide_us) if pane is None else pane
        # From a full hour on, so that the first roll-ups are complete; or from the symbol's listing on.
        since = floor_time(now - self._span_us, _HOUR_US)
        first = await history.first_kline_time(symbol, _KLINE, since)
        if first is None or first >= until:
            return None
        return _Missing(symbol, max(since, first), until, await _id_at(history, symbol, until))

    def _first_pane(self, symbol: str) -> int | None:
        """Return the time before which no candle has a trade: the start of the first candle's last pane.

        Sliding windows overlap: of the first window, only this pane is in no earlier window.
        """
        first = self._reader.first_open_time(symbol, self._windows.interval)
        return None if first is None else first + self._windows.size_us - self._windows.slide_us

    async def _load_chunk(self, history: TradeHistory, missing: _Missing) -> None:
        """Load the newest chunk of ``missing``, and shorten ``missing`` by it."""
        symbol, until = missing.symbol, missing.until
        since = newest_chunk(missing.since, until)
        first_id = await _id_at(history, symbol, since)
        klines = await history.klines(symbol, _KLINE, since, until)
        proved = await self._proved(history, symbol, Stretch(since, until, first_id, missing.end_id), klines)
        overlap = None
        if proved:
            overlap = await asyncio.to_thread(self._store.load, proved, Source.KLINE, until)
        if overlap is not None:
            pane = await asyncio.to_thread(self._first_pane, symbol)
            if pane is not None and pane < until:  # trades of this time were merged meanwhile
                missing.until = max(missing.since, pane)
                missing.end_id = await _id_at(history, symbol, missing.until)
                return
            _log.warning(
                "%s: skipped klines from %d to %d: their trades are in candles already", symbol, since, until
            )
        missing.until, missing.end_id = since, first_id

    async def _proved(
        self, history: TradeHistory, symbol: str, stretch: Stretch, klines: Sequence[Kline]
    ) -> list[str]:
        """Return the partial candles of a stretch; if it is not proved, of those smaller parts that are."""
        if stretch.is_proved_by(klines):
            return partials(stretch, klines, self._windows)
        middle = stretch.middle
        if middle is None:
            _log.warning(
                "%s: the klines' trade counts don't match trades %d to %d: left as a gap to fill",
                symbol,
                stretch.first_id,
                stretch.end_id - 1,
            )
            return []
        middle_id = await _id_at(history, symbol, middle)
        older = Stretch(stretch.since, middle, stretch.first_id, middle_id)
        newer = Stretch(middle, stretch.until, middle_id, stretch.end_id)
        return [part for half in (older, newer) for part in await self._proved(history, symbol, half, klines)]


async def _id_at(history: TradeHistory, symbol: str, time_us: int) -> int:
    """Like ``TradeHistory.id_at``, for a symbol with klines. Raises ExchangeError if it has no trades."""
    found = await history.id_at(symbol, time_us)
    if found is None:
        raise ExchangeError(f"the exchange has klines of {symbol}, but no trades")
    return found
