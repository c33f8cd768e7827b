"""The chart: a component of our own around Plotly.js.

``st.plotly_chart`` removes the chart from the page, with the viewer's zoom, each time its data change. This
component keeps one plot and hands it new data by ``Plotly.react``; ``assets/chart.js`` has the rest. Plotly's
4.8 MB come from the plotly wheel, once a page.
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
    """Draw ``figure``, or change the chart that is there into it.

    The viewer's zoom stays as long as ``view`` does. ``slot`` tells the charts of one page apart: 1 is the
    first, whose ``title`` becomes the browser's. ``is_stale`` greys the chart; ``is_local`` shows times in
    the browser's own zone.
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
    """Send the slot's next figure whole: there is no chart in it now."""
    component.forget(_key(slot))


def _key(slot: int) -> str:
    return f"chart{slot}"


@cache
def _plotly_path() -> str:
    """Where the page finds Plotly.js, relative to its own address."""
    served = declare_component("plotly_js", path=_PLOTLY_FOLDER)
    return f"component/{served.name}/plotly.min.js?{plotly.__version__}"
