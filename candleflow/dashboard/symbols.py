"""The symbol pickers of the charts, each bound to the page's address."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal

import streamlit as st

from candleflow.market.symbol import is_symbol

_SWITCH_TO: Final = "switch_to"
_WIDTH: Final = 140


def pick(
    offered: Sequence[str], slot: int = 1, *, label_visibility: Literal["visible", "collapsed"] = "visible"
) -> str:
    """Draw a chart's symbol picker and return its symbol, by default the ``slot``-th of ``offered``.

    A symbol in the page's address is added to the options: its chart appears once trades of it are stored.
    """
    key = "symbol" if slot == 1 else f"symbol{slot}"
    if slot == 1 and is_switching():
        st.session_state[key] = st.session_state.pop(_SWITCH_TO)
    asked = st.session_state.get(key) or st.query_params.get(key, "")
    more = [asked] if is_symbol(asked) and asked not in offered else []
    picked: str = st.selectbox(
        "Symbol" if slot == 1 else f"Symbol of chart {slot}",
        [*offered, *more],
        index=(slot - 1) % len(offered),
        key=key,
        bind="query-params",
        width=_WIDTH,
        label_visibility=label_visibility,
    )
    return picked


def switch(symbol: str) -> None:
    """Make the first chart show ``symbol`` from the next run of the page on.

    Streamlit writes a value into the address only if it is set just before its widget, so ``pick`` sets it.
    """
    st.session_state[_SWITCH_TO] = symbol


def is_switching() -> bool:
    """Return whether a switch waits for the next run of the page."""
    return _SWITCH_TO in st.session_state
