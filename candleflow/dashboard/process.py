"""The page's process: Streamlit's server, its health pages, and what browsers may keep of what it sends.

``streamlit run dashboard.py`` serves the app that ``dashboard.py`` makes of these parts. It runs ``PAGE`` for
every viewer and every change of a control. ``run`` becomes that very command, on the port of the settings.
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
"""Where a wheel has the repository's dashboard.py and .streamlit (pyproject.toml)."""
SCRIPT: Final = _IN_WHEEL if _IN_WHEEL.exists() else Path(__file__).parents[2] / "dashboard.py"
"""Its neighbour ``.streamlit/config.toml`` goes with it, whatever folder the command is run in."""
PAGE: Final = Path(__file__).with_name("script.py")
"""The script of the app that ``SCRIPT`` makes."""

LOCAL_HOSTS: Final = ("localhost", "127.0.0.1")
"""As in ``.streamlit/config.toml``: an option of the command stands in place of those there."""

_FRESH: Final = {"Cache-Control": "no-store"}
_OURS: Final = "/component/candleflow."
_KEPT: Final = "public, immutable, max-age=31536000"
"""For a year, and never asked for again: RFC 8246."""


def run(settings: Settings) -> int:
    """Become Streamlit's server on ``settings.dashboard.port``. Its exit status is 0 after SIGTERM or Ctrl-C.

    Raises StackError if the port is taken.
    """
    _check_port(settings.dashboard.port)
    started = command(settings.dashboard.port, settings.dashboard.public_url)
    os.execv(sys.executable, started)  # nosec B606 # noqa: S606 - no shell is wanted


def command(port: int, public_url: str | None = None) -> list[str]:
    """The command that serves the page on ``port`` of 127.0.0.1, from any working folder.

    A browser at ``public_url`` may open the page's WebSocket too, through a proxy that passes ``Host`` on:
    Streamlit takes an Origin that is the same as the Host, and a Host that is allowed.
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
                f"port {port} is taken; CANDLEFLOW_DASHBOARD_PORT chooses another for the page"
            ) from error


@asynccontextmanager
async def exit_with_status_zero(_: st.App) -> AsyncIterator[None]:
    """The app's lifespan: a stop that was asked for ends with status 0.

    Having stopped, uvicorn sends itself the signal once more, which would end the process as if by a failure.
    """
    yield
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})


# Health, as the other processes tell of theirs. No coroutines: Starlette runs these in threads, so that no
# page waits for PostgreSQL.


def _healthz(_: Request) -> PlainTextResponse:
    return _said(HTTPStatus.OK, "ok")  # that it answers shows that the server and its threads work


def _readyz(_: Request) -> PlainTextResponse:
    try:
        PageSource().symbols()
    except SettingError:
        return _said(HTTPStatus.SERVICE_UNAVAILABLE, "waiting: a setting is wrong, the page says which")
    except StoreError:
        return _said(HTTPStatus.SERVICE_UNAVAILABLE, "waiting: for PostgreSQL's candles")
    return _said(HTTPStatus.OK, "running")


def _said(status: HTTPStatus, words: str) -> PlainTextResponse:
    return PlainTextResponse(f"{words}\n", status, _FRESH)


HEALTH: Final = (Route("/healthz", _healthz), Route("/readyz", _readyz))


class CacheVersionedFiles:
    """Middleware: a browser may keep files of our components whose address has a version, after a ``?``.

    Streamlit has a component's files fetched anew with each page: 1.5 MB packed, Plotly above all. What a
    browser keeps, it also keeps compiled.
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
