"""The menu to download what is shown from.

The files are made when it is opened, of the candles drawn then, so a refresh makes none, and name and content
agree. Streamlit can make a file as late as the click (``data`` as a callable), but lets go of such a one at
the second end of any viewer's refresh: with fifty pages that is 40 ms later, before a browser may have come
for it (``MediaFileManager.remove_orphaned_files`` in 1.67).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import streamlit as st

from candleflow.dashboard import words
from candleflow.dashboard.download import FORMATS, Export
from candleflow.dashboard.view import View


@st.fragment
def menu(shown: Callable[[], Sequence[View]], *, is_simulated: bool) -> None:
    """A button that opens to one for each file; ``shown`` says what is drawn. The chart isn't run again."""
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
    st.caption(f"{export.symbol}: {len(export.candles):,} candles of {length}, as drawn just now")
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
