"""The strip of all followed symbols, with price, change and sparkline. A click switches the first chart.

``assets/market_strip.js`` draws it and updates its buttons in place.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import streamlit as st

from candleflow.dashboard import symbols
from candleflow.dashboard.component import LiveComponent
from candleflow.dashboard.quotes import quotes
from candleflow.dashboard.source import PageSource, now_us
from candleflow.errors import StoreError

_KEY: Final = "strip"
_LAST: Final = "last_quotes"
_STRIP: Final = LiveComponent(
    "candleflow_strip",
    html='<div class="cf-strip" role="group" aria-label="Symbols followed"></div>',
    script="market_strip.js",
)


def show(followed: Sequence[str], current: str, refresh_seconds: int | None) -> None:
    """Draw the strip of prices, with ``current`` marked, if two or more symbols are followed."""
    if len(followed) < 2:
        return

    source = PageSource()

    @st.fragment(run_every=refresh_seconds)
    def live() -> None:
        source.refresh()
        _draw(source, followed, current, now_us())
        if symbols.is_switching():
            st.rerun(scope="app")

    live()


def _draw(source: PageSource, followed: Sequence[str], current: str, now: int) -> None:
    try:
        shown = quotes(followed, source.symbols(), source.sparklines(), now)
        is_away = False
    except StoreError:  # the chart below shows the error
        shown = st.session_state.get(_LAST) or quotes(followed, [], {}, now)
        is_away = True
    st.session_state[_LAST] = shown
    _STRIP.draw(
        shown,
        key=_KEY,
        view=_KEY,
        about={"current": current, "is_away": is_away},
        on_picked_change=lambda: _switch(followed),
    )


def _switch(followed: Sequence[str]) -> None:
    picked = st.session_state[_KEY]["picked"]
    if picked in followed:  # the value comes from the browser and is untrusted
        symbols.switch(picked)
