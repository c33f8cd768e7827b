"""``/healthz`` and ``/readyz`` of the page, at its own port, as the other processes have them at theirs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from http import HTTPStatus
from typing import Final

from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from candleflow.errors import SettingError, StoreError

_FRESH: Final = {"Cache-Control": "no-store"}


def routes(ask_store: Callable[[], object]) -> Sequence[Route]:
    """Both pages; ``ask_store`` raises StoreError while PostgreSQL doesn't answer, and may take its time."""

    def healthz(_: Request) -> PlainTextResponse:
        return _said(HTTPStatus.OK, "ok")  # it can be said: so the server and its threads do their work

    def readyz(_: Request) -> PlainTextResponse:
        try:
            ask_store()
        except SettingError:
            return _said(HTTPStatus.SERVICE_UNAVAILABLE, "waiting: a setting is wrong, the page says which")
        except StoreError:
            return _said(HTTPStatus.SERVICE_UNAVAILABLE, "waiting: for PostgreSQL's candles")
        return _said(HTTPStatus.OK, "running")

    # No coroutines: Starlette runs them in threads, and nobody's page waits for PostgreSQL.
    return [Route("/healthz", healthz), Route("/readyz", readyz)]


def _said(status: HTTPStatus, words: str) -> PlainTextResponse:
    return PlainTextResponse(f"{words}\n", status, _FRESH)
