"""The page's process: Streamlit's server, health endpoints, and caching of static files.

``streamlit run dashboard.py`` serves the app that ``dashboard.py`` builds from these parts. It runs ``PAGE``
for every viewer and every change of a control. ``run`` executes that command, with the port of the settings.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import streamlit as st
from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from candleflow.dashboard.source import PageSource
from candleflow.errors import SettingError, StackError, StoreError
from candleflow.settings import Settings

_IN_WHEEL: Final = Path(__file__).parent / "app" / "dashboard.py"
"""Where the wheel has the repository's dashboard.py and .streamlit (pyproject.toml)."""
SCRIPT: Final = _IN_WHEEL if _IN_WHEEL.exists() else Path(__file__).parents[2] / "dashboard.py"
"""The script for ``streamlit run``. Streamlit reads ``.streamlit/config.toml`` beside it, from any working
folder."""
PAGE: Final = Path(__file__).with_name("script.py")
"""The script of the app that ``SCRIPT`` makes."""

LOCAL_HOSTS: Final = ("localhost", "127.0.0.1")
"""As in ``.streamlit/config.toml``. A command-line option replaces the list there, so it must repeat them."""

_FRESH: Final = {"Cache-Control": "no-store"}
_OURS: Final = "/component/candleflow."
_KEPT: Final = "public, immutable, max-age=31536000"
"""Cached for a year without revalidation (RFC 8246)."""


def run(settings: Settings) -> int:
    """Replace this process by Streamlit's server on ``settings.dashboard.port``.

    The server exits with status 0 after SIGTERM or Ctrl-C. Raises StackError if the port is taken.
    """
    _check_port(settings.dashboard.port)
    started = command(settings.dashboard.port, settings.dashboard.public_url)
    os.execv(sys.executable, started)  # nosec B606 # noqa: S606 - no shell is wanted


def command(port: int, public_url: str | None = None) -> list[str]:
    """Return the command that serves the page on 127.0.0.1:``port``, from any working folder.

    With ``public_url``, a browser may open the page through a proxy at that address, if the proxy passes
    ``Host`` on: Streamlit accepts a WebSocket whose Origin equals the Host, and whose Host is allowed.
    """
    served = [sys.executable, "-m", "streamlit", "run", str(SCRIPT), f"--server.port={port}"]
    if public_url is None:
        return served
    hosts = (*LOCAL_HOSTS, urlsplit(public_url).hostname)
    return [*served, *(f"--server.allowedHosts={host}" for host in hosts)]


def _check_port(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise StackError(
                f"port {port} is taken; set CANDLEFLOW_DASHBOARD_PORT to another for the page"
            ) from error


@asynccontextmanager
async def exit_with_status_zero(_: st.App) -> AsyncIterator[None]:
    """Make the process exit with status 0 after SIGTERM or SIGINT (the app's lifespan).

    After shutdown uvicorn raises the signal again, which would end the process with a failure status. This
    blocks that second signal.
    """
    yield
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})


# Health endpoints, as those of the other processes. Not coroutines: Starlette runs plain functions in
# threads, so a slow PostgreSQL doesn't block the event loop and all pages with it.


def _healthz(_: Request) -> PlainTextResponse:
    return _response(HTTPStatus.OK, "ok")  # an answer proves that the server and its threads work


def _readyz(_: Request) -> PlainTextResponse:
    try:
        PageSource().symbols()
    except SettingError:
        return _response(HTTPStatus.SERVICE_UNAVAILABLE, "waiting: a setting is wrong, the page says which")
    except StoreError:
        return _response(HTTPStatus.SERVICE_UNAVAILABLE, "waiting: for PostgreSQL's candles")
    return _response(HTTPStatus.OK, "running")


def _response(status: HTTPStatus, words: str) -> PlainTextResponse:
    return PlainTextResponse(f"{words}\n", status, _FRESH)


HEALTH: Final = (Route("/healthz", _healthz), Route("/readyz", _readyz))


class CacheVersionedFiles:
    """Middleware that lets browsers cache component files whose address has a version after ``?``.

    By default Streamlit's browser page fetches them with each load: 1.5 MB compressed, mostly Plotly.
    Browsers also cache the compiled code of cached scripts.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_versioned = scope["type"] == "http" and _OURS in scope["path"] and scope["query_string"]

        async def send_kept(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] == 200:
                MutableHeaders(scope=message)["Cache-Control"] = _KEPT
            await send(message)

        await self._app(scope, receive, send_kept if is_versioned else send)
