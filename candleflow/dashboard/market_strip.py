"""The strip of all followed symbols: price, change and last day of each; one click switches the first chart.

A component of our own; ``assets/market_strip.js`` changes its buttons in place.
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
    """Show the strip, ``current`` marked in it; nothing where one symbol alone is followed."""
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
    except StoreError:  # the chart below says so
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
    if picked in followed:  # what a browser sends may be anything
        symbols.switch(picked)
