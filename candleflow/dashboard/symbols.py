"""Which symbols the charts show: the pickers, each bound to the address."""

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
    """The symbol of a chart, by default the ``slot``-th of those on offer; the picker filters as one types.

    One that the address asks for is on offer too, so that it stays there, and shows once it is stored.
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
    """Have the first chart show ``symbol``, from the next run of the page on.

    Not at once: Streamlit brings a value into the address only where it is set just before its picker.
    """
    st.session_state[_SWITCH_TO] = symbol


def is_switching() -> bool:
    """Whether the page is to run anew for a switch."""
    return _SWITCH_TO in st.session_state
