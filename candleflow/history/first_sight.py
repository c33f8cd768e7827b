"""History at first sight: candles from before the first trade, made of the exchange's klines of a second.

At each start of the auditor, for each symbol whose candles don't reach back far enough, what lies before the
first of them is loaded, the newest first, a quarter of an hour in one transaction. Nothing is remembered: how
far it is, is told by the candles. It waits until the processor has read all there is, and rests as long as it
works, so that the first live candles come as soon as without it.

Only what is proved is loaded (``watch.history``). What isn't stays a hole in the trade ids, as do the trades
between the last of these candles and the first trade that came live: the auditor sees such holes like any
other, and has their trades brought.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

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
"""Of a symbol that has no candle yet, klines are asked for up to so long ago: Binance's last word on one
comes up to 2 s late."""
_POLL_SECONDS: Final = 0.5
_LONGEST_REST_SECONDS: Final = 5.0
_PAUSES_SECONDS: Final = (5.0, 15.0, 60.0, 300.0)
"""Between attempts while the exchange or PostgreSQL is away."""


@dataclass(slots=True)
class _Lacking:
    """What one symbol lacks still: [since, until), microseconds; ``end_id`` is the id at ``until``."""

    symbol: str
    since: int
    until: int
    end_id: int


class HistoryLoader:
    """One run. ``state`` tells how far it is, empty when there is nothing to tell."""

    def __init__(self, settings: Settings, urls: Sequence[str], reader: CandleReader) -> None:
        """``urls``: the exchange's REST addresses; ``reader`` stays the caller's to close."""
        self._settings = settings
        self._windows = settings.windows
        self._span_us = int(settings.exchange.history_hours * _HOUR_US)
        self._reader = reader
        self._urls = urls
        self._store = HistoryStore.from_settings(settings)
        self.state = ""

    async def run(self) -> None:
        """Load what the candles lack, and return; tries again for as long as something is away."""
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
        """Until the processor says anew that it has read all there is, as it does once a second."""
        told: list[int | None] = []
        while len(set(told)) < 2:
            try:
                told.append(await asyncio.to_thread(self._reader.caught_up_at, self._settings.topic))
                self.state = "history waits for the processor"
            except StoreError as error:
                self.state = f"history waits: {error}"
            await asyncio.sleep(_POLL_SECONDS)

    async def _load_all(self, history: TradeHistory) -> None:
        """One chunk of each symbol after another, so that each has its latest candles soon."""
        unknown = deque(self._settings.symbols)
        lacking: deque[_Lacking] = deque()
        failures = 0
        while unknown or lacking:
            began_at = time.monotonic()
            try:
                if unknown:
                    found = await self._lacking(history, unknown[0])
                    unknown.popleft()
                    lacking += [found] if found is not None else []
                else:
                    await self._load_chunk(history, lacking[0])
                    lacking.rotate(-1)
                failures = 0
            except (ExchangeError, StoreError) as error:
                self.state = f"history waits: {error}"
                _log.warning("history is loaded later: %s", error)
                await asyncio.sleep(_PAUSES_SECONDS[min(failures, len(_PAUSES_SECONDS) - 1)])
                failures += 1
                continue
            for done in [one for one in lacking if one.until <= one.since]:
                _log.info(
                    "%s has its history of %g hours", done.symbol, self._settings.exchange.history_hours
                )
                lacking.remove(done)
            hours = sum(one.until - one.since for one in lacking) / _HOUR_US
            self.state = f"history: {hours:.1f} h to load" if lacking else ""
            await asyncio.sleep(min(time.monotonic() - began_at, _LONGEST_REST_SECONDS))

    async def _lacking(self, history: TradeHistory, symbol: str) -> _Lacking | None:
        """What the symbol lacks; None where its candles reach back far enough, or the exchange's klines no
        further."""
        now = await history.server_time()
        pane = await asyncio.to_thread(self._first_pane, symbol)
        if pane is not None and pane <= now - self._span_us:
            return None
        until = floor_time(now - _SETTLE_US, self._windows.slide_us) if pane is None else pane
        # From a whole hour on, so that the first roll-ups are whole too; or from the listing on.
        since = floor_time(now - self._span_us, _HOUR_US)
        first = await history.first_kline_time(symbol, _KLINE, since)
        if first is None or first >= until:
            return None
        return _Lacking(symbol, max(since, first), until, await _id_at(history, symbol, until))

    def _first_pane(self, symbol: str) -> int | None:
        """Before this time no candle has a trade: the beginning of what the first one shares with no window
        before it."""
        first = self._reader.first_open_time(symbol, self._windows.interval)
        return None if first is None else first + self._windows.size_us - self._windows.slide_us

    async def _load_chunk(self, history: TradeHistory, lacking: _Lacking) -> None:
        """Load the newest chunk of what is lacking, which is then so much less."""
        symbol, until = lacking.symbol, lacking.until
        since = newest_chunk(lacking.since, until)
        first_id = await _id_at(history, symbol, since)
        klines = await history.klines(symbol, _KLINE, since, until)
        proved = await self._proved(history, symbol, Stretch(since, until, first_id, lacking.end_id), klines)
        overlap = None
        if proved:
            overlap = await asyncio.to_thread(self._store.load, proved, Source.KLINE, until)
        if overlap is not None:
            pane = await asyncio.to_thread(self._first_pane, symbol)
            if pane is not None and pane < until:  # trades came meanwhile, of the same time
                lacking.until = max(lacking.since, pane)
                lacking.end_id = await _id_at(history, symbol, lacking.until)
                return
            _log.warning("%s: klines from %d to %d overlap candles: left out", symbol, since, until)
        lacking.until, lacking.end_id = since, first_id

    async def _proved(
        self, history: TradeHistory, symbol: str, stretch: Stretch, klines: Sequence[Kline]
    ) -> list[str]:
        """The partial candles of a stretch, of as much of it as is proved."""
        if stretch.is_proved_by(klines):
            return partials(stretch, klines, self._windows)
        middle = stretch.middle
        if middle is None:
            _log.warning(
                "%s: the exchange's klines don't account for trades %d to %d: their candles wait for them",
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
    """As ``TradeHistory.id_at``, of a symbol that has klines. Raises ExchangeError where it has no trade."""
    found = await history.id_at(symbol, time_us)
    if found is None:
        raise ExchangeError(f"{symbol} has klines, and no trades")
    return found
