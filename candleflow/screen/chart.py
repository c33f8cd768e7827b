"""The chart: a Streamlit v2 component around Plotly.js.

``st.plotly_chart`` removes the chart from the page, with the viewer's zoom, each time its data change. This
component keeps one plot and hands it new data by ``Plotly.react``; ``assets/chart.js`` has the rest.

A refresh sends what differs from a figure that the browser has (``patch.py``), and that figure is sent anew
now and then. Streamlit sends a component's own script again with every refresh, so that is three lines which
load ours, and Plotly's 4.8 MB from the plotly wheel, once a page from folders that Streamlit serves
(``declare_component`` is its public way to serve one).
"""

from __future__ import annotations

import hashlib
import json
import secrets
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

import plotly
import streamlit as st
from streamlit.components.v1 import declare_component
from streamlit.components.v2.types import ComponentRenderer

from candleflow.screen import patch

_ASSETS: Final = Path(__file__).parent / "assets"
_PLOTLY_FOLDER: Final = Path(plotly.__file__).parent / "package_data"
_HTML: Final = '<div class="cf-chart"></div>'
_LOADER: Final = """
const loading = import(new URL("%s", document.baseURI));
export default function (component) {
  let end;
  loading.then((chart) => { end = chart.default(component); });
  return () => end?.();
}
"""
_BASE: Final = "chart_base"
_PATCH_BYTES: Final = 3_000
"""A patch larger than so is the time for a new base: less often, patches grow; more often, bases weigh more.
For 361 candles, 60 KB, and 170 bytes for each that is new, the mean of both is least there."""


@dataclass(frozen=True, slots=True)
class _Base:
    """A figure that the viewer's browser has been sent whole."""

    base_id: str
    view: str
    figure: dict[str, Any]


def draw(
    figure: dict[str, Any], *, view: str, title: str, price_places: int, is_stale: bool, is_local: bool
) -> None:
    """Draw ``figure``, or change the chart that is there into it.

    The viewer's zoom stays as long as ``view`` does. ``is_stale`` greys the chart; ``is_local`` shows times
    in the browser's own zone; ``title`` becomes the browser's.
    """
    about = {
        "view": view,
        "title": title,
        "places": price_places,
        "is_stale": is_stale,
        "is_local": is_local,
        "plotly": _plotly_path(),
    }
    # As bytes: Streamlit looks through a dictionary for data frames, value by value, which took 118 ms of
    # processor time for 361 candles; this takes 1.4 ms.
    _component()(data=_encoded(about | _difference(figure, view)), key="chart", on_lost_change=forget)


def forget() -> None:
    """Send the next figure whole: the browser has lost what it was sent, or shows no chart now."""
    st.session_state.pop(_BASE, None)


def _difference(figure: dict[str, Any], view: str) -> dict[str, Any]:
    base: _Base | None = st.session_state.get(_BASE)
    if base is not None and base.view == view:
        change = patch.difference(base.figure, figure)
        if len(_encoded(change)) <= _PATCH_BYTES:
            return {"base": base.base_id, "patch": change}
    base = _Base(secrets.token_hex(4), view, figure)
    st.session_state[_BASE] = base
    return {"base": base.base_id, "figure": figure}


def _encoded(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":"), allow_nan=False).encode()


def _component() -> ComponentRenderer:
    return st.components.v2.component(
        "candleflow_chart", html=_HTML, js=_LOADER % _script_path(), isolate_styles=False
    )


@cache
def _script_path() -> str:
    """Where the page finds our script; the address changes when the script does."""
    served = declare_component("chart_js", path=_ASSETS)
    scripts = sorted(_ASSETS.glob("*.js"))
    version = hashlib.sha256(b"".join(script.read_bytes() for script in scripts)).hexdigest()[:12]
    return f"component/{served.name}/chart.js?{version}"


@cache
def _plotly_path() -> str:
    """Where the page finds Plotly.js, relative to its own address."""
    served = declare_component("plotly_js", path=_PLOTLY_FOLDER)
    return f"component/{served.name}/plotly.min.js?{plotly.__version__}"
