"""Components of our own: Streamlit v2 components that are kept on the page, and fed what has changed.

A refresh sends what differs from a value that the browser has (``delivery.py``). Streamlit sends the script
of a component again with every refresh, so that is a few lines which load ours, once a page, from a folder
that Streamlit serves (``declare_component`` is its public way to serve one).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, Final

import streamlit as st
from streamlit.components.v1 import declare_component
from streamlit.components.v2.types import ComponentRenderer

from candleflow.dashboard.delivery import Delivery, encoded

ASSETS: Final = Path(__file__).parent / "assets"
# Short, as it is sent each time. Given as text, it can't import by a relative address, and makes a whole one.
_LOADER: Final = (
    'const s=import(new URL("%s",document.baseURI));\n'  # without a line's end it would be taken for a path
    "export default c=>{let end;s.then(m=>{end=m.default(c)});return()=>end?.()}"
)


@dataclass(frozen=True, slots=True)
class LiveComponent:
    """One kind of component: the ``script`` of ``assets/`` that draws it into ``html``."""

    name: str
    html: str
    script: str

    def draw(
        self,
        value: Any,
        *,
        key: str,
        view: str,
        about: dict[str, Any],
        on_picked_change: Callable[[], None] | None = None,
    ) -> None:
        """Draw ``value``, or change what is drawn at ``key`` into it.

        A value of another ``view`` is sent whole; ``about`` always. ``on_picked_change`` is called when the
        script says what the viewer has picked: ``st.session_state[key]["picked"]``.
        """
        # As bytes: Streamlit looks through a dictionary for data frames, value by value, which took 118 ms of
        # processor time for 361 candles; this takes 1.4 ms.
        data = encoded(about | _delivery(key, view).message(value))
        self._renderer()(
            data=data, key=key, on_lost_change=partial(forget, key), on_picked_change=on_picked_change
        )

    def _renderer(self) -> ComponentRenderer:
        return st.components.v2.component(
            self.name, html=self.html, js=_LOADER % _script_path(self.script), isolate_styles=False
        )


def forget(key: str) -> None:
    """Send the next value at ``key`` whole: the browser has lost what it was sent, or shows nothing now."""
    st.session_state.pop(_delivery_key(key), None)


def _delivery(key: str, view: str) -> Delivery:
    """What has been sent to ``key``; of another view nothing has."""
    found: Delivery | None = st.session_state.get(_delivery_key(key))
    if found is None or found.view != view:
        found = st.session_state[_delivery_key(key)] = Delivery(view)
    return found


def _delivery_key(key: str) -> str:
    return f"{key}_delivery"


@cache
def _script_path(script: str) -> str:
    """Where the page finds our script; the address changes when any of our scripts does."""
    served = declare_component("scripts", path=ASSETS)
    scripts = sorted(ASSETS.glob("*.js"))
    version = hashlib.sha256(b"".join(one.read_bytes() for one in scripts)).hexdigest()[:8]
    return f"component/{served.name}/{script}?{version}"
