"""A grid of up to four charts: one cell for each, laid out by ``assets/grid.css``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import streamlit as st

from candleflow.dashboard import symbols

_KEY: Final = "charts"
_COUNTS: Final = ("1", "2", "3", "4")


def count_control() -> None:
    """Draw the control for the number of charts."""
    st.segmented_control("Charts", _COUNTS, default=_COUNTS[0], required=True, key=_KEY, bind="query-params")


def slots() -> range:
    """Return the charts' numbers, from 1."""
    return range(1, int(st.session_state[_KEY]) + 1)


def cells(offered: Sequence[str], first: str) -> Iterator[tuple[int, str]]:
    """Open a cell for each chart; yield its number, from 1, and its symbol. The caller draws into the cell.

    The first chart shows the symbol ``first``; each other one has a picker of its own. A single chart has a
    cell too, so that it is not redrawn when a second one is added.
    """
    with st.container(key="grid"):
        for slot in slots():
            with st.container(key=f"cell{slot}"):
                # Outside the refreshed fragment: inside it, each refresh would send all symbols on offer.
                yield slot, first if slot == 1 else symbols.pick(offered, slot, label_visibility="collapsed")
