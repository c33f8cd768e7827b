"""The chart: a Streamlit component around Plotly.js that keeps the viewer's zoom.

``st.plotly_chart`` replaces the chart, and loses the zoom, each time its data change. This component keeps
one plot and updates it with ``Plotly.react`` (``assets/chart.js``). Plotly.js (4.8 MB) is served from the
plotly wheel, once a page.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, Final

import plotly
from streamlit.components.v1 import declare_component

from candleflow.dashboard import component

_PLOTLY_FOLDER: Final = Path(plotly.__file__).parent / "package_data"
_CHART: Final = component.LiveComponent(
    "candleflow_chart", html='<div class="cf-chart"></div>', script="chart.js"
)


def draw(
    figure: dict[str, Any],
    *,
    slot: int,
    view: str,
    title: str,
    price_places: int,
    is_stale: bool,
    is_local: bool,
) -> None:
    """Draw ``figure``, or update the chart that is there.

    The viewer's zoom stays while ``view`` stays the same. ``slot`` is the chart's number on the page, from 1;
    the first chart's ``title`` becomes the browser tab's. ``is_stale`` draws the chart in grey. ``is_local``
    shows times in the browser's time zone.
    """
    about = {
        "slot": slot,
        "view": view,
        "title": title,
        "places": price_places,
        "is_stale": is_stale,
        "is_local": is_local,
        "plotly": _plotly_path(),
    }
    _CHART.draw(figure, key=_key(slot), view=view, about=about)


def forget(slot: int) -> None:
    """Send the slot's next figure whole, as the slot shows no chart now."""
    component.forget(_key(slot))


def _key(slot: int) -> str:
    return f"chart{slot}"


@cache
def _plotly_path() -> str:
    """Return the address of Plotly.js, relative to the page's."""
    served = declare_component("plotly_js", path=_PLOTLY_FOLDER)
    return f"component/{served.name}/plotly.min.js?{plotly.__version__}"
