"""What the page reads: candles, gaps, forecasts and heartbeats, one answer for all viewers who ask the same.

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
"""How long the first candle's time, the scores and the sparklines are kept: they change slowly."""
_MOST_SYMBOLS: Final = 100
_GAPS_LISTED: Final = 5
_FORECASTS_DRAWN: Final = 2_002
"""As many as candles are drawn, and those ahead."""
_PROCESSES: Final = ("processor", "audit")
"""Those with a heartbeat, beside the producers, that should run wherever the page does."""


@dataclass(frozen=True)
class Shared:
    """What all viewers share: the settings, the connections, and the newest answers."""

    settings: Settings
    reader: CandleReader
    forecasts: ForecastStore
    alert_rules: AlertRules
    answers: SharedAnswers


@st.cache_resource(show_spinner=False)
def shared() -> Shared:
    """Made once. Raises SettingError or StoreError in a sentence; then the next viewer tries again."""
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
    """Microseconds since the epoch."""
    return time.time_ns() // 1_000


class PageSource:
    """Answers one part of one viewer's page.

    All but ``refresh``, ``heartbeats`` and those of forecasts raise StoreError while PostgreSQL is away. The
    answers are shared, not copies: their rows are frozen, and st.cache_data would take 11 ms a refresh to
    pickle 361 of them and back.
    """

    def __init__(self) -> None:
        self._shared = shared()
        self._viewer = Viewer(self._shared.answers)

    def refresh(self) -> None:
        """From here on, what was answered before is too old."""
        self._viewer.refresh()

    def candles(
        self, symbol: str, bucket_seconds: int, since: int | None, limit: int
    ) -> Sequence[StoredCandle]:
        """The newest ``limit`` candles that open at ``since`` or later, oldest first."""
        return self._viewer.ask(
            ("candles", symbol, bucket_seconds, _candles_back(since, bucket_seconds), limit),
            lambda: self._shared.reader.candles(symbol, bucket_seconds, since, limit),
        )

    def open_gaps(self, symbol: str, bucket_seconds: int, since: int, limit: int) -> OpenGaps:
        """The gaps in what ``candles`` gives for the same arguments."""
        return self._viewer.ask(
            ("gaps", symbol, bucket_seconds, _candles_back(since, bucket_seconds), limit),
            lambda: self._shared.reader.open_gaps(symbol, bucket_seconds, since, limit, _GAPS_LISTED),
        )

    def first_open_time(self, symbol: str) -> int | None:
        """When the symbol's first candle opened; None where it has none."""
        return _first_open_time(symbol)

    def symbols(self) -> Sequence[SymbolState]:
        """Every symbol that has had a trade."""
        return self._viewer.ask("symbols", self._shared.reader.symbols)

    def sparklines(self) -> Mapping[str, Sparkline]:
        """The last day of every symbol that has candles, by its name."""
        return _sparklines()

    def heartbeats(self) -> Mapping[str, Heartbeat | None]:
        """The last heartbeat of each process that should run; None where it has none here."""
        return self._viewer.ask("heartbeats", lambda: _heartbeats(self._shared.settings))

    def forecasts(self, symbol: str, since: int) -> Sequence[KeptForecast] | None:
        """Of the finest candles that open at ``since`` or later, in order; None where nobody forecasts.

        Candles matter more: where forecasts can't be read, there are none.
        """
        if self._nobody_forecasts():
            return None
        try:
            return self._viewer.ask(
                ("forecasts", symbol, since),
                lambda: self._shared.forecasts.recent(symbol, since, _FORECASTS_DRAWN),
            )
        except StoreError:
            return None

    def scores(self, symbol: str) -> Scores | None:
        """Of the newest scored forecasts; None where nobody forecasts, or nothing was scored yet."""
        try:
            return None if self._nobody_forecasts() else _scores(symbol)
        except StoreError:
            return None

    def _nobody_forecasts(self) -> bool:
        run_dir = self._shared.settings.stack.run_dir
        return self._viewer.ask("forecaster", lambda: read_heartbeat(run_dir, "forecaster")) is None


def _candles_back(since: int | None, bucket_seconds: int) -> int | None:
    """How many candles ago a look-back begins.

    It begins later with each candle, but as many candles back: so that an answer is shared across that moment
    too. One from before it begins a candle earlier, and the page leaves that out.
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
    """The processes that the trust strip tells of; the alerts' only where there is a channel to send by."""
    simulator = ("simulator",) if settings.exchange.is_simulated else ()
    alerts = ("alerts",) if channels_of(settings.alert.channels.get_secret_value()) else ()
    return *simulator, *expected_producers(settings.stack.run_dir), *_PROCESSES, *alerts
