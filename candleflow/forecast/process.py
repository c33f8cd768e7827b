"""The forecaster's process: forecasts each symbol's closes, and holds them against what came.

What has been learned is in no file: at a start each symbol's last candles go through the same code once more
(``watch.forecast``), so that state is a function of the candles, and a restart loses nothing but time.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Final

from candleflow.errors import CandleflowError, StoreError
from candleflow.forecast.race import VERSION, Forecast, Race
from candleflow.forecast.scores import FEWEST, Scored, scores
from candleflow.market.stored import StoredCandle
from candleflow.market.window import DAY_US
from candleflow.metrics.serving import served_heartbeat
from candleflow.settings import Settings
from candleflow.store.clearing import Clearing
from candleflow.store.credentials import Role
from candleflow.store.forecasts import Close, ForecastStore, KeptForecast, NewForecast
from candleflow.telemetry import set_up_logging

_log = logging.getLogger(__name__)

NAME: Final = "forecaster"
LOOK_SECONDS: Final = 0.5
BEAT_SECONDS: Final = 1.0
REPLAYED: Final = 2_000
"""Candles that a symbol's learners see at the start: nearly three hours of 5 s, of which they forget half."""
TEND_SECONDS: Final = 60.0

JUDGED: Final = 2_000
"""A symbol's skill is that of so many forecasts: nearly three hours of 5 s."""
_JUDGED_SYMBOLS: Final = 100
"""The skill of so many symbols at most is told: each is a question to PostgreSQL a minute."""
_PAGE: Final = 200
"""Candles of a symbol that are asked for at once while it runs: after a longer pause the chain breaks."""
_FILLED: Final = 120
"""Candles that are looked at again, as a hole takes its time to be filled: ten minutes of 5 s."""


def run(settings: Settings) -> int:
    """Forecast until told to stop; the exit status. Logs to stderr."""
    set_up_logging(NAME, settings.log.level, settings.log.format)
    try:
        asyncio.run(Forecaster(settings, ForecastStore.from_settings(settings, Role.FORECASTER)).run())
    except CandleflowError as error:
        _log.error("%s", error, exc_info=settings.log.level == "DEBUG")
        return error.exit_status
    return 0


class Forecaster:
    """One run. ``counts`` tells what was made and scored so far."""

    def __init__(self, settings: Settings, store: ForecastStore) -> None:
        self._settings = settings
        self._store = store
        self._size_us = settings.windows.size_us
        self._races: dict[str, Race] = {}
        self._known: dict[str, int] = {}
        """By symbol the open time of the last candle that was looked at."""
        self._heartbeat = served_heartbeat(settings, NAME)
        self._clearing = Clearing("old forecasts")
        self._stop = asyncio.Event()
        self._message = "starts"
        self._made = self._scored = self._late = 0
        self._skill: dict[str, float] = {}

    def stop(self) -> None:
        """``run`` then returns within a second or two."""
        self._stop.set()

    def counts(self) -> Mapping[str, int | float]:
        """Forecasts kept and scored by this run; ``late`` are those whose window had begun: they count for
        nothing. By symbol (``skill:BTCUSDT``) the skill, with the ends of its interval."""
        return {"forecasts": self._made, "scored": self._scored, "late": self._late, **self._skill}

    async def run(self) -> None:
        """Forecast until SIGTERM, SIGINT or ``stop``."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)
        tasks = [asyncio.create_task(work) for work in (self._work(), self._tend(), self._beat())]
        stopped = asyncio.create_task(self._stop.wait())
        try:
            await asyncio.wait([*tasks, stopped], return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._stop.set()
            for task in (*tasks, stopped):
                task.cancel()
            ended = await asyncio.gather(*tasks, return_exceptions=True)
            self._heartbeat.remove()
            self._store.close()
        for one in ended:
            if isinstance(one, Exception):
                raise one

    async def _work(self) -> None:
        while True:
            try:
                await asyncio.to_thread(self.look)
                self._message = ", ".join(self._settings.symbols[:10])
            except StoreError as error:
                self._message = f"waits: {error}"
            await asyncio.sleep(LOOK_SECONDS)

    def look(self) -> list[NewForecast]:
        """Learn from the candles that closed since, score what they were forecast to be, and forecast anew.

        Returns what it made, late ones too. Raises StoreError while PostgreSQL can't answer: the next
        look goes on from there, and a forecast that couldn't be kept is missing, none is wrong.
        """
        made = self._start_new()
        known = {symbol: self._known.get(symbol) for symbol in self._races}
        found = self._store.candles(known, _PAGE) if known else {}
        fresh = {symbol: self._after(symbol, candles) for symbol, candles in found.items()}
        self._scored += self._store.score([one for some in fresh.values() for one in closes(some)])
        for symbol, candles in fresh.items():
            made += self._learn(symbol, candles)
        if made:
            kept = self._store.keep(made)
            self._made += kept
            self._late += len(made) - kept
        return made

    def _start_new(self) -> list[NewForecast]:
        """Replay the last candles of each symbol that hasn't been, one after the other, as they are many."""
        made = []
        for symbol in self._settings.symbols:
            if symbol in self._races or self._stop.is_set():
                continue
            candles = self._store.candles({symbol: None}, REPLAYED).get(symbol, [])
            self._scored += self._store.score(closes(candles))
            self._races[symbol] = Race(self._size_us)
            made += self._learn(symbol, candles)
        return made

    def _after(self, symbol: str, candles: Sequence[StoredCandle]) -> list[StoredCandle]:
        known = self._known.get(symbol, -1)
        return [one for one in candles if one.open_time > known]

    def _learn(self, symbol: str, candles: Sequence[StoredCandle]) -> list[NewForecast]:
        """The forecast that the newest candle leads to; those of the candles before it come too late."""
        made: Forecast | None = None
        for one in candles:
            self._known[symbol] = one.open_time
            made = self._races[symbol].add(one) if one.is_complete else None
        return [] if made is None else [_new(symbol, made)]

    async def _tend(self) -> None:
        while True:
            try:
                await asyncio.to_thread(self.tend, time.time_ns() // 1_000)
                if self._settings.metrics.port:  # nobody else looks at it
                    await asyncio.to_thread(self.judge)
            except StoreError as error:
                _log.info("forecasts aren't tended now: %s", error)
            await asyncio.sleep(TEND_SECONDS)

    def tend(self, now: int) -> None:
        """Delete what is too old, and score by candles that were incomplete at first and have been filled.

        ``now`` in microseconds. Raises StoreError while PostgreSQL can't answer.
        """
        oldest = now - int(self._settings.forecast_days * DAY_US)
        while self._clearing.step(partial(self._store.drop_before, oldest)):
            pass
        for symbol, known in list(self._known.items()):
            again = self._store.candles({symbol: known - _FILLED * self._size_us}, _FILLED)
            self._scored += self._store.score(closes(again.get(symbol, [])))

    def judge(self) -> None:
        """Find each symbol's skill anew. Raises StoreError while PostgreSQL can't answer."""
        skill: dict[str, float] = {}
        for symbol in self._settings.symbols[:_JUDGED_SYMBOLS]:
            found = scores(scored(self._store.recent(symbol, 0, JUDGED)), self._size_us)
            if found is not None and found.count >= FEWEST:
                skill[f"skill:{symbol}"] = round(found.skill, 6)
                skill[f"skill_lower:{symbol}"] = round(found.skill_lower, 6)
                skill[f"skill_upper:{symbol}"] = round(found.skill_upper, 6)
        self._skill = skill

    async def _beat(self) -> None:
        while True:
            state = "waiting" if self._message.startswith("waits") else "running"
            self._heartbeat.beat(state, self._message, self.counts())
            await asyncio.sleep(BEAT_SECONDS)


def closes(candles: Iterable[StoredCandle]) -> list[Close]:
    """Those that forecasts are scored by."""
    return [Close(one.symbol, one.open_time, one.close) for one in candles if one.is_complete]


def scored(kept: Iterable[KeptForecast]) -> list[Scored]:
    """Those of the forecasts that have been held against what came."""
    return [
        Scored(one.open_time, one.forecast, one.lower, one.upper, float(one.last_close), float(one.actual))
        for one in kept
        if one.actual is not None
    ]


def _new(symbol: str, made: Forecast) -> NewForecast:
    return NewForecast(
        symbol, made.open_time, made.model, VERSION, made.forecast, made.lower, made.upper, made.last_close
    )
