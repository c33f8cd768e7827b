"""What a browser may keep: of Streamlit, its own scripts, but a component's are fetched anew with each page.

Those are 1.5 MB packed, Plotly above all; and what a browser keeps it also keeps compiled.
"""

from __future__ import annotations

from typing import Final

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_OURS: Final = "/component/candleflow."
_KEPT: Final = "public, immutable, max-age=31536000"
"""For a year, and never asked for again: RFC 8246."""


class KeepVersioned:
    """Middleware: files of our components may be kept where their address has a version, after a ``?``."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_versioned = scope["type"] == "http" and _OURS in scope["path"] and scope["query_string"]

        async def send_kept(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] == 200:
                MutableHeaders(scope=message)["Cache-Control"] = _KEPT
            await send(message)

        await self._app(scope, receive, send_kept if is_versioned else send)
