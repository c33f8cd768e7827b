"""The page's process: joins the screen to the store, and starts Streamlit's server for ``up``.

``streamlit run dashboard.py`` runs ``PAGE``, which calls ``page``, for every viewer and every change of a
control. ``run`` becomes that very command, on the port of the settings.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import streamlit as st

from candleflow import environment
from candleflow import settings as settings_module
from candleflow.dashboard import page as screen
from candleflow.dashboard.alert_desk import StoredDesk
from candleflow.dashboard.shared_answers import SharedAnswers, Viewer
from candleflow.dashboard.source import (
    OpenGaps,
    ShownCandle,
    ShownForecast,
    Sparkline,
    SymbolState,
    TrackRecord,
)
from candleflow.dashboard.sparkline import sparkline
from candleflow.errors import SettingError, StackError, StoreError
from candleflow.forecast import words as forecast_words
from candleflow.forecast.process import JUDGED, scored
from candleflow.forecast.scores import scores
from candleflow.market.window import SECOND_US
from candleflow.producer.roster import expected_producers
from candleflow.settings import Settings, channels_of
from candleflow.store.credentials import Role
from candleflow.store.forecasts import ForecastStore
from candleflow.store.reader import CandleReader
from candleflow.telemetry import Heartbeat, read_heartbeat, set_up_logging

_IN_WHEEL: Final = Path(__file__).parent / "app" / "dashboard.py"
"""Where a wheel has the repository's dashboard.py and .streamlit (pyproject.toml)."""
SCRIPT: Final = _IN_WHEEL if _IN_WHEEL.exists() else Path(__file__).parents[2] / "dashboard.py"
"""Its neighbour ``.streamlit/config.toml`` goes with it, whatever folder the command is run in."""
PAGE: Final = Path(__file__).with_name("script.py")
"""The script of the app that ``SCRIPT`` makes."""

LOCAL_HOSTS: Final = ("localhost", "127.0.0.1")
"""As in ``.streamlit/config.toml``: an option of the command stands in place of those there."""

_FIRST_SECONDS: Final = 30
"""A symbol's first candle changes only when history is loaded before it."""

_SPARKLINES_SECONDS: Final = 30
"""A line of a day, 72 pixels wide, is no other within half a minute."""

_PROCESSES: Final = ("processor", "audit")
"""Those that should run, wherever the page does, beside the producers, and that tell of themselves by a
heartbeat."""
_ALERTS: Final = "alerts"
"""Should run where there is a channel to send by: without one, nobody waits for a message."""

_GAPS_LISTED: Final = 5

_FORECASTS_DRAWN: Final = 2_002
"""As many as candles are drawn, and those ahead."""
_RECORD_SECONDS: Final = 30

_LOG: Final = logging.getLogger(__name__)


def page() -> None:
    """Show the page; where a setting is wrong, the one sentence that says so."""
    try:
        settings = _settings()
    except SettingError as error:
        screen.configure(is_simulated=False)
        screen.complain(str(error))
        print(error, file=sys.stderr)  # no logging yet: its level is a setting
        return
    screen.configure(is_simulated=settings.exchange.is_simulated)
    screen.show(
        SharedSource,
        settings.symbols,
        settings.windows,
        _now,
        is_simulated=settings.exchange.is_simulated,
        alert_desk=_alert_desk(),
    )


def run(settings: Settings) -> int:
    """Become Streamlit's server on ``settings.dashboard.port``. Its exit status is 0 after SIGTERM or Ctrl-C.

    Raises StackError if the port is taken.
    """
    _check_port(settings.dashboard.port)
    started = command(settings.dashboard.port, settings.dashboard.public_url)
    os.execv(sys.executable, started)  # nosec B606 # noqa: S606 - no shell is wanted


@asynccontextmanager
async def stopped_well(_: st.App) -> AsyncIterator[None]:
    """The app's lifespan: a stop that was asked for ends with status 0.

    Having stopped, uvicorn sends itself the signal once more, which would end the process as if by a failure.
    """
    yield
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})


def ask_store() -> None:
    """Raises StoreError while PostgreSQL has no candles to give, SettingError where a setting is wrong."""
    Viewer(_answers()).ask("symbols", _reader().symbols)


def command(port: int, public_url: str | None = None) -> list[str]:
    """The command that serves the page on ``port`` of 127.0.0.1, from any working folder.

    A browser at ``public_url`` may open the page's WebSocket too, through a proxy that passes ``Host`` on:
    Streamlit takes an Origin that is the same as the Host, and a Host that is allowed.
    """
    served = [sys.executable, "-m", "streamlit", "run", str(SCRIPT), f"--server.port={port}"]
    if public_url is None:
        return served
    hosts = (*LOCAL_HOSTS, urlsplit(public_url).hostname)
    return [*served, *(f"--server.allowedHosts={host}" for host in hosts)]


class SharedSource:
    """A PageSource for one part of one viewer's page: all share one reader, and its answers.

    The answers themselves are shared, not copies: their rows are frozen, and st.cache_data would take 11 ms a
    refresh to pickle 361 of them and back.
    """

    def __init__(self) -> None:
        self._viewer = Viewer(_answers())

    def refresh(self) -> None:
        self._viewer.refresh()

    def candles(
        self, symbol: str, bucket_seconds: int, since: int | None, limit: int
    ) -> Sequence[ShownCandle]:
        return self._viewer.ask(
            ("candles", symbol, bucket_seconds, _candles_back(since, bucket_seconds), limit),
            lambda: _reader().candles(symbol, bucket_seconds, since, limit),
        )

    def open_gaps(self, symbol: str, bucket_seconds: int, since: int, limit: int) -> OpenGaps:
        return self._viewer.ask(
            ("gaps", symbol, bucket_seconds, _candles_back(since, bucket_seconds), limit),
            lambda: _reader().open_gaps(symbol, bucket_seconds, since, limit, _GAPS_LISTED),
        )

    def first_open_time(self, symbol: str) -> int | None:
        return _first_open_time(symbol)

    def symbols(self) -> Sequence[SymbolState]:
        return self._viewer.ask("symbols", _reader().symbols)

    def sparklines(self) -> Mapping[str, Sparkline]:
        return _sparklines()

    def heartbeats(self) -> Mapping[str, Heartbeat | None]:
        return self._viewer.ask("heartbeats", _heartbeats)

    def forecasts(self, symbol: str, since: int) -> Sequence[ShownForecast] | None:
        if self._nobody_forecasts():
            return None
        try:
            return self._viewer.ask(
                ("forecasts", symbol, since), lambda: _forecasts().recent(symbol, since, _FORECASTS_DRAWN)
            )
        except StoreError:
            return None

    def track_record(self, symbol: str) -> TrackRecord | None:
        try:
            return None if self._nobody_forecasts() else _track_record(symbol)
        except StoreError:
            return None

    def _nobody_forecasts(self) -> bool:
        beat = self._viewer.ask("forecaster", lambda: read_heartbeat(_settings().stack.run_dir, "forecaster"))
        return beat is None


def _candles_back(since: int | None, bucket_seconds: int) -> int | None:
    """How many candles ago a look-back begins.

    It begins later with each candle, but as many candles back: so that an answer is shared across that moment
    too. One from before it begins a candle earlier, and the page leaves that out.
    """
    if since is None:
        return None
    return _now() // SECOND_US // bucket_seconds - since // SECOND_US // bucket_seconds


def _now() -> int:
    """Microseconds since the epoch."""
    return time.time_ns() // 1_000


@st.cache_resource(show_spinner=False)
def _settings() -> Settings:
    """The settings as the process found them; a wrong one is looked at anew by the next viewer."""
    environment.prepare()
    settings = settings_module.load()
    set_up_logging("dashboard", settings.log.level, settings.log.format)
    return settings


@st.cache_resource(show_spinner=False)
def _reader() -> CandleReader:
    return CandleReader.from_settings(_settings())


@st.cache_resource(show_spinner=False)
def _forecasts() -> ForecastStore:
    return ForecastStore.from_settings(_settings(), Role.READER)


@st.cache_resource(ttl=_RECORD_SECONDS, max_entries=100, show_spinner=False)
def _track_record(symbol: str) -> TrackRecord | None:
    """What the newest forecasts that were scored are worth."""
    size_us = _settings().windows.size_us
    found = scores(scored(_forecasts().recent(symbol, 0, JUDGED)), size_us)
    if found is None:
        return None
    simulated = "Of a made-up market. " if _settings().exchange.is_simulated else ""
    return TrackRecord(
        has_skill=found.has_skill,
        is_covered=found.is_covered,
        verdict=found.verdict,
        sentences=simulated + ". ".join(forecast_words.sentences(found)) + ".",
        rows=tuple(
            (name, f"{value} against {beside}" if beside else value)
            for name, value, beside in forecast_words.table(found)
        ),
    )


@st.cache_resource(show_spinner=False)
def _alert_desk() -> StoredDesk:
    return StoredDesk(_settings())


@st.cache_resource(show_spinner=False)
def _answers() -> SharedAnswers:
    return SharedAnswers()


@st.cache_resource(ttl=_FIRST_SECONDS, max_entries=100, show_spinner=False)
def _first_open_time(symbol: str) -> int | None:
    return _reader().first_open_time(symbol, _settings().windows.interval)


@st.cache_resource(ttl=_SPARKLINES_SECONDS, max_entries=1, show_spinner=False)
def _sparklines() -> Mapping[str, Sparkline]:
    return {one.symbol: sparkline(one.open_times, one.first_open, one.closes) for one in _reader().days()}


def _heartbeats() -> Mapping[str, Heartbeat | None]:
    settings = _settings()
    return {name: read_heartbeat(settings.stack.run_dir, name) for name in watched(settings)}


def watched(settings: Settings) -> Sequence[str]:
    """The processes that the trust strip tells of."""
    simulator = ("simulator",) if settings.exchange.is_simulated else ()
    alerts = (_ALERTS,) if channels_of(settings.alert.channels.get_secret_value()) else ()
    return *simulator, *expected_producers(settings.stack.run_dir), *_PROCESSES, *alerts


def _check_port(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise StackError(
                f"port {port} is taken; CANDLEFLOW_DASHBOARD_PORT chooses another for the page"
            ) from error
