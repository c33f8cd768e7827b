"""The page: controls, price header, trust strip, chart, and a message if there is nothing to draw.

Streamlit runs ``show`` for each viewer and each change of a control. A refresh runs only the fragment inside.
Text from the database reaches HTML only through ``html.escape``.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from html import escape
from typing import Final

import streamlit as st

from candleflow.dashboard import alerts_menu, chart, download_menu, grid, market_strip, symbols, words
from candleflow.dashboard.choice import (
    AUTO,
    DEFAULT_LOOK_BACK,
    LOOK_BACKS,
    REFRESHES,
    Choice,
    buckets,
    proposed,
)
from candleflow.dashboard.colours import FALLING, FORECAST, RISING
from candleflow.dashboard.component import ASSETS
from candleflow.dashboard.figure import figure
from candleflow.dashboard.looks import PERIOD_LIMITS, PERIODS, Kind, Looks, Overlay, Pane
from candleflow.dashboard.source import PageSource, now_us, shared
from candleflow.dashboard.trust_strip import TrustStrip
from candleflow.dashboard.view import Nothing, View, look
from candleflow.errors import SettingError, StoreError
from candleflow.market.window import SECOND_US
from candleflow.store.forecasts import KeptForecast

_LOG: Final = logging.getLogger(__name__)
_STYLES: Final = [
    ASSETS / f"{name}.css" for name in ("page", "chart", "keys", "market_strip", "trust_strip", "grid")
]
_COLOURS: Final = (
    f"<style>:root {{ --cf-rising: {RISING}; --cf-falling: {FALLING}; --cf-forecast: {FORECAST}; }}</style>"
)
_ICON: Final = str(ASSETS / "icon.svg")  # a named icon would be fetched from Google
_LAST_VIEW: Final = "last_view"
_LOCAL: Final = "Local"
_AWAY_SINCE: Final = "away_since"


def show() -> None:
    """Show the page, or the error message if a setting is wrong."""
    try:
        settings = shared().settings
    except (SettingError, StoreError) as error:
        _configure(is_simulated=False)
        st.error(words.escape_markdown(str(error)))
        print(error, file=sys.stderr)  # no logging yet: its level is a setting
        return
    followed, is_simulated = settings.symbols, settings.exchange.is_simulated
    _configure(is_simulated=is_simulated)
    if is_simulated:
        st.html(
            '<div class="cf-simulated"><b>SIMULATED</b> Generated trades: no market, no real prices.</div>'
        )
    offered = _offered_symbols(PageSource(), followed)
    selection, drawing, refresh_seconds = _controls(
        offered, buckets(settings.windows), is_simulated=is_simulated
    )
    market_strip.show(followed, selection.symbol, refresh_seconds)

    # Not streamlit-autorefresh: its iframe adds 5 requests and 94 KB per page load, and 112-127 ms from tick
    # to data instead of 79-82 ms (Chromium 156, 361 candles).
    @st.fragment(run_every=refresh_seconds)
    def live(source: PageSource, selection: _Selection, drawing: _Drawing) -> None:
        source.refresh()
        is_followed = selection.symbol in followed
        strip = TrustStrip(source, selection.symbol, is_followed, is_simulated, refresh_seconds, drawing.slot)
        _Cell(source, selection, drawing, strip, now_us()).show()
        if _offered_symbols(source, followed) != offered:
            st.rerun(scope="app")

    for slot, symbol in grid.cells(offered, selection.symbol):
        live(PageSource(), replace(selection, symbol=symbol), replace(drawing, slot=slot))


def _configure(*, is_simulated: bool) -> None:
    """Set the browser's title and the page's styles. Must be called before anything is drawn."""
    title = "SIMULATED - Candleflow" if is_simulated else "Candleflow"
    st.set_page_config(page_title=title, page_icon=_ICON, layout="wide", initial_sidebar_state="collapsed")
    st.html(_COLOURS)
    for style in _STYLES:
        st.html(style)


@dataclass(frozen=True, slots=True)
class _Selection:
    """What the viewer has chosen. ``bucket_seconds`` is None for Auto: the look-back decides it."""

    symbol: str
    bucket_seconds: int | None
    look_back_seconds: int | None
    offered: tuple[int, ...]

    def choice(self, source: PageSource, now: int) -> Choice:
        return Choice(self.symbol, self.bucket_seconds or self._proposed(source, now), self.look_back_seconds)

    def _proposed(self, source: PageSource, now: int) -> int:
        if self.look_back_seconds is not None:
            return proposed(self.look_back_seconds, self.offered)
        first = source.first_open_time(self.symbol)
        return proposed(0 if first is None else (now - first) / SECOND_US, self.offered)


@dataclass(frozen=True, slots=True)
class _Drawing:
    """How one chart is drawn."""

    looks: Looks
    is_local: bool
    is_simulated: bool
    finest_seconds: int
    """The shortest candle length. Forecasts exist for candles of this length only."""
    slot: int = 1
    """The chart's place on the page, from 1."""


def _controls(
    offered: Sequence[str], bucket_labels: dict[str, int], *, is_simulated: bool
) -> tuple[_Selection, _Drawing, int | None]:
    """Draw the controls; return the selection, the drawing options and the refresh interval (seconds).

    Each control is bound to the page's address, so that a reload or a shared link shows the same.
    """
    with st.container(horizontal=True, key="controls", vertical_alignment="bottom", gap="medium"):
        symbol = symbols.pick(offered)
        bucket = _segments("Candle", [AUTO, *bucket_labels], AUTO, "candle")
        look_back = _segments("Look-back", list(LOOK_BACKS), DEFAULT_LOOK_BACK, "look_back")
        with st.container(horizontal=True, width="content", key="menus", gap="small"):
            looks, is_local = _drawing_controls()
            download_menu.menu(_drawn, is_simulated=is_simulated)
            alerts_menu.menu(shared().alert_rules, offered)
        refresh = _segments("Refresh", list(REFRESHES), next(iter(REFRESHES)), "refresh")
    lengths = tuple(bucket_labels.values())
    selection = _Selection(symbol, bucket_labels.get(bucket), LOOK_BACKS[look_back], lengths)
    return selection, _Drawing(looks, is_local, is_simulated, lengths[0]), REFRESHES[refresh]


def _drawing_controls() -> tuple[Looks, bool]:
    with st.popover("Chart", key="drawing"):
        grid.count_control()
        kind = _segments("Chart type", list(Kind), Kind.CANDLES, "prices")
        overlays = _several("Overlays", list(Overlay), "overlays")
        panes = _several("Panes", list(Pane), "below")
        periods = [(name, _period(name)) for name in PERIODS if name in (*overlays, *panes)]
        is_log = st.toggle("Logarithmic scale", key="log", bind="query-params")
        past_forecasts = st.toggle("Past forecasts", key="forecasts", bind="query-params")
        zone = _segments("Time zone", ["UTC", _LOCAL], "UTC", "times")
    looks = Looks(
        Kind(kind),
        tuple(map(Overlay, overlays)),
        tuple(map(Pane, panes)),
        tuple(periods),
        is_log=is_log,
        past_forecasts=past_forecasts,
    )
    return looks, zone == _LOCAL


def _period(name: str) -> int:
    lowest, highest = PERIOD_LIMITS
    key = name.lower()
    found = st.number_input(f"{name} period", lowest, highest, PERIODS[name], key=key, bind="query-params")
    return PERIODS[name] if found is None else int(found)


def _several(label: str, options: list[str], key: str) -> list[str]:
    chosen: list[str] = st.pills(
        label, options, selection_mode="multi", default=[], key=key, bind="query-params"
    )
    return [one for one in options if one in chosen]  # in the order of the options, not of the clicks


def _segments(label: str, options: list[str], default: str, key: str) -> str:
    chosen: str = st.segmented_control(
        label, options, default=default, required=True, key=key, bind="query-params", wrap=False
    )
    return chosen


def _drawn() -> list[View]:
    """Return the views that the charts show now, in the charts' order."""
    lasts = [st.session_state.get(f"{_LAST_VIEW}{slot}", (None, None))[1] for slot in grid.slots()]
    return [one for one in lasts if isinstance(one, View)]


def _offered_symbols(source: PageSource, followed: Sequence[str]) -> list[str]:
    """Return the followed symbols, then others with stored trades.

    While PostgreSQL is away, the stored symbols are those of the last successful read.
    """
    try:
        stored = sorted(state.symbol for state in source.symbols())
    except StoreError:
        stored = st.session_state.get("stored_symbols", [])
    st.session_state["stored_symbols"] = stored
    return list(dict.fromkeys([*followed, *stored]))


@dataclass(frozen=True, slots=True)
class _Cell:
    """One chart, with its header and its trust strip (a row of health items), at one refresh."""

    source: PageSource
    selection: _Selection
    drawing: _Drawing
    strip: TrustStrip
    now: int

    def show(self) -> None:
        try:
            choice = self.selection.choice(self.source, self.now)
            warm_up = self.drawing.looks.warm_up
            view = look(self.source, choice, self.now, warm_up, is_followed=self.strip.is_followed)
            forecasts = self._forecasts(view)
        except StoreError as error:
            self._show_last_view(error)
            return
        st.session_state[f"{_LAST_VIEW}{self.drawing.slot}"] = (self.selection, view)
        st.session_state[_AWAY_SINCE] = None
        if isinstance(view, Nothing):
            self._say(view)
        else:
            paused = [f"Paused at {words.utc(self.now)}."] if self.strip.refresh_seconds is None else []
            self._draw(view, [*paused, *view.notices], forecasts, is_stale=False)

    def _forecasts(self, view: View | Nothing) -> Sequence[KeptForecast] | None:
        """Return the forecasts to draw; None unless the chart shows the shortest candles up to now."""
        if isinstance(view, Nothing) or view.period.is_past:
            return None
        if view.choice.bucket_seconds != self.drawing.finest_seconds:
            return None
        drawn = view.candles[0 if self.drawing.looks.past_forecasts else -1]
        return self.source.forecasts(view.choice.symbol, drawn.open_time)

    def _show_last_view(self, error: StoreError) -> None:
        """Draw the last view in grey, or a message if there is none; say since when PostgreSQL is away."""
        if st.session_state.get(_AWAY_SINCE) is None:
            st.session_state[_AWAY_SINCE] = self.now
            _LOG.warning("can't read candles, retrying at each refresh of the page: %s", error)
        since = words.utc(st.session_state[_AWAY_SINCE])
        last_selection, last = st.session_state.get(f"{_LAST_VIEW}{self.drawing.slot}", (None, None))
        if isinstance(last, View) and last_selection == self.selection:
            notice = f"PostgreSQL has been away since {since}. The chart shows old data until it is back."
            self._draw(last, [notice], None, is_stale=True)
        else:
            advice = f"Since {since}. Candles will appear here when it is back."
            self._say(Nothing("PostgreSQL is away", advice), is_away=True)

    def _draw(
        self,
        view: View,
        notices: Sequence[str],
        forecasts: Sequence[KeptForecast] | None,
        *,
        is_stale: bool,
    ) -> None:
        places = words.places(view.candles)
        st.html(_header(view, notices, places, is_stale=is_stale))
        self.strip.draw(None if is_stale else view, self.now)
        choice, looks = view.choice, self.drawing.looks
        price = words.price(view.candles[-1].close, places)
        chart.draw(
            figure(view.candles, choice.bucket_seconds, view.period, places, looks, view.before, forecasts),
            slot=self.drawing.slot,
            view=f"{choice.symbol}/{choice.bucket_seconds}/{choice.look_back_seconds}/{looks.is_log}",
            title=f"{price} {choice.symbol}" + (" SIMULATED" if self.drawing.is_simulated else ""),
            price_places=places,
            is_stale=is_stale,
            is_local=self.drawing.is_local,
        )

    def _say(self, nothing: Nothing, *, is_away: bool = False) -> None:
        """Draw the symbol without a price, then the trust strip, then a message instead of the chart."""
        chart.forget(self.drawing.slot)
        st.html(
            f'<div class="cf-header"><span class="cf-symbol">{escape(self.selection.symbol)}</span></div>'
        )
        self.strip.draw(None if is_away else nothing, self.now)
        st.html(
            f'<div class="cf-nothing" role="status"><h2>{escape(nothing.title)}</h2>'
            f"<p>{escape(nothing.advice)}</p></div>"
        )


def _header(view: View, notices: Sequence[str], decimal_places: int, *, is_stale: bool) -> str:
    """Return the header's HTML, as one element so that others don't move; ``is_stale`` highlights notices."""
    state, choice = view.symbol, view.choice
    change, sign = words.change(view.candles, decimal_places)
    direction = ("flat", "rising", "falling")[sign]
    kind = "away" if is_stale else "plain"
    lines = "".join(
        f'<p class="cf-notice cf-{kind}" role="status">{escape(notice)}</p>' for notice in notices
    )
    return f"""
<div class="cf-header">
  <span class="cf-symbol">{escape(state.symbol)}</span>
  <span class="cf-price">{escape(words.price(view.candles[-1].close, decimal_places))}</span>
  <span><span class="cf-change cf-{direction}">{escape(change)}</span>
    <span class="cf-over">{escape(_over(choice))}</span></span>
</div>{lines}"""


def _over(choice: Choice) -> str:
    return "overall" if choice.look_back_seconds is None else f"in {words.span(choice.look_back_seconds)}"
