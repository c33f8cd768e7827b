"""What the page reads: candles, gaps, forecasts and heartbeats, with results shared by all viewers.

Times are microseconds since the epoch, UTC; prices and volumes are exact decimals.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import streamlit as st

from candleflow import environment
from candleflow import settings as settings_module
from candleflow.dashboard.alert_rules import AlertRules
from candleflow.dashboard.quotes import Sparkline, sparkline
from candleflow.dashboard.shared_answers import SharedAnswers, Viewer
from candleflow.errors import StoreError
from candleflow.forecast.scores import JUDGED, Scores, scored, scores
from candleflow.market.stored import OpenGaps, StoredCandle, SymbolState
from candleflow.market.window import SECOND_US
from candleflow.producer.roster import expected_producers
from candleflow.settings import Settings, channels_of
from candleflow.store.credentials import Role
from candleflow.store.forecasts import ForecastStore, KeptForecast
from candleflow.store.reader import CandleReader
from candleflow.telemetry import Heartbeat, read_heartbeat, set_up_logging

_SLOW_SECONDS: Final = 30
"""How long the first candle's time, the scores and the sparklines are cached: they change slowly."""
_MOST_SYMBOLS: Final = 100
_GAPS_LISTED: Final = 5
_FORECASTS_DRAWN: Final = 2_002
"""As many as the candles drawn (2,000), and the forecasts ahead of them."""
_PROCESSES: Final = ("processor", "audit")
"""Processes, besides the producers, whose heartbeat the page expects."""


@dataclass(frozen=True)
class Shared:
    """What all viewers share: the settings, the database connections and the cached results."""

    settings: Settings
    reader: CandleReader
    forecasts: ForecastStore
    alert_rules: AlertRules
    answers: SharedAnswers


@st.cache_resource(show_spinner=False)
def shared() -> Shared:
    """Return the shared objects, made at the first call. Raises SettingError or StoreError; the next call
    then retries."""
    environment.prepare()
    settings = settings_module.load()
    set_up_logging("dashboard", settings.log.level, settings.log.format)
    return Shared(
        settings,
        CandleReader.from_settings(settings),
        ForecastStore.from_settings(settings, Role.READER),
        AlertRules(settings),
        SharedAnswers(),
    )


def now_us() -> int:
    """Return the time in microseconds since the epoch."""
    return time.time_ns() // 1_000


class PageSource:
    """Data source of one fragment of one viewer's page.

    While PostgreSQL is away, all methods raise StoreError but ``refresh``, ``heartbeats``, ``forecasts`` and
    ``scores``. Results are shared between viewers, not copied; their rows are frozen. (st.cache_data would
    pickle them: 11 ms a refresh for 361 candles.)
    """

    def __init__(self) -> None:
        self._shared = shared()
        self._viewer = Viewer(self._shared.answers)

    def refresh(self) -> None:
        """Begin a refresh: results that were returned before are too old from now on."""
        self._viewer.refresh()

    def candles(
        self, symbol: str, bucket_seconds: int, since: int | None, limit: int
    ) -> Sequence[StoredCandle]:
        """Return the newest ``limit`` candles that open at ``since`` or later, oldest first."""
        return self._viewer.ask(
            ("candles", symbol, bucket_seconds, _candles_back(since, bucket_seconds), limit),
            lambda: self._shared.reader.candles(symbol, bucket_seconds, since, limit),
        )

    def open_gaps(self, symbol: str, bucket_seconds: int, since: int, limit: int) -> OpenGaps:
        """Return the gaps among the candles that ``candles`` returns for the same arguments."""
        return self._viewer.ask(
            ("gaps", symbol, bucket_seconds, _candles_back(since, bucket_seconds), limit),
            lambda: self._shared.reader.open_gaps(symbol, bucket_seconds, since, limit, _GAPS_LISTED),
        )

    def first_open_time(self, symbol: str) -> int | None:
        """Return when the symbol's first candle opened; None if it has none."""
        return _first_open_time(symbol)

    def symbols(self) -> Sequence[SymbolState]:
        """Return the state of every symbol with a stored trade."""
        return self._viewer.ask("symbols", self._shared.reader.symbols)

    def sparklines(self) -> Mapping[str, Sparkline]:
        """Return the sparkline of every symbol with candles, by symbol."""
        return _sparklines()

    def heartbeats(self) -> Mapping[str, Heartbeat | None]:
        """Return the last heartbeat of each process that should run; None if its file does not exist."""
        return self._viewer.ask("heartbeats", lambda: _heartbeats(self._shared.settings))

    def forecasts(self, symbol: str, since: int) -> Sequence[KeptForecast] | None:
        """Return the forecasts of candles that open at ``since`` or later, in order.

        None if no forecaster runs, or if they can't be read: candles are shown without them.
        """
        if self._has_no_forecaster():
            return None
        try:
            return self._viewer.ask(
                ("forecasts", symbol, since),
                lambda: self._shared.forecasts.recent(symbol, since, _FORECASTS_DRAWN),
            )
        except StoreError:
            return None

    def scores(self, symbol: str) -> Scores | None:
        """Return the scores of the newest forecasts; None if no forecaster runs, or none was scored yet."""
        try:
            return None if self._has_no_forecaster() else _scores(symbol)
        except StoreError:
            return None

    def _has_no_forecaster(self) -> bool:
        run_dir = self._shared.settings.stack.run_dir
        return self._viewer.ask("forecaster", lambda: read_heartbeat(run_dir, "forecaster")) is None


def _candles_back(since: int | None, bucket_seconds: int) -> int | None:
    """Return how many candles ago ``since`` is.

    Used as cache key: ``since`` moves with each new candle, this number doesn't, so a result stays shared
    across that moment. A result from before it begins one candle earlier, which the page leaves out.
    """
    if since is None:
        return None
    return now_us() // SECOND_US // bucket_seconds - since // SECOND_US // bucket_seconds


@st.cache_resource(ttl=_SLOW_SECONDS, max_entries=_MOST_SYMBOLS, show_spinner=False)
def _first_open_time(symbol: str) -> int | None:
    return shared().reader.first_open_time(symbol, shared().settings.windows.interval)


@st.cache_resource(ttl=_SLOW_SECONDS, max_entries=_MOST_SYMBOLS, show_spinner=False)
def _scores(symbol: str) -> Scores | None:
    return scores(scored(shared().forecasts.recent(symbol, 0, JUDGED)), shared().settings.windows.size_us)


@st.cache_resource(ttl=_SLOW_SECONDS, max_entries=1, show_spinner=False)
def _sparklines() -> Mapping[str, Sparkline]:
    return {one.symbol: sparkline(one) for one in shared().reader.days()}


def _heartbeats(settings: Settings) -> Mapping[str, Heartbeat | None]:
    return {name: read_heartbeat(settings.stack.run_dir, name) for name in watched(settings)}


def watched(settings: Settings) -> Sequence[str]:
    """Return the names of the processes in the trust strip; ``alerts`` only if a channel is configured."""
    simulator = ("simulator",) if settings.exchange.is_simulated else ()
    alerts = ("alerts",) if channels_of(settings.alert.channels.get_secret_value()) else ()
    return *simulator, *expected_producers(settings.stack.run_dir), *_PROCESSES, *alerts
