"""The download menu: the candles shown as CSV or Parquet.

Opening the menu makes the files, from the candles drawn at that moment. Streamlit can also make a file at the
click (``data`` as a callable), but deletes it when the second refresh of any viewer ends. With fifty viewers
that is after 40 ms, possibly before the browser fetches it
(``MediaFileManager.remove_orphaned_files`` in Streamlit 1.67).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import streamlit as st

from candleflow.dashboard import words
from candleflow.dashboard.download import FORMATS, Export
from candleflow.dashboard.view import View


@st.fragment
def menu(shown: Callable[[], Sequence[View]], *, is_simulated: bool) -> None:
    """Draw the menu. ``shown`` returns the views on the page. Opening the menu doesn't redraw the charts."""
    opener = st.popover("Data", key="download", on_change="rerun")
    if not opener.open:
        return
    with opener:
        views = shown()
        for place, view in enumerate(views):
            choice = view.choice
            _files(place, Export(choice.symbol, choice.bucket_seconds, view.candles, is_simulated))
        if not views:
            st.caption("No candles are shown.")


def _files(place: int, export: Export) -> None:
    length = words.span(export.bucket_seconds)
    st.caption(
        f"{export.symbol}: {len(export.candles):,} candles of {length}, as shown when this menu opened"
    )
    with st.container(horizontal=True):
        for name, (ending, mime, written) in FORMATS.items():
            st.download_button(
                name,
                written(export),
                export.file_name(ending),
                mime,
                key=f"{ending}-{place}",
                on_click="ignore",
            )
