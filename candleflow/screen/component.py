"""Components of our own: Streamlit v2 components that are kept on the page, and fed what has changed.

A refresh sends what differs from a value that the browser has (``patch.py``), and that value is sent anew now
and then. Streamlit sends a component's own script again with every refresh, so that is a few lines which load
ours, once a page, from a folder that Streamlit serves (``declare_component`` is its public way to serve one).
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, Final

import streamlit as st
from streamlit.components.v1 import declare_component
from streamlit.components.v2.types import ComponentRenderer

from candleflow.screen import patch

ASSETS: Final = Path(__file__).parent / "assets"
# Short, as it is sent each time. Given as text, it can't import by a relative address, and makes a whole one.
_LOADER: Final = (
    'const s=import(new URL("%s",document.baseURI));\n'  # without a line's end it would be taken for a path
    "export default c=>{let end;s.then(m=>{end=m.default(c)});return()=>end?.()}"
)


@dataclass(frozen=True, slots=True)
class _Base:
    """A value that the viewer's browser has been sent whole."""

    base_id: str
    view: str
    whole: Any


@dataclass(frozen=True, slots=True)
class LiveComponent:
    """One kind of component: the ``script`` of ``assets/`` that draws it into ``html``.

    ``patch_bytes``: a patch larger than so is the time to send the value whole again.
    """

    name: str
    html: str
    script: str
    patch_bytes: int

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
        data = _encoded(about | self._difference(value, key, view))
        self._renderer()(
            data=data, key=key, on_lost_change=partial(forget, key), on_picked_change=on_picked_change
        )

    def _difference(self, value: Any, key: str, view: str) -> dict[str, Any]:
        base: _Base | None = st.session_state.get(_base_key(key))
        if base is not None and base.view == view:
            change = patch.difference(base.whole, value)
            if len(_encoded(change)) <= self.patch_bytes:
                return {"base": base.base_id, "patch": change}
        base = _Base(secrets.token_hex(4), view, value)
        st.session_state[_base_key(key)] = base
        return {"base": base.base_id, "whole": value}

    def _renderer(self) -> ComponentRenderer:
        return st.components.v2.component(
            self.name, html=self.html, js=_LOADER % _script_path(self.script), isolate_styles=False
        )


def forget(key: str) -> None:
    """Send the next value at ``key`` whole: the browser has lost what it was sent, or shows nothing now."""
    st.session_state.pop(_base_key(key), None)


def _base_key(key: str) -> str:
    return f"{key}_base"


def _encoded(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":"), allow_nan=False).encode()


@cache
def _script_path(script: str) -> str:
    """Where the page finds our script; the address changes when any of our scripts does."""
    served = declare_component("scripts", path=ASSETS)
    scripts = sorted(ASSETS.glob("*.js"))
    version = hashlib.sha256(b"".join(one.read_bytes() for one in scripts)).hexdigest()[:8]
    return f"component/{served.name}/{script}?{version}"
