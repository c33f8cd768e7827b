"""Several charts on one page: a cell for each, laid out by ``assets/grid.css``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import streamlit as st

from candleflow.dashboard import symbols

_KEY: Final = "charts"
_COUNTS: Final = ("1", "2", "3", "4")


def count_control() -> None:
    """How many charts the viewer wants."""
    st.segmented_control("Charts", _COUNTS, default=_COUNTS[0], required=True, key=_KEY, bind="query-params")


def slots() -> range:
    """The places of the charts, from 1."""
    return range(1, int(st.session_state[_KEY]) + 1)


def cells(offered: Sequence[str], first: str) -> Iterator[tuple[int, str]]:
    """The place, from 1, and the symbol of each chart; what is drawn meanwhile is in its cell.

    The first shows the symbol ``first``; each further one has a picker of its own. The cells are there for a
    single chart too, so that the first stays as it is when another comes.
    """
    with st.container(key="grid"):
        for slot in slots():
            with st.container(key=f"cell{slot}"):
                # Not in the part that is refreshed: that would send every symbol on offer each time.
                yield slot, first if slot == 1 else symbols.pick(offered, slot, label_visibility="collapsed")
