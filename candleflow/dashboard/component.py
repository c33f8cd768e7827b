"""Streamlit v2 components that stay on the page across refreshes and receive only changes.

A refresh sends the difference from a value that the browser has (``delivery.py``). Streamlit sends a
component's script again with every refresh. Therefore that script is a two-line loader: it imports the real
script, once a page, from a folder that Streamlit serves (``declare_component`` is its public API for that).
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
# Short, as Streamlit sends it with every refresh. It runs without an address of its own, so a relative import
# would fail: it builds the whole address.
_LOADER: Final = (
    'const s=import(new URL("%s",document.baseURI));\n'  # Streamlit takes text without a newline for a path
    "export default c=>{let end;s.then(m=>{end=m.default(c)});return()=>end?.()}"
)


@dataclass(frozen=True, slots=True)
class LiveComponent:
    """A component: its ``script`` in ``assets/`` draws it into the element ``html``."""

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
        """Draw ``value``, or update the component at ``key`` to it.

        The first value of a ``view`` is sent whole, later ones as differences; ``about`` is sent each time.
        ``on_picked_change`` is called when the viewer picks something: ``st.session_state[key]["picked"]``.
        """
        # As bytes: in a dictionary Streamlit searches every value for data frames, 118 ms of CPU time for 361
        # candles; this takes 1.4 ms.
        data = encoded(about | _delivery(key, view).message(value))
        self._renderer()(
            data=data, key=key, on_lost_change=partial(forget, key), on_picked_change=on_picked_change
        )

    def _renderer(self) -> ComponentRenderer:
        return st.components.v2.component(
            self.name, html=self.html, js=_LOADER % _script_path(self.script), isolate_styles=False
        )


def forget(key: str) -> None:
    """Send the next value at ``key`` whole: the browser no longer has the one that differences refer to."""
    st.session_state.pop(_delivery_key(key), None)


def _delivery(key: str, view: str) -> Delivery:
    """Return the record of what was sent to ``key``; a new one if the view changed."""
    found: Delivery | None = st.session_state.get(_delivery_key(key))
    if found is None or found.view != view:
        found = st.session_state[_delivery_key(key)] = Delivery(view)
    return found


def _delivery_key(key: str) -> str:
    return f"{key}_delivery"


@cache
def _script_path(script: str) -> str:
    """Return the script's address, relative to the page's; its version changes with any of our scripts."""
    served = declare_component("scripts", path=ASSETS)
    scripts = sorted(ASSETS.glob("*.js"))
    version = hashlib.sha256(b"".join(one.read_bytes() for one in scripts)).hexdigest()[:8]
    return f"component/{served.name}/{script}?{version}"
