"""The forecaster process: forecasts each symbol's next closes, and scores the forecasts as candles close.

The models' state is not stored. At the start, the process replays each symbol's latest candles through the
same code (``race.py``). So the state depends only on the candles, and a restart loses nothing.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Final

from candleflow.errors import StoreError
from candleflow.forecast.race import VERSION, Forecast, Race
from candleflow.forecast.scores import FEWEST, JUDGED, scored, scores
from candleflow.market.stored import StoredCandle
from candleflow.market.window import DAY_US
from candleflow.metrics.serving import served_heartbeat
from candleflow.process_loop import exit_status, until_stopped
from candleflow.settings import Settings
from candleflow.store.clearing import Clearing
from candleflow.store.credentials import Role
from candleflow.store.forecasts import Close, ForecastStore, NewForecast

_log = logging.getLogger(__name__)

NAME: Final = "forecaster"
LOOK_SECONDS: Final = 0.5
BEAT_SECONDS: Final = 1.0
REPLAYED: Final = 2_000
"""Candles per symbol replayed at the start: nearly 3 h of 5 s candles."""
TEND_SECONDS: Final = 60.0
_JUDGED_SYMBOLS: Final = 100
"""Maximum symbols whose skill is reported: each costs one query a minute."""
_PAGE: Final = 200
"""Maximum new candles per symbol and query. After a longer pause some are skipped, and forecasts pause."""
_FILLED: Final = 120
"""How many recent candles to score again, as gaps may be filled late: 10 min of 5 s candles."""


def run(settings: Settings) -> int:
    """Run the forecaster until stopped; return the exit status. Logs to stderr."""

    def work() -> None:
        asyncio.run(Forecaster(settings, ForecastStore.from_settings(settings, Role.FORECASTER)).run())

    return exit_status(NAME, settings, work)


class Forecaster:
    """One run of the forecaster. ``counts`` returns how many forecasts were made and scored."""

    def __init__(self, settings: Settings, store: ForecastStore) -> None:
        self._settings = settings
        self._store = store
        self._size_us = settings.windows.size_us
        self._races: dict[str, Race] = {}
        self._known: dict[str, int] = {}
        """By symbol, the open time of the last candle that was processed."""
        self._heartbeat = served_heartbeat(settings, NAME)
        self._clearing = Clearing("old forecasts")
        self._stop = asyncio.Event()
        self._message = "starts"
        self._made = self._scored = self._late = 0
        self.skill: Mapping[str, dict[str, float]] = {}
        """Skill by symbol (``skill``), with its confidence interval (``skill_lower``, ``skill_upper``)."""

    def stop(self) -> None:
        """Make ``run`` return within a second or two."""
        self._stop.set()

    def counts(self) -> Mapping[str, int | float]:
        """Return how many forecasts this run stored and scored.

        ``late``: forecasts that were made after their window had begun. They are discarded.
        """
        return {"forecasts": self._made, "scored": self._scored, "late": self._late}

    async def run(self) -> None:
        """Forecast until SIGTERM, SIGINT or ``stop``."""
        try:
            await until_stopped(self._stop, self._work(), self._tend(), self._beat())
        finally:
            self._heartbeat.remove()
            self._store.close()

    async def _work(self) -> None:
        while True:
            try:
                await asyncio.to_thread(self.look)
                self._message = ", ".join(self._settings.symbols[:10])
            except StoreError as error:
                self._message = f"waits: {error}"
            await asyncio.sleep(LOOK_SECONDS)

    def look(self) -> list[NewForecast]:
        """Read newly closed candles, score their forecasts, learn from them, and make the next forecasts.

        Returns the new forecasts, late ones too. Raises StoreError while PostgreSQL is unavailable; the next
        call continues. A forecast that could not be stored is missing, but no stored one is wrong.
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
        """Replay the latest candles of each new symbol, one symbol after the other to limit memory."""
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
        """Learn from the candles; return the newest one's forecast. Those of earlier candles are too late."""
        made: Forecast | None = None
        for one in candles:
            self._known[symbol] = one.open_time
            made = self._races[symbol].add(one) if one.is_complete else None
        return [] if made is None else [_new(symbol, made)]

    async def _tend(self) -> None:
        while True:
            try:
                await asyncio.to_thread(self.tend, time.time_ns() // 1_000)
                if self._settings.metrics.port:  # the skill is only used in the metrics
                    await asyncio.to_thread(self.judge)
            except StoreError as error:
                _log.info(
                    "old forecasts are not deleted and late candles not scored now, next try in a minute: %s",
                    error,
                )
            await asyncio.sleep(TEND_SECONDS)

    def tend(self, now: int) -> None:
        """Delete old forecasts, and score those whose candles were incomplete at first and are filled now.

        ``now`` in microseconds. Raises StoreError while PostgreSQL is unavailable.
        """
        oldest = now - int(self._settings.forecast_days * DAY_US)
        while self._clearing.step(partial(self._store.drop_before, oldest)):
            pass
        for symbol, known in list(self._known.items()):
            again = self._store.candles({symbol: known - _FILLED * self._size_us}, _FILLED)
            self._scored += self._store.score(closes(again.get(symbol, [])))

    def judge(self) -> None:
        """Compute each symbol's skill. Raises StoreError while PostgreSQL is unavailable."""
        skill: dict[str, dict[str, float]] = defaultdict(dict)
        for symbol in self._settings.symbols[:_JUDGED_SYMBOLS]:
            found = scores(scored(self._store.recent(symbol, 0, JUDGED)), self._size_us)
            if found is not None and found.count >= FEWEST:
                skill["skill"][symbol] = round(found.skill, 6)
                skill["skill_lower"][symbol] = round(found.skill_lower, 6)
                skill["skill_upper"][symbol] = round(found.skill_upper, 6)
        self.skill = skill

    async def _beat(self) -> None:
        while True:
            state = "waiting" if self._message.startswith("waits") else "running"
            self._heartbeat.beat(state, self._message, self.counts(), self.skill)
            await asyncio.sleep(BEAT_SECONDS)


def closes(candles: Iterable[StoredCandle]) -> list[Close]:
    """Return the closes of the complete candles, which forecasts are scored by."""
    return [Close(one.symbol, one.open_time, one.close) for one in candles if one.is_complete]


def _new(symbol: str, made: Forecast) -> NewForecast:
    return NewForecast(
        symbol, made.open_time, made.model, VERSION, made.forecast, made.lower, made.upper, made.last_close
    )
